"""Processes that tests start: forks of this one, and others that hold a folder."""

import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HOLD = """
import sys, time
from pathlib import Path
from flowclf.support.atomic_files import locked
with locked(Path(sys.argv[1])):
    for name, content in zip(sys.argv[2::2], sys.argv[3::2]):
        Path(sys.argv[1], name).write_text(content)
    print("held", flush=True)
    time.sleep(60)
"""


def fork(work: Callable[[], object]) -> int:
    """Do the work in a fork of this process, which has everything imported.

    Returns:
        The process; it ends with the status that the work returns, if any.
    """
    process = os.fork()
    if process:
        return process
    status: object = 70
    try:
        status = work()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status if isinstance(status, int) else 0)


def rerun(file: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a test file as a program: a new interpreter has no threads, which forks would miss, and
    nothing in it that else lives or dies."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    options: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 600}
    return subprocess.run([sys.executable, file, *arguments], env=environment, **options)


@contextmanager
def held(folder: Path, *files: str) -> Iterator[subprocess.Popen[str]]:
    """Hold a folder's lock by a process that is killed at the end.

    `files` are names and contents, in turn, of what it has written by then.
    """
    command = [sys.executable, "-c", HOLD, str(folder), *files]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()
