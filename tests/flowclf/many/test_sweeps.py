"""Sweeps: the grid, the run folders, and that nothing is lost or done twice whatever is killed."""

import csv
import json
import math
import shutil
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from forks import held

from couplings import ShapeError
from flowclf.many import (
    Sweep,
    jobs,
    parse_betas,
    parse_grid,
    plan_sweep,
    read_plan,
    run_sweep,
    states,
    sweep_rows,
)
from flowclf.many.engines import find_engine
from flowclf.many.jobs import Outcome
from flowclf.runs import Run
from flowclf.support.atomic_files import locked
from flowclf.support.errors import UserError
from flowclf.training import TrainingDiverged

SMALL = {
    "network": {"kind": "mlp", "blocks": 1, "hidden": [8]},
    "data": {"train_size": 200, "test_size": 50},
    "train": {"epochs": 1, "batch_size": 50},
}
NAME = "ib-inn-beta=10-seed=0"  # of a run


def small(folder: Path, **changes: Any) -> Sweep:
    sweep = Sweep("ib-inn", "digits", folder, (0.1, 10.0), seeds=(0, 1), overrides=SMALL)
    return replace(sweep, **changes)


def swept(sweep: Sweep, **options: Any) -> list[Outcome]:
    return [outcome for _, outcome in run_sweep(plan_sweep(sweep), workers=1, **options)]


def failures(folder: Path, **options: Any) -> list[str | None]:
    return [outcome.failure for outcome in swept(small(folder), **options)]


def results(folder: Path) -> list[dict[str, str]]:
    """Rows of results.csv, without how long they took."""
    with (folder / "results.csv").open(encoding="utf-8", newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep") / "out"
    assert failures(folder) == [None] * 4
    return folder


@pytest.fixture
def copied(done: Path, tmp_path: Path) -> Path:
    return shutil.copytree(done, tmp_path / "out")


def test_betas_are_evenly_spaced_in_their_logarithm_or_as_listed() -> None:
    betas = parse_betas("0.02:50:24")
    assert (len(betas), betas[0], betas[-1]) == (24, 0.02, 50)
    ratios = torch.tensor(betas[1:]) / torch.tensor(betas[:-1])
    assert torch.allclose(ratios, ratios.mean(), rtol=1e-4)
    assert parse_betas("1,0,inf,1") == (1, 0, math.inf)


@pytest.mark.parametrize(
    "text", ["", "1:2", "0:1:3", "2:1:3", "1:inf:3", "1:2:1", "1:2:3:4", "a", "-1", "nan"]
)
def test_other_betas_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="expected --betas"):
        parse_betas(text)


def test_a_grid_is_read_as_yaml() -> None:
    assert parse_grid(["train.lr=1e-3,0.1", "network.hidden=[8],[8, 8]", "mixture.start=zero"]) == {
        "train.lr": [1e-3, 0.1],
        "network.hidden": [[8], [8, 8]],
        "mixture.start": ["zero"],
    }
    for wrong in ("train.lr", "=1", "train.lr=", "a=[1"):
        with pytest.raises(UserError, match="expected --grid"):
            parse_grid([wrong])


def test_every_setting_meets_every_other(tmp_path: Path) -> None:
    grid = {"train.lr": ["1e-3", 0.01], "network.hidden": [[8], [8, 8]]}
    plan = plan_sweep(small(tmp_path, grid=grid))
    assert len(plan.points) == len({point.name for point in plan.points}) == 2 * 2 * 2 * 2
    point = plan.points[-1]
    assert point.varied == {"beta": 10, "train.lr": 0.01, "network.hidden": [8, 8]}
    assert (point.config.beta, point.config.seed, point.config.train.lr) == (10, 1, 0.01)
    assert read_plan(tmp_path).points == plan.points


def test_systems_without_a_beta_are_swept_by_their_own_settings(tmp_path: Path) -> None:
    settings = {"system": "ce", "overrides": {"train": SMALL["train"]}}
    plan = plan_sweep(small(tmp_path, betas=(), grid={"objective.ce": [1, 2]}, **settings))
    assert [point.config.beta for point in plan.points] == [None] * 4
    with pytest.raises(UserError, match="ce has no information-bottleneck beta"):
        plan_sweep(small(tmp_path, **settings))


def test_an_infinite_beta_is_kept(tmp_path: Path) -> None:
    plan_sweep(small(tmp_path, betas=(math.inf,)))
    (point, _) = read_plan(tmp_path).points
    assert point.config.beta == math.inf
    assert point.config.model.objective.beta == math.inf  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grid": {"train.lrr": [1]}}, "did you mean"),
        ({"grid": {"train.lr": [1, 1]}}, "the same one twice"),
        ({"system": "nothing"}, "'nothing' is not a system"),
        ({"data": "nothing"}, "nothing"),
        ({"overrides": {"network": {"kind": "paper"}}}, "at least 2 channels"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_written(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises((UserError, ShapeError), match=message):
        plan_sweep(small(tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()


def test_one_row_a_run_with_what_varies(done: Path) -> None:
    rows = results(done)
    assert [(row["beta"], row["seed"]) for row in rows] == list(product(("0.1", "10.0"), "01"))
    assert " ".join(list(rows[0])[:7]) == "system data seed beta accuracy ece bits_per_dim"
    assert {"parameters", "commit", "negative_log_posterior_nats"} < rows[0].keys()
    summary = Run(done / "ib-inn-beta=10-seed=1").read_summary()
    assert float(rows[3]["accuracy"]) == summary["test"]["accuracy"]


def test_nothing_is_done_twice_nor_where_there_is_an_old_ledger(copied: Path) -> None:
    (copied / "ledger.log").write_text('{"op_code": 4}')
    before = results(copied)
    times = {path: path.stat().st_mtime_ns for path in copied.rglob("model.safetensors")}
    assert [outcome.kept for outcome in swept(small(copied))] == [True] * 4
    assert results(copied) == before
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_another_sweep_in_the_same_folder_is_added(copied: Path) -> None:
    swept(small(copied, betas=(1.0,), seeds=(0,)))
    plan = read_plan(copied)
    assert len(plan.points) == len(sweep_rows(plan)) == len(results(copied)) == 5
    with pytest.raises(UserError, match=r"has other settings: train.epochs is 1"):
        plan_sweep(small(copied, overrides=SMALL | {"train": {"epochs": 2, "batch_size": 50}}))


def test_a_failed_run_is_retried_if_asked(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(copied / NAME)

    def diverge(*args: object, **options: object) -> None:
        raise TrainingDiverged("step 3: the gradient is not finite\nand more")

    with monkeypatch.context() as patched:
        patched.setattr(jobs, "train", diverge)
        found = failures(copied)
    reason = "step 3: the gradient is not finite"
    assert sorted(found, key=str) == [None, None, None, reason]
    assert [state.reason for state in states(read_plan(copied)) if state.reason] == [reason]
    assert Run(copied / NAME).read_failure() == reason
    assert [state.kind for state in states(read_plan(copied))].count("failed") == 1
    assert len(results(copied)) == 3
    assert [failure for failure in failures(copied) if failure] == [reason]
    assert failures(copied, retry_failed=True) == [None] * 4
    assert Run(copied / NAME).read_failure() is None
    assert len(results(copied)) == 4


def test_a_failure_of_another_command_is_kept_too(copied: Path) -> None:
    """It fails between the look at the folder and the start of the job."""
    shutil.rmtree(copied / NAME)

    def engine(work: Any, workers: int) -> Any:
        Run(copied / NAME).write_failure("fire")
        return (job() for job in work)

    assert [failure for failure in failures(copied, engine=engine) if failure] == ["fire"]
    assert not (copied / NAME / "config.yaml").exists()
    assert failures(copied, retry_failed=True) == [None] * 4


def test_a_run_of_another_process_is_awaited(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine finds it in use, and once it is free takes it over."""
    shutil.rmtree(copied / NAME)
    calls = []

    def engine(work: Any, workers: int) -> Any:
        for job in work:
            calls.append(job.name)
            yield Outcome(job.name, busy=True) if len(calls) == 1 else job()

    assert failures(copied, engine=engine) == [None] * 4
    assert calls == [NAME, NAME]
    assert len(results(copied)) == 4


def test_states_follow_the_runs(copied: Path) -> None:
    names = ["ib-inn-beta=0.1-seed=1", NAME, "ib-inn-beta=10-seed=1"]
    for name in names[:2]:
        (copied / name / "summary.json").unlink()
    shutil.rmtree(copied / names[2])
    progress = {"step": 3, "steps": 4, "epoch": 0, "seconds": 30.0, "terms": {"total": 1.0}}
    Run(copied / names[0]).progress_file.write_text(json.dumps(progress))
    plan = read_plan(copied)
    with held(copied / names[0]):
        found = states(plan)
    assert [state.kind for state in found] == ["done", "running", "interrupted", "waiting"]
    assert found[1].seconds_left == pytest.approx(10)
    assert [state.kind for state in states(plan)][1] == "interrupted"


def test_engines_that_are_not_there_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"needs ray: pip install 'flowclf\[ray\]'"):
        find_engine("ray", tmp_path)
    with pytest.raises(UserError, match="out of local, ray, slurm, got 'cloud'"):
        find_engine("cloud", tmp_path)
    with pytest.raises(UserError, match="expected --engine ray, got local"):
        find_engine("local", tmp_path, "auto")


def test_a_damaged_plan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected a sweep's folder with a sweep.yaml"):
        read_plan(tmp_path)
    (tmp_path / "sweep.yaml").write_text("points: [{name: 1}]")
    with pytest.raises(UserError, match="is damaged"), locked(tmp_path):
        read_plan(tmp_path)
