"""Runs on few samples: the same subset for all, equal updates, and nothing done twice."""

import csv
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_systems import saved

from couplings import ShapeError
from flowclf.data import load_dataset
from flowclf.many import LowData, Outcome, averages, jobs, plan_low_data, run_low_data
from flowclf.many.table import COLUMNS
from flowclf.runs import Run
from flowclf.support.errors import UserError
from flowclf.training import TrainingDiverged
from flowclf.training.task import load_task

SMALL = {"network": {"kind": "mlp", "hidden": [8]}, "train": {"batch_size": 20}}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study: CE and GM on 30 and 60 samples."""
    study = small(tmp_path_factory.mktemp("study") / "out")
    assert [outcome.failure for outcome in outcomes(study)] == [None] * 6
    return study.folder


@pytest.fixture
def copied(done: Path, tmp_path: Path) -> LowData:
    return small(shutil.copytree(done, tmp_path / "out"))


def small(folder: Path, **changes: Any) -> LowData:
    study = LowData(["ce", "gm"], "digits", [30, 60], [0], folder, SMALL, updates=4)
    return replace(study, **changes)


def outcomes(study: LowData, workers: int = 1) -> list[Outcome]:
    return list(run_low_data(plan_low_data(study), workers))


def results(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_run_is_a_folder_and_a_row(done: Path) -> None:
    rows = results(done)
    assert tuple(rows[0]) == COLUMNS
    assert [(row["system"], row["train_size"]) for row in rows] == [
        ("QDA of 2 components", "60"),
        *[(name, size) for name in ("ce", "gm", "logistic regression") for size in ("30", "60")],
    ]
    summary = Run(done / "gm-60-0").read_summary()["test"]
    assert float(rows[4]["accuracy"]) == summary["accuracy"]
    assert float(rows[4]["negative_log_posterior_nats"]) == summary["negative_log_posterior_nats"]
    assert rows[4]["bits_per_dim"] == ""
    task = load_task(done / "gm-60-0", device="cpu")
    assert len(task.test) == len(load_dataset("digits").test)


def test_systems_of_a_seed_see_the_same_samples_and_small_sets_lie_in_large(done: Path) -> None:
    folders = (done / name for name in ("ce-60-0", "gm-60-0", "gm-30-0"))
    ce, gm, few = (load_task(folder, device="cpu") for folder in folders)
    assert torch.equal(ce.training.x, gm.training.x)
    assert ce.training.y.bincount().tolist() == [6] * 10
    large = {tuple(x.flatten().tolist()) for x in ce.training.x}
    assert {tuple(x.flatten().tolist()) for x in few.training.x} < large


@pytest.mark.parametrize(
    ("changes", "epochs"),
    [
        # 40 epochs of 21 steps of 64; 50 and 100 samples make 1 step, 500 make 7, all make 21.
        ({}, [840, 840, 120, 40]),
        ({"updates": 70}, [70, 70, 10, 3]),
        ({"epochs": 9}, [9, 9, 9, 9]),
        ({"overrides": {"train": {"epochs": 8}}}, [8, 8, 8, 8]),
        # 1000 epochs of 10 steps of 128 in 75 seconds: no more than 2,000 steps, and no clock.
        ({"preset": "mnist14"}, [2000, 2000, 667, 200]),
    ],
)
def test_runs_update_equally(tmp_path: Path, changes: dict[str, Any], epochs: list[int]) -> None:
    usual = {"overrides": {}, "updates": None, "baselines": False, "systems": ["ib-inn"]}
    study = small(tmp_path, sizes=[50, 100, 500, 1347], **(usual | changes))
    configs = [point.config for point in plan_low_data(study).points]
    assert [config.train.epochs for config in configs] == epochs
    assert [config.train.cpu_seconds for config in configs] == [None] * 4
    assert {config.data.subset for config in configs} == {"stratified"}
    assert list(tmp_path.iterdir()) == []
    if not changes:  # validation keeps its share of the looks
        few = configs[0].train
        assert few.epochs / few.evaluate_every == pytest.approx(40 / 5)


def test_what_is_done_is_not_done_again(copied: LowData, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (copied.folder / "results.csv").read_bytes()
    monkeypatch.setattr(jobs.Job, "__call__", None)
    again = outcomes(copied)
    assert all(outcome.kept and outcome.rows for outcome in again)
    assert (copied.folder / "results.csv").read_bytes() == before


def test_an_interrupted_run_goes_on(copied: LowData, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(copied.folder / "gm-30-0")
    before = run.read_summary()
    run.summary_file.unlink()
    shutil.rmtree(copied.folder / "ce-60-0")
    resumed = {}

    def spy(*arguments: Any, resume: bool, **options: Any) -> None:
        resumed[arguments[2].folder.name] = resume
        train(*arguments, resume=resume, **options)

    train = jobs.train
    monkeypatch.setattr(jobs, "train", spy)
    found = outcomes(copied)
    assert resumed == {"gm-30-0": True, "ce-60-0": False}
    assert [outcome.kept for outcome in found] == [True] * 4 + [False] * 2
    after = run.read_summary()
    assert after["test"] == before["test"]
    assert after["seconds"] >= before["seconds"]  # what it had taken counts on


def test_other_systems_and_seeds_join_the_results_other_settings_do_not(copied: LowData) -> None:
    before = results(copied.folder)
    with pytest.raises(UserError, match=r"ce-30-0 has other settings: train.epochs is 4 .*, and 9"):
        plan_low_data(replace(copied, updates=9))
    assert results(copied.folder) == before
    study = replace(copied, systems=["vc"], sizes=[30], seeds=[1], baselines=False)
    assert len(outcomes(study)) == 1
    after = results(copied.folder)
    assert [row for row in after if row["system"] != "vc"] == before
    assert len(after) == len(before) + 1


def test_failures_are_told_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverge(config: Any, *arguments: Any, **options: Any) -> None:
        if config.system == "ce":
            raise TrainingDiverged("step 3: not finite\nstages")
        train(config, *arguments, **options)

    train = jobs.train
    monkeypatch.setattr(jobs, "train", diverge)
    study = small(tmp_path, sizes=[30], baselines=False)
    assert [outcome.failure for outcome in outcomes(study)] == ["step 3: not finite", None]
    assert [row["system"] for row in results(tmp_path)] == ["gm"]
    assert Run(tmp_path / "ce-30-0").read_failure() == "step 3: not finite"
    monkeypatch.setattr(jobs, "train", train)
    assert [outcome.failure for outcome in outcomes(study)] == [None, None]
    assert Run(tmp_path / "ce-30-0").read_failure() is None


def test_reduced_baselines(done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = outcomes(small(done))
    assert found[2].notes == ["n = 30: no QDA, for want of samples of each class"]
    assert found[5].notes == ["n = 60: QDA of 2 components, for want of samples of each class"]

    def fail(*arguments: Any) -> None:
        raise np.linalg.LinAlgError("not full rank")

    monkeypatch.setattr(jobs, "baseline_rows", fail)
    baselines = outcomes(small(tmp_path, systems=["ce"], sizes=[30]))[1]
    assert (baselines.rows, baselines.failure) == ((), None)
    assert baselines.notes == ["baselines, n = 30, seed 0 cannot be fitted: not full rank"]


@pytest.mark.slow
def test_workers_do_not_change_the_results(done: Path, tmp_path: Path) -> None:
    outcomes(small(tmp_path, systems=["gm"], sizes=[30], baselines=False), workers=2)
    (row,) = results(tmp_path)
    (same,) = [r for r in results(done) if (r["system"], r["train_size"]) == ("gm", "30")]
    assert row | {"seconds": ""} == same | {"seconds": ""}


def test_averages_are_over_seeds_and_qda_is_one_system() -> None:
    def row(system: str, size: int, seed: int, accuracy: float) -> dict[str, Any]:
        found = dict.fromkeys(COLUMNS) | {"system": system, "train_size": size, "seed": seed}
        return found | {"accuracy": accuracy}

    rows = [row("gm", 50, 0, 0.9), row("QDA of 2 components", 50, 0, 0.3), row("QDA", 500, 0, 0.8)]
    found = averages([*rows, row("ce", 50, 0, 0.5), row("gm", 50, 1, 0.94)], ["gm", "ce"])
    names = [(each["system"], each["train_size"], each["seeds"]) for each in found]
    assert names == [("gm", 50, 2), ("ce", 50, 1), ("QDA", 50, 1), ("QDA", 500, 1)]
    assert found[0]["accuracy"] == pytest.approx((0.92, 0.02))
    assert found[1]["accuracy"] == (0.5, None)
    assert found[0]["bits_per_dim"] is None


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "unknown system": ({"systems": ["gm", "gmm"]}, "'gmm' is not a system"),
    "no system": ({"systems": []}, "expected one or more systems, got none"),
    "no seed": ({"seeds": []}, "expected one or more seeds, got none"),
    "no data": ({"data": "digit"}, "did you mean 'digits'"),
    "too many": ({"sizes": [50, 2000]}, "to the 1,347 labelled training samples.* got 2,000"),
    "a class without sample": ({"sizes": [9]}, "expected sizes from 10, one sample a class"),
    "not positive": ({"sizes": [0]}, "expected sizes from 10"),
    "unknown setting": ({"overrides": {"train": {"epoch": 1}}}, "did you mean train.epochs"),
    "two lengths": ({"epochs": 3}, "either in updates or in epochs"),
    "the study's own": ({"overrides": {"data": {"train_size": 9}}}, "data.train_size is the study"),
    "labels": ({"overrides": {"data": {"labels": 20}}}, "without labels, got .*, but 10 of 30"),
    "kind": ({"overrides": {"network": {"kind": "conv"}}}, "network"),
    "a file": ({"folder": Path(__file__)}, "is a file"),
}


@pytest.mark.parametrize("case", WRONG)
def test_mistakes_are_found_before_anything_is_written(case: str, tmp_path: Path) -> None:
    changes, match = WRONG[case]
    with pytest.raises(UserError, match=match) as caught:
        plan_low_data(replace(small(tmp_path), **changes))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_system_that_needs_images_refuses_a_table(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(60, 4))
    table = saved(tmp_path / "t.npz", x, np.arange(60) % 3)
    study = small(tmp_path / "out", systems=["ib-inn"], data=table.name)
    with pytest.raises(ShapeError, match="takes images"):
        plan_low_data(replace(study, overrides={"network": {"kind": "conv"}}))
    assert len(plan_low_data(study).points) == 4
