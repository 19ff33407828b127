"""`flowclf study low-data`: what it prints, what it leaves behind, and what becomes of mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flowclf.cli.app import run
from flowclf.many import jobs
from flowclf.training import Interrupted, TrainingDiverged

STUDY = ["study", "low-data", "ce", "gm", "--data", "digits", "--out", "out", "--device", "cpu"]
QUICK = [
    "--sizes", "60,30", "--seeds", "0,1", "--updates", "3", "--workers", "1",
    "--set", "network={kind: mlp, hidden: [8]}",
]  # fmt: skip


@pytest.fixture(autouse=True)
def in_a_new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_tables_a_figure_and_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*STUDY, *QUICK]) == 0
    shown = capsys.readouterr()
    assert "digits: accuracy in %" in shown.out
    assert "digits: ECE (15 bins) in %" in shown.out
    for word in ("n = 30", "n = 60", "gm", "logistic regression", "QDA", "±", "out/results.csv"):
        assert word in shown.out, word
    assert shown.err.splitlines()[0].startswith("1/12  ce, n = 30, seed 0: ")
    assert shown.err.count("note: n = 60: QDA of 2 components") == 1
    assert Path("out/low-data.png").stat().st_size > 10_000

    assert run([*STUDY, *QUICK, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["failed"] == {}
    assert len(document["runs"]) == 8 + 2 * 2 + 2
    first = document["averages"][0]
    assert (first["system"], first["train_size"], first["seeds"]) == ("ce", 30, 2)
    assert len(first["accuracy"]) == 2
    assert document["figure"] == "out/low-data.png"


def test_a_failed_run_is_listed_and_the_status_is_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def diverge(*arguments: Any, **options: Any) -> None:
        raise TrainingDiverged("step 3: not finite\nstages")

    monkeypatch.setattr(jobs, "train", diverge)
    assert run([*STUDY, *QUICK, "--no-baselines", "--json"]) == 1
    shown = capsys.readouterr()
    assert "failed: gm, n = 60, seed 1: step 3: not finite" in shown.err.splitlines()
    document = json.loads(shown.out)
    assert document["failed"]["ce, n = 30, seed 0"] == "step 3: not finite"
    assert (document["runs"], document["figure"]) == ([], None)


@pytest.mark.parametrize("error", [Interrupted("after step 2"), KeyboardInterrupt()])
def test_an_interruption_says_how_to_go_on(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*arguments: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(jobs, "train", stop)
    assert run([*STUDY, *QUICK]) == 1
    line = "flowclf: stopped after 0 of 12 runs; the same command goes on there\n"
    assert capsys.readouterr().err == line


def test_a_folder_of_other_settings_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    few = [*QUICK, "--no-baselines", "--seeds", "0", "--sizes", "30"]
    assert run([*STUDY, *few]) == 0
    capsys.readouterr()
    assert run([*STUDY, *few, "--updates", "5"]) == 2
    assert "out/ce-30-0 has other settings: train.epochs is 3 there" in capsys.readouterr().err
