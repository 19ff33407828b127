"""Ctrl-C and SIGTERM, which end a run between two steps."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Interrupted", "StopFlag", "stop_on_signal"]

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):
    """Request to stop; the run has saved its checkpoint."""


class StopFlag:
    """Flag that the first signal sets; a second signal is no longer caught."""

    raised = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle the signal."""
        self.raised = True
        for each in SIGNALS:
            signal.signal(each, signal.SIG_DFL)


@contextmanager
def stop_on_signal() -> Iterator[StopFlag]:
    """Return a flag that a signal sets; outside the main thread none can be caught."""
    flag = StopFlag()
    caught = SIGNALS if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, flag) for number in caught}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
