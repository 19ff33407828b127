"""One process at a time in a folder, as long as it lives."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flowclf.support.errors import UserError

__all__ = ["FolderInUse", "locked"]


class FolderInUse(UserError):
    """Another process works in the folder."""


@contextmanager
def locked(folder: Path, wait: float = 0.0) -> Iterator[None]:
    """Hold a folder; the kernel lets go of it when the process ends, however that is.

    Args:
        folder: made if it is not there; `.lock` in it is what is held.
        wait: seconds to wait for another process that holds it.

    Raises:
        FolderInUse: another process still holds it.
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    # A singleton may be held twice by whoever holds it already.
    lock = FileLock(folder / ".lock", timeout=wait, is_singleton=True)
    try:
        lock.acquire(poll_interval=0.05)
    except Timeout:
        raise FolderInUse(
            f"{folder} is in use by another process; wait for it to end, or choose another --out"
        ) from None
    try:
        yield
    finally:
        lock.release()
