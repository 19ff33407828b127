"""Atomic file writes, and locks on folders.

A file appears whole or not at all: it is written under a temporary name, flushed, then renamed.
"""

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from errno import EBADF, EINVAL
from pathlib import Path
from typing import Any

import yaml

from flowclf.support.errors import UserError

__all__ = [
    "FolderInUse",
    "check_new",
    "check_no_file",
    "csv_text",
    "locked",
    "occupied",
    "remove_parts",
    "write_csv",
    "write_json",
    "write_text",
    "write_whole",
    "write_yaml",
]


class FolderInUse(UserError):
    """Error of `locked`: another process works in the folder."""


def occupied(folder: Path) -> bool:
    """Return True if the path is a file or a folder that is not empty."""
    return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))


def check_new(folder: Path) -> None:
    """Check that a folder is new or empty.

    Raises:
        UserError: it is not.
    """
    if occupied(folder):
        raise UserError(f"expected a new or empty folder, got {folder}; choose another")


def check_no_file(folder: Path) -> None:
    """Check that a folder to write to is not a file.

    Raises:
        UserError: it is.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"expected a folder to write to, but {folder} is a file")


def write_whole(path: Path, write: Callable[[Path], object], previous: Path | None = None) -> None:
    """Call `write` with a temporary path beside `path`, flush it to disk, and rename it.

    Args:
        path: the file; its folder is created if need be.
        write: writes to the path that it is given.
        previous: new name, in the same folder, of the file that is replaced; None: it is deleted.
            A process killed between the two renames leaves `previous` alone.

    Raises:
        OSError: it could not be written; the file of before is intact.
    """
    # The suffix stays: savefig and its like choose the format by it.
    part = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(part)
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            os.replace(path, previous)
        os.replace(part, path)
        _flush_folder(path.parent)
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"cannot write {path}: {reason}; what was there before is kept") from error
    finally:
        with suppress(OSError):
            part.unlink()


def _flush_folder(folder: Path) -> None:
    """Make renames in a folder durable, where the system can: Windows opens no folders."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems cannot flush a folder, and say so with these.
        if error.errno not in (EBADF, EINVAL):
            raise
    finally:
        os.close(descriptor)


def remove_parts(path: Path) -> None:
    """Delete temporary files that killed writers of `path` left; nobody else may be writing it."""
    for part in path.parent.glob(f".{path.stem}.*.part{path.suffix}"):
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write text in UTF-8."""
    write_whole(path, lambda part: part.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write one JSON document; NaN and infinity raise ValueError."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]], header: bool = True) -> str:
    """Return rows as CSV, each line ending in a line feed."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as CSV below a header."""
    write_text(path, csv_text(columns, rows))


def write_yaml(path: Path, value: Any) -> None:
    """Write one YAML document, keys in the order given."""
    write_text(path, yaml.safe_dump(value, sort_keys=False, allow_unicode=True))


@contextmanager
def locked(folder: Path, wait: float = 0.0) -> Iterator[None]:
    """Hold a lock on a folder; the kernel releases it however the process ends.

    Args:
        folder: created if need be; the lock is its file `.lock`.
        wait: seconds to wait for another process to release it.

    Raises:
        FolderInUse: another process still holds it.
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    # A singleton is reentrant: its holder may acquire it again.
    lock = FileLock(folder / ".lock", is_singleton=True)
    try:
        lock.acquire(timeout=wait, poll_interval=0.05)
    except Timeout:
        raise FolderInUse(
            f"{folder} is in use by another process; wait for it to end, or choose another --out"
        ) from None
    try:
        yield
    finally:
        lock.release()
