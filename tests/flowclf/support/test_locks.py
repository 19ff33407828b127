"""A folder belongs to one process, and to nobody once that is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowclf.support.atomic_files import FolderInUse, locked

HOLD = """
import sys, time
from pathlib import Path
from flowclf.support.atomic_files import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the folder `run`."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_another_process_is_refused_at_once_and_by_name(
    holder: subprocess.Popen[str], tmp_path: Path
) -> None:
    start = time.perf_counter()
    with (
        pytest.raises(FolderInUse, match=r"run is in use by another process"),
        locked(tmp_path / "run"),
    ):
        pass
    assert time.perf_counter() - start < 1


def test_a_killed_holder_lets_go(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    os.kill(holder.pid, signal.SIGKILL)
    with locked(tmp_path / "run", wait=1.0):
        pass


def test_one_process_may_hold_it_twice(tmp_path: Path) -> None:
    with locked(tmp_path), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass
