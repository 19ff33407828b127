"""Two sweeps at work in one folder, killed at random moments: every row once, and nobody waits.

    python tests/flowclf/many/test_sweep_kills.py 50 [cli]

kills so many times (`cli`: `flowclf sweep`, each in an interpreter of its own with processes of its
own; else forks of a warm one, in a tenth of the time).
"""

import csv
import os
import random
import re
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch

from flowclf.many import Plan, Sweep, parse_betas, plan_sweep, read_plan, run_sweep, states
from flowclf.runs import Run
from flowclf.support.atomic_files import locked

SMALL = {
    "network": {"kind": "mlp", "blocks": 1, "hidden": [8]},
    "data": {"train_size": 200, "test_size": 50},
    "train": {"epochs": 2, "batch_size": 50},
}
POINTS, KILLS = 5, 5

# Starts a sweep in a folder; its process.
Start = Callable[[Path], int]


def plan(folder: Path, points: int = POINTS) -> Plan:
    return plan_sweep(
        Sweep(
            "ib-inn",
            "digits",
            folder,
            parse_betas(f"0.1:10:{points}" if points > 1 else "1"),
            overrides=SMALL,
        )
    )


def sweep(folder: Path) -> None:
    assert not any(outcome.failure for _, outcome in run_sweep(read_plan(folder), workers=1))


def start_fork(folder: Path) -> int:
    process = os.fork()
    if process:
        return process
    try:
        sweep(folder)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def start_cli(folder: Path) -> int:
    command = [sys.executable, "-m", "flowclf", "sweep", str(folder), "--device", "cpu"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid


def kill_writers(start: Start, folder: Path, seconds: float, rng: random.Random) -> float:
    """Two at work, of which one is killed and replaced five times, each within so many seconds;
    the longest wait for the lock of the folder after that."""
    writers, longest = [start(folder), start(folder)], 0.0
    for _ in range(KILLS):
        time.sleep(rng.uniform(0, seconds))
        place = rng.randrange(2)
        os.kill(writers[place], signal.SIGKILL)
        os.waitpid(writers[place], 0)
        begun = time.perf_counter()
        with locked(folder, wait=60.0):
            longest = max(longest, time.perf_counter() - begun)
        writers[place] = start(folder)
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


def main(kills: int, start: str = "fork") -> None:
    """Kill so many times, five in each sweep, and say what became of them."""
    torch.set_num_threads(1)
    begin = {"fork": start_fork, "cli": start_cli}[start]
    equal, longest, sweeps = 0, 0.0, -(-kills // KILLS)
    with TemporaryDirectory() as name:
        whole = Path(name) / "whole"
        plan(whole)
        began = time.perf_counter()
        assert os.waitpid(begin(whole), 0)[1] == 0
        usual = time.perf_counter() - began
        for number in range(sweeps):
            folder = Path(name) / str(number)
            plan(folder)
            wait = kill_writers(begin, folder, usual / KILLS, random.Random(number))
            longest = max(longest, wait)
            check_once(folder)
            equal += rows(folder) == rows(whole)
    print(f"{equal} of {sweeps} sweeps as if never killed, {KILLS * sweeps} kills; "
          f"waited at most {longest:.2f} s for a lock")  # fmt: skip


def test_two_sweeps_and_five_kills_give_each_row_once() -> None:
    # In an interpreter of its own: this one may have threads, which a fork has not.
    command = [sys.executable, __file__, "5"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    found = re.fullmatch(r"1 of 1 sweeps .*, 5 kills; waited at most (.*) s .*\n", ended.stdout)
    assert found, ended.stdout + ended.stderr
    assert float(found[1]) < 1


HOLD = """
import sys, time
from pathlib import Path
from flowclf.support.atomic_files import locked
with locked(Path(sys.argv[1])):
    if sys.argv[2] == "torn":
        (Path(sys.argv[1]) / ".failed.7.part.json").write_text('{"reason": "fi')
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("writing", ["torn", "nothing"])
@pytest.mark.parametrize("before", [None, "fire"])
def test_the_lock_of_a_killed_writer_is_free_and_its_half_file_nothing(
    tmp_path: Path, writing: str, before: str | None
) -> None:
    (point,) = plan(tmp_path, 1).points
    run = Run(tmp_path / point.name)
    if before:
        run.write_failure(before)
    holder = [sys.executable, "-c", HOLD, str(run.folder), writing]
    with subprocess.Popen(holder, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
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
