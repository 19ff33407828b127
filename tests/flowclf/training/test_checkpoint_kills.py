"""Killed at random moments and resumed until it is done, a run ends where it would have ended.

    PYTHONPATH=tests python tests/flowclf/training/test_checkpoint_kills.py 50

kills 50 runs, forks of a warm process. They save after each step, so that many of the kills come
during a save. With `cut` behind the number the power fails, too: what was not flushed is lost.
`kill cut` does the one, and the other.
"""

import gc
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from forks import fork, rerun
from power_cut import cut, records
from safetensors.torch import load_file
from small_systems import history

from flowclf.config import make_config
from flowclf.data import load_dataset
from flowclf.runs import Run
from flowclf.training import train

SETTINGS = {
    "network": {"kind": "mlp", "blocks": 2, "hidden": [32], "dropout": 0.2, "batch_norm": True},
    "data": {"train_size": 300, "test_size": 50, "validation": 0.1, "augment": "shift"},
    "train": {"epochs": 3, "batch_size": 50, "evaluate_every": 1, "checkpoint_minutes": 1e-9},
}


def kill_after(process: int, run: Run, seconds: float) -> bool:
    """Kill a process so long after the first sign of its training; whether it lived until then."""
    before, begun = signs(run), inf
    while time.perf_counter() - begun < seconds:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            assert status == 0, f"training ended with {status}"
            return False
        if begun == inf and signs(run) != before:
            begun = time.perf_counter()
        time.sleep(0.002)
    os.kill(process, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(process, 0)[1])


def signs(run: Run) -> list[int]:
    """Return when the files of a run were written."""
    times = []
    for file in (run.folder / ".lock", run.metrics_file, run.checkpoint_file):
        with suppress(FileNotFoundError):
            times.append(file.stat().st_mtime_ns)
    return times


def half_saved(run: Run) -> bool:
    """Return True if there is half a checkpoint, or only the previous one."""
    between = run.previous_checkpoint_file.exists() and not run.checkpoint_file.exists()
    return between or any(run.checkpoint_file.parent.glob(".*.part.*"))


def same(one: Run, other: Run) -> bool:
    """Weights, the optimiser's tensors and metrics, bit for bit."""
    for file in ("weights_file", "checkpoint_file"):
        tensors, copies = (load_file(getattr(run, file)) for run in (one, other))
        same_names = tensors.keys() == copies.keys()
        if not (same_names and all(torch.equal(tensors[name], copies[name]) for name in tensors)):
            return False
    return history(one) == history(other)


def kill_runs(
    begin: Callable[[Run, Path | None], None], folder: Path, runs: int, journal: Path | None
) -> str:
    """Kill each run again and again until it ends; what became of them."""

    def start(run: Run) -> int:
        return fork(partial(begin, run, journal))

    whole, rng = Run(folder / "whole"), random.Random(0)
    assert not kill_after(start(whole), whole, inf)
    usual = whole.summary_file.stat().st_mtime - (whole.folder / ".lock").stat().st_mtime
    killed = equal = kills = saving = lost = 0
    while killed < runs:
        run, before = Run(folder / "run"), kills
        while not run.summary_file.exists():
            killed_now = kill_after(start(run), run, rng.uniform(0, usual))
            # Later it draws figures.
            kills += killed_now and not run.summary_file.exists()
            saving += half_saved(run)
            if journal and killed_now:
                lost += cut(run.folder, journal, rng)
        if kills > before:
            killed += 1
            equal += same(whole, run) and not half_saved(run)
        shutil.rmtree(run.folder)
    losses = f", {lost} changes lost" if journal else ""
    found = f"{kills} kills, {saving} during a save{losses}"
    return f"{equal} of {killed} runs as if never killed; {found}"


def main(runs: int, *ways: str) -> None:
    torch.set_num_threads(1)
    gc.disable()  # A full collection makes a fork copy most of the memory that it shares.
    digits = load_dataset("digits")
    config = make_config("ib-inn", "digits", digits.shape, overrides=[SETTINGS])
    learn = partial(train, config, digits, device="cpu")
    learn()

    def begin(run: Run, journal: Path | None) -> None:
        if journal:
            records(journal)
        learn(run, resume=run.has_checkpoint)

    for way in ways or ("kill",):
        with TemporaryDirectory() as name:
            journal = Path(name) / "journal" if way == "cut" else None
            print(kill_runs(begin, Path(name), runs, journal))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_killed_runs_end_where_they_would_have_ended() -> None:
    ended = rerun(__file__, "2", "kill", "cut")
    found = [line[:7] for line in ended.stdout.splitlines()]
    assert found == ["2 of 2 "] * 2, ended.stdout + ended.stderr


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
