"""Engines of a sweep, on stand-ins for their packages: what they hand over, and where it lies."""

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flowclf.many import Sweep, engines, plan_sweep, run_sweep, states
from flowclf.many.engines import find_engine
from flowclf.support.errors import UserError

SMALL = {
    "network": {"kind": "mlp", "blocks": 1, "hidden": [8]},
    "data": {"train_size": 200, "test_size": 50},
    "train": {"epochs": 1, "batch_size": 100},
}


class Executor:
    """Stand-in for submitit's, which runs its jobs at once."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.parameters = folder, dict[str, Any]()
        made.append(self)

    def update_parameters(self, **parameters: Any) -> None:
        self.parameters |= parameters

    def map_array(self, work: Callable[[Any], Any], jobs: list[Any]) -> list[Any]:
        found = [work(job) for job in jobs]
        return [SimpleNamespace(done=lambda: True, result=lambda one=one: one) for one in found]


made: list[Executor] = []


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    made.clear()
    package = SimpleNamespace(AutoExecutor=Executor)
    monkeypatch.setattr(engines, "_import", lambda name, extra: package)


@pytest.mark.usefixtures("slurm")
def test_a_job_array_runs_a_sweep_and_its_pickles_are_private(tmp_path: Path) -> None:
    plan = plan_sweep(Sweep("ib-inn", "digits", tmp_path, (0.5, 1.0), overrides=SMALL))
    outcomes = list(run_sweep(plan, workers=2, engine=find_engine("slurm", tmp_path)))
    assert not any(outcome.failure for _, outcome in outcomes)
    assert [state.kind for state in states(plan)] == ["done", "done"]
    executor = made[0]
    assert executor.folder == tmp_path / "slurm"
    assert executor.folder.stat().st_mode & 0o777 == 0o700
    assert executor.parameters["slurm_array_parallelism"] == 2
    # No module of the working directory is taken for one of ours.
    assert executor.parameters["slurm_setup"] == ["export PYTHONSAFEPATH=1"]


@pytest.mark.usefixtures("slurm")
@pytest.mark.parametrize("trap", ["others write", "link", "another's"])
def test_a_folder_where_others_could_plant_a_pickle_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trap: str
) -> None:
    if trap == "link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        (tmp_path / "slurm").symlink_to(tmp_path / "elsewhere")
    else:
        (tmp_path / "slurm").mkdir()
        (tmp_path / "slurm").chmod(0o770 if trap == "others write" else 0o700)
    if trap == "another's":
        monkeypatch.setattr(os, "getuid", lambda: (tmp_path / "slurm").stat().st_uid + 1)
    engine = find_engine("slurm", tmp_path)
    with pytest.raises(UserError, match="that nobody else may write to, got .*slurm: chmod 700"):
        list(engine([], 1))
    assert made == []


def test_a_ray_of_ours_is_private_too(monkeypatch: pytest.MonkeyPatch) -> None:
    started: dict[str, Any] = {}
    ray = SimpleNamespace(
        is_initialized=lambda: False,
        init=lambda **given: started.update(given),
        remote=lambda **limits: lambda work: SimpleNamespace(remote=work),
    )
    monkeypatch.setattr(engines, "_import", lambda name, extra: ray)
    assert list(find_engine("ray", Path("/nowhere"))([], 2)) == []
    folder = Path(started["_temp_dir"])
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.rmdir()
    assert started["runtime_env"] == {"env_vars": {"PYTHONSAFEPATH": "1"}}
    assert started["num_cpus"] == 2
