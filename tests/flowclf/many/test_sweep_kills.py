"""Two sweeps at work in one folder, killed at random moments: every row once, and nobody waits.

    PYTHONPATH=tests python tests/flowclf/many/test_sweep_kills.py 50

kills so many times, forks of a warm process; with `cut` behind the number both are killed each
time, and what they had not flushed is lost, as when the power fails. `kill cut` does the one, and
the other.
"""

import csv
import os
import random
import re
import signal
import sys
import time
from functools import partial
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from forks import fork, held, rerun
from power_cut import cut, records, settle

from flowclf.many import Plan, Sweep, parse_betas, plan_sweep, read_plan, run_sweep, states
from flowclf.runs import Run
from flowclf.support.atomic_files import locked

SMALL = {
    "network": {"kind": "mlp", "blocks": 1, "hidden": [8]},
    "data": {"train_size": 200, "test_size": 50},
    "train": {"epochs": 2, "batch_size": 50},
}
POINTS, KILLS = 5, 5


def plan(folder: Path, points: int = POINTS) -> Plan:
    betas = parse_betas(f"0.1:10:{points}" if points > 1 else "1")
    return plan_sweep(Sweep("ib-inn", "digits", folder, betas, overrides=SMALL))


def sweep(folder: Path) -> None:
    assert not any(outcome.failure for _, outcome in run_sweep(read_plan(folder), workers=1))


def cut_power(folder: Path, seconds: float, rng: random.Random) -> int:
    """Two at work, and the power fails five times, each within so many seconds; the losses."""
    journal, lost = folder.with_name(f"{folder.name}-journal"), 0
    settle(folder, journal)

    def write() -> None:
        records(journal)
        sweep(folder)

    for _ in range(KILLS):
        writers = [fork(write) for _ in range(2)]
        time.sleep(rng.uniform(0, seconds))
        for writer in writers:
            os.kill(writer, signal.SIGKILL)
            os.waitpid(writer, 0)
        lost += cut(folder, journal, rng)
    sweep(folder)
    return lost


def kill_writers(folder: Path, seconds: float, rng: random.Random) -> float:
    """Two at work, of which one is killed and replaced five times, each within so many seconds;
    the longest wait for the lock of the folder after that."""
    writers, longest = [fork(partial(sweep, folder)) for _ in range(2)], 0.0
    for _ in range(KILLS):
        time.sleep(rng.uniform(0, seconds))
        place = rng.randrange(2)
        os.kill(writers[place], signal.SIGKILL)
        os.waitpid(writers[place], 0)
        begun = time.perf_counter()
        with locked(folder, wait=60.0):
            longest = max(longest, time.perf_counter() - begun)
        writers[place] = fork(partial(sweep, folder))
    assert [os.waitpid(writer, 0)[1] for writer in writers] == [0, 0]
    return longest


def rows(folder: Path) -> list[dict[str, str]]:
    """Return the rows of results.csv, without their seconds."""
    with (folder / "results.csv").open(encoding="utf-8", newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def check_once(folder: Path) -> None:
    """Each run has one row and is done, and nothing is left over."""
    points = read_plan(folder).points
    expected = [(str(point.config.beta), str(point.config.seed)) for point in points]
    assert [(row["beta"], row["seed"]) for row in rows(folder)] == expected
    assert not any((folder / point.name / "failed.json").exists() for point in points)
    assert {state.kind for state in states(read_plan(folder))} == {"done"}
    assert [str(path) for path in folder.rglob("*.part*")] == []


def main(kills: int, *ways: str) -> None:
    torch.set_num_threads(1)
    for library in ("torch._dynamo", "lightning.fabric", "matplotlib.figure", "sklearn.datasets"):
        import_module(library)  # once, not in each fork
    with TemporaryDirectory() as name:
        whole = Path(name) / "whole"
        plan(whole)
        began = time.perf_counter()
        assert os.waitpid(fork(partial(sweep, whole)), 0)[1] == 0
        usual = time.perf_counter() - began
        for way in ways or ("kill",):
            print(kill_sweeps(-(-kills // KILLS), way == "cut", whole, usual))


def kill_sweeps(sweeps: int, power: bool, whole: Path, usual: float) -> str:
    equal, longest, lost = 0, 0.0, 0
    for number in range(sweeps):
        folder = whole.with_name(f"{number}-{power}")
        plan(folder)
        rng = random.Random(number)
        if power:
            lost += cut_power(folder, usual / KILLS, rng)
        else:
            longest = max(longest, kill_writers(folder, usual / KILLS, rng))
        check_once(folder)
        equal += rows(folder) == rows(whole)
    found = f"{lost} changes lost" if power else f"waited at most {longest:.2f} s for a lock"
    return f"{equal} of {sweeps} sweeps as if never killed, {KILLS * sweeps} kills; {found}"


@pytest.mark.slow
def test_after_five_kills_or_power_cuts_each_row_is_there_once() -> None:
    ended = rerun(__file__, "5", "kill", "cut")
    lines = r"1 of 1 sweeps .*, 5 kills; waited at most (.*) s .*\n1 of 1 sweeps .*\n"
    found = re.fullmatch(lines, ended.stdout)
    assert found, ended.stdout + ended.stderr
    assert float(found[1]) < 1


@pytest.mark.parametrize("files", [(".failed.7.part.json", '{"reason": "fi'), ()])
@pytest.mark.parametrize("before", [None, "fire"])
def test_the_lock_of_a_killed_writer_is_free_and_its_half_file_nothing(
    tmp_path: Path, files: tuple[str, ...], before: str | None
) -> None:
    (point,) = plan(tmp_path, 1).points
    run = Run(tmp_path / point.name)
    if before:
        run.write_failure(before)
    with held(run.folder, *files):
        pass
    assert run.read_failure() == before
    begun = time.perf_counter()
    with locked(run.folder):
        run.write_failure("another")
    assert time.perf_counter() - begun < 1
    assert run.read_failure() == "another"


def test_points_that_another_command_adds_stay_in_the_results(tmp_path: Path) -> None:
    first = run_sweep(plan(tmp_path, 2), workers=1)
    next(first)
    other = plan(tmp_path, 3)
    assert len(list(run_sweep(other, workers=1))) == 3
    list(first)
    assert len(rows(tmp_path)) == len(read_plan(tmp_path).points) == 3


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
