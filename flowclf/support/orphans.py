"""Processes that one training starts: no more than the machine can run, none without a parent.

It imports nothing that takes long: a process whose parent has died before they met is to end while
it still imports torch.
"""

import os
import threading
import time

from flowclf.support.atomic_files import tell
from flowclf.support.errors import UserError

__all__ = ["announce", "check_processes", "end_with_parent"]

PARENT = "FLOWCLF_PARENT"
STARTERS = {"SLURM_PROCID", "TORCHELASTIC_RUN_ID"}
MOST_PER_CORE = 4
POLL = 1.0


def check_processes(devices: int, nodes: int, kind: str) -> None:
    """Warn of more processes than cores on this machine, and say who is waited for.

    Raises:
        UserError: more than four times as many.
    """
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return
    own = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if own else os.cpu_count() or 1
    # Who started them otherwise has seen to cores, and may have bound this process to one.
    counted = kind == "cpu" and not os.environ.keys() & STARTERS
    if counted and devices > MOST_PER_CORE * cores:
        raise UserError(
            f"expected at most {MOST_PER_CORE * cores} processes, four for each of {cores} cores, "
            f"got --devices {devices}; they would only wait for each other"
        )
    if counted and devices > cores:
        tell(f"note: {devices} processes share {cores} cores, and wait for each other")
    if nodes > 1:
        address, port = (os.environ.get(k, "") for k in ("MASTER_ADDR", "MASTER_PORT"))
        where = f" at {address or 'this machine'}:{port or 'a port of its own'}"
        tell(f"waiting for the processes of {nodes - 1} other machines{where}, up to 30 minutes")


def announce() -> None:
    """Tell the processes that this one starts whom they belong to."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        os.environ[PARENT] = str(os.getpid())


def end_with_parent() -> None:
    """End this process once the one that started it has ended, if that has announced itself."""
    parent = os.environ.get(PARENT)
    if parent is None or os.environ.get("LOCAL_RANK", "0") == "0" or parent == str(os.getpid()):
        return

    def watch() -> None:
        while str(os.getppid()) == parent:
            time.sleep(POLL)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
