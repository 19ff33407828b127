"""Processes of one training: not too many, and none without a parent."""

import os
import subprocess
import sys
import time

import pytest

from flowclf.support.errors import UserError
from flowclf.support.orphans import PARENT, check_processes
from flowclf.training.distributed import as_started

CHILD = """
import os, subprocess, sys, time
if len(sys.argv) == 1:
    os.environ.update(FLOWCLF_PARENT=str(os.getpid()), LOCAL_RANK="1")
    child = subprocess.Popen([sys.executable, sys.argv[0], "child"])
    print(child.pid, flush=True)
    time.sleep(60)
from flowclf.support import orphans
orphans.POLL = 0.05
orphans.end_with_parent()
print("watching", flush=True)
while True:  # as a process that still imports
    pass
"""


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOCAL_RANK", "SLURM_PROCID", "TORCHELASTIC_RUN_ID", PARENT):
        monkeypatch.delenv(name, raising=False)


def test_a_process_whose_parent_is_killed_ends(tmp_path: object) -> None:
    script = os.path.join(str(tmp_path), "child.py")
    with open(script, "w") as file:
        file.write(CHILD)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert parent.stdout.readline() == "watching\n"
        parent.kill()
        # It holds the pipe for as long as it lives.
        start = time.monotonic()
        parent.stdout.read()
        assert time.monotonic() - start < 10
    assert child > 0


def test_more_processes_than_cores_are_said_and_far_more_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    check_processes(2, 1, "cpu")
    assert capsys.readouterr().err == ""
    check_processes(8, 1, "cpu")
    assert capsys.readouterr().err == "note: 8 processes share 2 cores, and wait for each other\n"
    with pytest.raises(UserError, match="at most 8 processes, four for each of 2 cores"):
        check_processes(9, 1, "cpu")
    check_processes(99, 1, "cuda")


def test_it_is_said_who_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MASTER_ADDR", "node7")
    monkeypatch.setenv("MASTER_PORT", "1234")
    check_processes(1, 3, "cpu")
    expected = "waiting for the processes of 2 other machines at node7:1234, up to 30 minutes\n"
    assert capsys.readouterr().err == expected


def test_what_an_allocation_left_over_starts_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "4")
    assert as_started(None, None) == (1, 1)
    assert "SLURM_NTASKS" not in os.environ
    assert "SLURM_NTASKS=4 is ignored" in capsys.readouterr().err
