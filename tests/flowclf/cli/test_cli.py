"""The command line: what it prints, what it leaves behind, and what becomes of mistakes."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flowclf.cli.app import run
from flowclf.runs import Run

QUICK = (
    "--set", "network={kind: mlp, blocks: 1, hidden: [16]}",
    "--set", "data.train_size=1200", "--set", "data.test_size=60", "--epochs", "1",
)  # fmt: skip
Command = Callable[..., Any]


@pytest.fixture(autouse=True)
def in_a_new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_help_is_quick_to_ask_for() -> None:
    code = (
        "import sys; from flowclf.cli.app import run; run(['--help']); run(['train', '--help']);"
        "bad = {'torch', 'lightning', 'matplotlib', 'sklearn', 'ray'} & set(sys.modules);"
        "sys.exit(f'imported {bad}' if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)


def test_train_json_is_one_document_and_the_run_is_complete(document: Command) -> None:
    result = document("train", "ib-inn", "--beta", "2", "--seed", "3", *QUICK)
    folder = Path(result["run"])
    assert folder == Path("runs/ib-inn-digits-001")
    assert (result["system"], result["data"], result["seed"]) == ("ib-inn", "digits", 3)
    assert {"accuracy", "ece", "bits_per_dim"} <= result["test"].keys()
    names = [row["system"] for row in result["baselines"]]
    assert names == ["QDA", "logistic regression", "Gaussian"]
    # One epoch is too few, and so it is said.
    assert any("QDA classifies better" in line for line in result["warnings"])
    assert "beta: 2.0" in (folder / "config.yaml").read_text()
    files = ("metrics.jsonl", "model.safetensors", "summary.json", "checkpoint/state.safetensors")
    assert all((folder / name).exists() for name in files)
    assert all(Path(path).stat().st_size > 1000 for path in result["figures"])


def test_evaluate_agrees_with_the_summary_prints_a_table_and_obeys_the_suites(
    trained: Path, document: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    result = document("evaluate", trained, "--device", "cpu")
    summary = json.loads((trained / "summary.json").read_text())["test"]
    assert {name: result[name] for name in summary} == summary
    assert run(["evaluate", str(trained)]) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("accuracy", "ECE (15 bins)", "bits/dim", "accuracy of 7"))
    assert "bits_per_dim" not in document("evaluate", trained, "--suite", "calibration")


@pytest.mark.parametrize("verb", ["systems", "datasets"])
def test_listings(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([verb]) == 0
    assert run([verb, "--json"]) == 0
    out = capsys.readouterr().out
    assert "ib-inn" in out or "fashion-mnist" in out


def test_a_table_of_the_users_own(document: Command, refused: Command) -> None:
    y = np.arange(120) % 3
    x = np.random.default_rng(0).normal(size=(120, 4)) + 3 * np.eye(4)[y]
    np.savez("own.npz", x_train=x[:90], y_train=y[:90], x_test=x[90:], y_test=y[90:])
    options = ["--epochs", "20", "--set", "network.hidden=16"]
    result = document("train", "ib-inn", "--data", "own.npz", *options)
    assert result["test"]["accuracy"] > 0.8
    document("evaluate", result["run"])
    assert "on a table" in refused("sample", result["run"], "--out", "grid.png")


def test_a_csv_of_numbers_and_categories(document: Command, refused: Command) -> None:
    """Trained on, evaluated, and asked about new rows, with the names of its columns."""
    rng = np.random.default_rng(0)
    kinds, widths = rng.choice(["oak", "elm"], 90), rng.normal(size=90)
    labels = np.where(widths + (kinds == "oak") > 0.5, "yes", "no")
    rows = [
        f"{i},{w:.4f},{k},{y}"
        for i, (w, k, y) in enumerate(zip(widths, kinds, labels, strict=True))
    ]
    Path("trees.csv").write_text("id,width,kind,cut\n" + "\n".join(rows))
    quick = ["--epochs", "20", "--no-baselines"]
    wanted = ["--set", "data.target=cut", "--set", "data.drop=id", "--out", "run"]
    result = document("train", "ib-inn", "--data", "trees.csv", *wanted, *quick)
    assert result["test"]["accuracy"] > 0.6
    facts = Run(Path("run")).read_config()[1]
    assert facts.feature_names == ("width", "kind=elm", "kind=oak")
    assert facts.class_names == ("no", "yes")
    assert document("evaluate", "run")["accuracy"] == result["test"]["accuracy"]
    Path("new.csv").write_text("kind,width\noak,5\nelm,-5\n")
    decided = document(
        "decide", "run", "--input", "new.csv", *("--false-alarm", "0.2", "--coverage", "0.8")
    )
    assert [row["label"] for row in decided] == ["yes", "no"]
    line = refused("train", "ib-inn", "--data", "trees.csv", "--out", "other")
    assert "of a table of numbers and categories give data.target" in line


def test_a_folder_of_photographs_as_it_is(
    document: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without train and test, and of sizes that differ."""
    for number in range(20):
        image = Image.new("RGB", (20 + number % 3, 16), (200 * (number % 2), 0, 0))
        path = Path("photos", "ab"[number % 2], f"{number}.jpg")
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    # The network of images has a width, that of tables has none.
    wide = ["--set", "network.width=[4,4,4]", "--set", "network.blocks=[1,1,1]"]
    options = ["--out", "run", *wide]
    assert run(["train", "ib-inn", "--data", "photos", "--epochs", "1", *options]) == 0
    said = capsys.readouterr()
    assert "were cropped to the centre and made 16×16" in said.err
    assert "4 of 20 samples were drawn for the test" in said.err
    assert "few training samples of a (8), b (8)" in said.out
    assert document("evaluate", "run")["accuracy"] >= 0


def test_training_without_data_says_what_it_trains_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "ib-inn", "--no-baselines", *QUICK]) == 0
    assert "note: no --data was given, so this trains on digits" in capsys.readouterr().err


SMALL = ("--data", "digits", "--no-baselines", "--device", "cpu", *QUICK)


def test_quiet_says_nothing_and_verbose_tells_every_epoch(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["train", "ib-inn", *SMALL, "--quiet"]) == 0
    said = capsys.readouterr()
    assert (said.err, "accuracy" in said.out) == ("", True)
    assert run(["train", "ib-inn", *SMALL, "--verbose", "--epochs", "2"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("epoch ")] == ["1", "2"]
    assert lines[-1].endswith("evaluating 60 test samples …")


def test_a_dry_run_tells_what_a_training_takes_and_writes_nothing(
    document: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = document("train", "ib-inn", *SMALL, "--epochs", "100", "--dry-run")
    assert (plan["steps"], plan["epochs"], plan["batch_size"]) == (1800, 100, 64)
    assert 0 < plan["seconds_per_step"] < 1
    assert plan["seconds"] == pytest.approx(1800 * plan["seconds_per_step"])
    assert plan["parameters"] > 1000
    # The products of a coupling's network alone: three times those of its forward pass.
    assert plan["flops"] > 3 * 2 * 64 * 16 * 64
    assert 2**20 < plan["memory"] < 2**37
    assert run(["train", "ib-inn", *SMALL, "--dry-run"]) == 0
    assert "time to the end" in capsys.readouterr().out
    assert [*Path().iterdir()] == []


def test_shells_can_complete(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    assert "--install-completion" in capsys.readouterr().out


def test_a_table_of_one_column(document: Command) -> None:
    y = np.arange(200) % 2
    x = np.random.default_rng(0).normal(size=(200, 1)) + 6 * y[:, None]
    np.savez("one.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    result = document("train", "ib-inn", "--data", "one.npz", "--epochs", "30")
    assert result["test"]["accuracy"] > 0.95


def test_a_folder_of_images(document: Command) -> None:
    rng = np.random.default_rng(0)
    for split, k in product(("train", "test"), range(3)):
        (Path("own") / split / f"c{k}").mkdir(parents=True)
        for n in range(4):
            pixels = rng.integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(f"own/{split}/c{k}/{n}.png")
    assert document("train", "ib-inn", "--data", "own", "--epochs", "1")["preset"] == "image"


def test_a_config_file_and_a_runs_own_config_can_be_trained_again(
    trained: Path, document: Command
) -> None:
    options = ["--config", trained / "config.yaml", "--out", "again", "--device", "cpu"]
    again = document("train", "ib-inn", *options)["test"]
    assert again == json.loads((trained / "summary.json").read_text())["test"]


@pytest.mark.parametrize(
    ("file", "content", "word"),
    [
        ("model.safetensors", b"", "damaged"),
        ("model.safetensors", b"\x10" * 100, "damaged"),
        ("config.yaml", b"system: [", "damaged"),
        ("config.yaml", b"system: ib-inn\n", "damaged"),
        ("config.yaml", None, "was edited"),
    ],
    ids=["empty weights", "no safetensors", "no YAML", "half a config", "another width"],
)
def test_a_damaged_run_is_refused(
    copy: Path, refused: Command, file: str, content: bytes | None, word: str
) -> None:
    wider = (copy / file).read_bytes().replace(b"- 16\n", b"- 17\n")
    (copy / file).write_bytes(wider if content is None else content)
    assert word in refused("evaluate", copy)


def test_ctrl_c_saves_and_resume_finishes(refused: Command) -> None:
    start = [sys.executable, "-m", "flowclf", "train", "ib-inn", "--data", "digits"]
    command = [*start, "--out", "run", *QUICK[:-1]]
    with subprocess.Popen([*command, "60"], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        process.stderr.readline()  # the first line of progress
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        message = process.stderr.read().splitlines()[-1]
    assert process.returncode == 1
    assert "flowclf train --resume run" in message
    assert Path("run/checkpoint/state.safetensors").exists()
    assert "--resume run" in refused("evaluate", "run")


@pytest.mark.parametrize("options", [[], ["ib-inn", "--data", "digits", "--epochs", "1"]])
def test_a_finished_run_can_be_resumed_and_stays_what_it_is(
    trained: Path, options: list[str], document: Command
) -> None:
    before = (trained / "model.safetensors").read_bytes()
    resumed = document("train", *options, "--resume", trained, "--device", "cpu")
    assert resumed["run"] == str(trained)
    assert (trained / "model.safetensors").read_bytes() == before


def test_evaluations_of_several_runs_are_one_table_and_stay_with_them(
    trained: Path, tmp_path: Path, document: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    copies = [shutil.copytree(trained, tmp_path / name) for name in ("one", "two")]
    paths = [str(copy) for copy in copies]
    options = ["--suite", "accuracy,ood", "--outliers", "inverted", "--device", "cpu"]
    assert run(["evaluate", *paths, *options]) == 0
    text = capsys.readouterr().out
    assert "logistic regression" in text
    assert "typicality" in text
    first = json.loads((copies[1] / "evaluation.json").read_text())
    assert {"accuracy", "ood", "versions"} < first.keys()
    both = document("evaluate", *paths, "--suite", "accuracy", "--device", "cpu")
    assert [each["accuracy"] for each in both] == [first["accuracy"]] * 2
    kept = json.loads((copies[1] / "evaluation.json").read_text())
    assert kept["ood"] == first["ood"]
