"""Processes side by side: one that is killed takes no other's work with it."""

import os
import signal
import threading
import time
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import pytest

from flowclf.many.pool import run_jobs
from flowclf.support.errors import UserError
from flowclf.training.interrupt import Interrupted, stop_on_signal


def count(number: int) -> int:
    return number


def die(mark: Path, times: int) -> int:
    """Killed the first `times` times; the mark counts them."""
    tries = len(mark.read_text()) if mark.exists() else 0
    if tries < times:
        mark.write_text("x" * (tries + 1))
        os.kill(os.getpid(), signal.SIGKILL)
    return -times


def until_stopped(folder: Path, number: int) -> int:
    """Train until a signal comes, and save."""
    with stop_on_signal() as stop:
        (folder / f"begun{number}").touch()
        while not stop.raised:
            time.sleep(0.01)
        (folder / f"saved{number}").touch()
        raise Interrupted("saved")


def lost(job: partial[int]) -> int:
    return -100 * job.args[1]


def test_a_killed_process_is_tried_again_and_named_when_it_dies_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Six processes or more, of which each would import torch for itself.
    context = get_context("forkserver")
    context.set_forkserver_preload(["flowclf.many.pool"])
    monkeypatch.setattr("flowclf.many.pool.get_context", lambda method: context)
    once, always = partial(die, tmp_path / "once", 1), partial(die, tmp_path / "always", 9)
    jobs = [partial(count, 1), once, partial(count, 2), always, partial(count, 3)]
    assert sorted(run_jobs(jobs, 2, lost)) == [-900, -1, 1, 2, 3]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_parent_alone_saves_and_stops_the_jobs(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if signal.getsignal(number) == signal.SIG_IGN:
        pytest.skip("this process was started to ignore the signal, as by nohup")
    context = get_context("forkserver")
    context.set_forkserver_preload(["flowclf.many.pool"])
    monkeypatch.setattr("flowclf.many.pool.get_context", lambda method: context)

    def send() -> None:
        while len([*tmp_path.glob("begun*")]) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    threading.Thread(target=send).start()
    with pytest.raises(Interrupted):
        list(run_jobs([partial(until_stopped, tmp_path, k) for k in range(3)], 2))
    assert sorted(path.name for path in tmp_path.glob("saved*")) == ["saved0", "saved1"]


def test_without_a_word_for_it_a_killed_job_ends_the_rest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="again and again.*fewer workers"):
        list(run_jobs([partial(die, tmp_path / "always", 9)], 2))
