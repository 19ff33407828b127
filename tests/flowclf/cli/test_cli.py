"""The command line: what it prints, what it leaves behind, and what becomes of mistakes."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flowclf.cli.app import run

QUICK = (
    "--set", "network={kind: mlp, blocks: 1, hidden: [16]}",
    "--set", "data.train_size=1200", "--set", "data.test_size=60", "--epochs", "1",
)  # fmt: skip


@pytest.fixture(autouse=True)
def in_a_new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "run"
    assert run(["train", "ib-inn", "--out", str(folder), *QUICK, "--device", "cpu"]) == 0
    return folder


def stderr_line(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("flowclf: ")
    return lines[0]


def test_help_is_quick_to_ask_for() -> None:
    code = (
        "import sys; from flowclf.cli.app import run; run(['--help']); run(['train', '--help']);"
        "bad = {'torch', 'lightning', 'matplotlib', 'sklearn', 'ray'} & set(sys.modules);"
        "sys.exit(f'imported {bad}' if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)


def test_train_json_is_one_document_and_the_run_is_complete(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["train", "ib-inn", "--beta", "2", "--seed", "3", *QUICK, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    folder = Path(result["run"])
    assert folder == Path("runs/ib-inn-digits-001")
    assert (result["system"], result["data"], result["seed"]) == ("ib-inn", "digits", 3)
    assert {"accuracy", "ece", "bits_per_dim"} <= result["test"].keys()
    assert [row["system"] for row in result["baselines"]] == ["QDA", "logistic regression"]
    assert "beta: 2.0" in (folder / "config.yaml").read_text()
    for name in (
        "metrics.jsonl",
        "model.safetensors",
        "summary.json",
        "checkpoint/state.safetensors",
    ):
        assert (folder / name).exists()
    assert all(Path(path).stat().st_size > 1000 for path in result["figures"])


def test_evaluate_agrees_with_the_summary(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["evaluate", str(trained), "--json", "--device", "cpu"]) == 0
    result = json.loads(capsys.readouterr().out)
    summary = json.loads((trained / "summary.json").read_text())["test"]
    assert {name: result[name] for name in summary} == summary


def test_evaluate_prints_a_table_and_obeys_the_suites(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["evaluate", str(trained)]) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("accuracy", "ECE (15 bins)", "bits/dim", "accuracy of 7"))
    assert run(["evaluate", str(trained), "--suite", "calibration", "--json"]) == 0
    assert "bits_per_dim" not in json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    "arguments",
    [
        "sample --per-class 2",
        "sample --temperature 0.4,1 --per-class 2",
        "interpolate --pairs 3 --steps 4",
        "interpolate . --pairs 2 --steps 3",  # two runs side by side
        "interpolate --between means --pairs 2 --steps 3",
        "interpolate --between classes --classes 4-9,3-5 --steps 3",
        "interpolate --between classes --pairs 2 --steps 3",
    ],
)
def test_pictures_are_written(
    trained: Path, arguments: str, capsys: pytest.CaptureFixture[str]
) -> None:
    verb, *options = arguments.replace(" . ", f" {trained} ").split()
    assert run([verb, str(trained), *options, "--out", "new/picture.png", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"figure": "new/picture.png"}
    with Image.open("new/picture.png") as picture:
        assert picture.width > 100


@pytest.mark.parametrize("verb", ["systems", "datasets"])
def test_listings(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([verb]) == 0
    assert run([verb, "--json"]) == 0
    out = capsys.readouterr().out
    assert "ib-inn" in out or "fashion-mnist" in out


def test_a_table_of_the_users_own(capsys: pytest.CaptureFixture[str]) -> None:
    y = np.arange(120) % 3
    x = np.random.default_rng(0).normal(size=(120, 4)) + 3 * np.eye(4)[y]
    np.savez("own.npz", x_train=x[:90], y_train=y[:90], x_test=x[90:], y_test=y[90:])
    options = ["--epochs", "20", "--set", "network.hidden=16"]
    assert run(["train", "ib-inn", "--data", "own.npz", *options, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["test"]["accuracy"] > 0.8
    assert run(["evaluate", result["run"], "--json"]) == 0
    capsys.readouterr()
    assert run(["sample", result["run"], "--out", "grid.png"]) == 2
    assert "on a table" in stderr_line(capsys)


def test_a_table_of_one_column(capsys: pytest.CaptureFixture[str]) -> None:
    y = np.arange(200) % 2
    x = np.random.default_rng(0).normal(size=(200, 1)) + 6 * y[:, None]
    np.savez("one.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    assert run(["train", "ib-inn", "--data", "one.npz", "--epochs", "30", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["test"]["accuracy"] > 0.95


def test_a_folder_of_images(capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    for split, k in product(("train", "test"), range(3)):
        (Path("own") / split / f"c{k}").mkdir(parents=True)
        for n in range(4):
            pixels = rng.integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(f"own/{split}/c{k}/{n}.png")
    assert run(["train", "ib-inn", "--data", "own", "--epochs", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["preset"] == "image"


def test_a_config_file_and_a_runs_own_config_can_be_trained_again(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--config", str(trained / "config.yaml"), "--out", "again", "--json"]
    assert run(["train", "ib-inn", *options, "--device", "cpu"]) == 0
    again = json.loads(capsys.readouterr().out)["test"]
    assert again == json.loads((trained / "summary.json").read_text())["test"]


@pytest.mark.parametrize(
    ("file", "content", "word"),
    [
        ("model.safetensors", b"", "damaged"),
        ("model.safetensors", b"\x10" * 100, "damaged"),
        ("config.yaml", b"system: [", "damaged"),
        ("config.yaml", b"system: ib-inn\n", "damaged"),
        ("config.yaml", None, "another architecture"),
    ],
    ids=["empty weights", "no safetensors", "no YAML", "half a config", "another width"],
)
def test_a_damaged_run_is_refused(
    trained: Path, capsys: pytest.CaptureFixture[str], file: str, content: bytes | None, word: str
) -> None:
    copy = Path(shutil.copytree(trained, "copy"))
    wider = (copy / file).read_bytes().replace(b"- 16\n", b"- 17\n")
    (copy / file).write_bytes(wider if content is None else content)
    assert run(["evaluate", str(copy)]) == 2
    assert word in stderr_line(capsys)


def test_ctrl_c_saves_and_resume_finishes(capsys: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-m", "flowclf", "train", "ib-inn", "--out", "run", *QUICK[:-1]]
    with subprocess.Popen([*command, "60"], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        process.stderr.readline()  # the first line of progress
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        message = process.stderr.read().splitlines()[-1]
    assert process.returncode == 1
    assert "flowclf train --resume run" in message
    assert Path("run/checkpoint/state.safetensors").exists()
    assert run(["evaluate", "run"]) == 2
    assert "--resume run" in stderr_line(capsys)


@pytest.mark.parametrize("options", [[], ["ib-inn", "--data", "digits", "--epochs", "1"]])
def test_a_finished_run_can_be_resumed_and_stays_what_it_is(
    trained: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = (trained / "model.safetensors").read_bytes()
    assert run(["train", *options, "--resume", str(trained), "--json", "--device", "cpu"]) == 0
    assert json.loads(capsys.readouterr().out)["run"] == str(trained)
    assert (trained / "model.safetensors").read_bytes() == before


def test_evaluations_of_several_runs_are_one_table_and_stay_with_them(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copies = [shutil.copytree(trained, tmp_path / name) for name in ("one", "two")]
    paths = [str(copy) for copy in copies]
    options = ["--suite", "accuracy,ood", "--outliers", "inverted", "--device", "cpu"]
    assert run(["evaluate", *paths, *options]) == 0
    text = capsys.readouterr().out
    assert "logistic regression" in text
    assert "typicality" in text
    document = json.loads((copies[1] / "evaluation.json").read_text())
    assert {"accuracy", "ood", "versions"} < document.keys()
    assert run(["evaluate", *paths, "--suite", "accuracy", "--json", "--device", "cpu"]) == 0
    both = json.loads(capsys.readouterr().out)
    assert [each["accuracy"] for each in both] == [document["accuracy"]] * 2
    kept = json.loads((copies[1] / "evaluation.json").read_text())
    assert kept["ood"] == document["ood"]


def test_outliers_that_cannot_be_had_are_an_error_and_write_nothing(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ignored = shutil.ignore_patterns("evaluation.json")
    copy = Path(shutil.copytree(trained, "copy", ignore=ignored))
    assert run(["evaluate", str(copy), "--suite", "ood", "--outliers", "no-such-thing"]) == 2
    assert "no-such-thing" in stderr_line(capsys)
    assert not (copy / "evaluation.json").exists()
