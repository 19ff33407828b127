"""Signals, which end a run between two steps: Ctrl-C, and those of systems, shells and Slurm."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Interrupted", "StopFlag", "stop_on_signal"]

# Windows has but the first two.
NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
SIGNALS = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))
# Seconds in which further signals are the same request: sent to a process, and to its group.
ONE_REQUEST = 3.0


class Interrupted(Exception):
    """Request to stop; the run has saved its checkpoint."""


class StopFlag:
    """Flag that the first signal sets; one that comes later is no longer caught."""

    raised = False
    _since = 0.0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle the signal."""
        if not self.raised:
            self.raised, self._since = True, time.monotonic()
        elif time.monotonic() - self._since > ONE_REQUEST:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


@contextmanager
def stop_on_signal() -> Iterator[StopFlag]:
    """Return a flag that a signal sets; outside the main thread none can be caught.

    Signals that the process ignores, as nohup has SIGHUP ignored, stay ignored.
    """
    flag, main = StopFlag(), threading.current_thread() is threading.main_thread()
    caught = [n for n in SIGNALS if main and signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, flag) for number in caught}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
