"""`flowclf sweep` and `flowclf study low-data`: what they print and what they leave behind."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from flowclf.cli.app import run
from flowclf.many import jobs
from flowclf.training import Interrupted, TrainingDiverged

QUICK = (
    "--data", "digits", "--epochs", "1", "--workers", "1", "--device", "cpu",
    "--set", "network={kind: mlp, blocks: 1, hidden: [8]}", "--set", "data.train_size=200",
)  # fmt: skip

STUDY = ["study", "low-data", "ce", "gm", "--data", "digits", "--out", "out", "--device", "cpu"]
FEW = [
    "--sizes", "60,30", "--seeds", "0,1", "--updates", "3", "--workers", "1",
    "--set", "network={kind: mlp, hidden: [8]}",
]  # fmt: skip
Command = Callable[..., Any]


@pytest.fixture(autouse=True)
def in_a_new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep") / "out"
    assert run(["sweep", "ib-inn", "--betas", "0.1,10", "--out", str(folder), *QUICK]) == 0
    return folder


def test_a_sweep_leaves_results_and_curves(swept: Path) -> None:
    assert (swept / "results.csv").read_text().startswith("system,data,seed,beta,accuracy,ece,")
    assert (swept / "trade-off.png").stat().st_size > 10_000
    assert (swept / "ib-inn-beta=10-seed=0" / "summary.json").exists()
    figures = swept / "ib-inn-beta=10-seed=0" / "figures"
    assert {path.name for path in figures.iterdir()} == {"samples.png", "latent.png", "dark"}


def test_it_goes_on_by_its_folder_and_says_where_it_is(
    swept: Path, document: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["sweep", str(swept), "--workers", "1", "--json"]) == 0
    captured = capsys.readouterr()
    assert [row["beta"] for row in json.loads(captured.out)["runs"]] == [0.1, 10]
    assert captured.err.count("(from before)") == 2
    assert run(["sweep", str(swept), "--status"]) == 0
    assert "2 done" in capsys.readouterr().out
    assert [row["state"] for row in document("sweep", swept, "--status")] == ["done", "done"]


def test_evaluations_join_the_results(swept: Path, document: Command) -> None:
    runs = [str(swept / f"ib-inn-beta={beta}-seed=0") for beta in ("0.1", "10")]
    assert run(["evaluate", *runs, "--suite", "information", "--no-baselines"]) == 0
    found = document("sweep", swept, "--workers", "1")
    assert all(row["input_information_nats"] > 0 for row in found["runs"])
    figures = [Path(path).name for path in found["figures"]]
    assert figures == ["trade-off.png", "information-plane.png"]


def test_a_sweep_takes_no_new_settings_by_its_folder(swept: Path, refused: Command) -> None:
    line = refused("sweep", swept, "--betas", "3")
    assert "name the system to add other settings" in line


def test_tables_a_figure_and_one_document(
    document: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*STUDY, *FEW]) == 0
    shown = capsys.readouterr()
    assert "digits: accuracy in %" in shown.out
    assert "digits: ECE (15 bins) in %" in shown.out
    for word in ("n = 30", "n = 60", "gm", "logistic regression", "QDA", "±", "out/results.csv"):
        assert word in shown.out, word
    assert shown.err.splitlines()[0].startswith("1/12  ce, n = 30, seed 0: ")
    assert shown.err.count("note: n = 60: QDA of 2 components") == 1
    assert Path("out/low-data.png").stat().st_size > 10_000

    found = document(*STUDY, *FEW)
    assert found["failed"] == {}
    assert len(found["runs"]) == 8 + 2 * 2 + 2
    first = found["averages"][0]
    assert (first["system"], first["train_size"], first["seeds"]) == ("ce", 30, 2)
    assert len(first["accuracy"]) == 2
    assert found["figure"] == "out/low-data.png"


def test_a_failed_run_is_listed_and_the_status_is_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = TrainingDiverged("step 3: not finite\nstages")
    monkeypatch.setattr(jobs, "train", Mock(side_effect=error))
    assert run([*STUDY, *FEW, "--no-baselines", "--json"]) == 1
    shown = capsys.readouterr()
    assert "failed: gm, n = 60, seed 1: step 3: not finite" in shown.err.splitlines()
    document = json.loads(shown.out)
    assert document["failed"]["ce, n = 30, seed 0"] == "step 3: not finite"
    assert (document["runs"], document["figure"]) == ([], None)


@pytest.mark.parametrize("error", [Interrupted("after step 2"), KeyboardInterrupt()])
def test_an_interruption_says_how_to_go_on(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(jobs, "train", Mock(side_effect=error))
    assert run([*STUDY, *FEW]) == 1
    line = "flowclf: stopped after 0 of 12 runs; the same command goes on there\n"
    assert capsys.readouterr().err == line


def test_a_folder_of_other_settings_is_refused(refused: Command) -> None:
    few = [*STUDY, *FEW, "--no-baselines", "--seeds", "0", "--sizes", "30"]
    assert run(few) == 0
    line = refused(*few, "--updates", "5")
    assert "out/ce-30-0 has other settings: train.epochs is 3 there" in line
