"""Output that holds: files that appear whole, locks on folders, lines that stop nobody.

A file appears whole or not at all: it is written under a temporary name, flushed, then renamed.
"""

import csv
import io
import json
import os
import secrets
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from errno import EBADF, EINVAL, ELOOP
from pathlib import Path
from typing import Any

from flowclf.support.errors import UserError, printable
from flowclf.support.parse import yaml_text

__all__ = [
    "FolderInUse",
    "append_line",
    "check_new",
    "check_no_file",
    "checked_path",
    "claimed",
    "csv_text",
    "json_text",
    "locked",
    "remove_parts",
    "tell",
    "write_csv",
    "write_json",
    "write_text",
    "write_whole",
    "write_yaml",
]


class FolderInUse(UserError):
    """Error of `locked`: another process works in the folder."""


# Of a file or folder, in bytes, on most systems.
LONGEST_NAME = 256
FORMULAS = ("=", "+", "-", "@", "\t", "\r")
# Of a folder's user; its own, apart from the lock's: Windows locks no folders.
LOCK = ".lock"


def check_new(folder: Path, remedy: str = "choose another") -> None:
    """Check that a folder is new, or empty but for a lock.

    Raises:
        UserError: it is not, or cannot be looked into.
    """
    try:
        taken = not folder.is_dir() if folder.exists() else folder.is_symlink()
        taken = taken or (folder.is_dir() and any(path.name != LOCK for path in folder.iterdir()))
    except OSError as error:
        raise UserError(f"cannot use the folder {folder}: {error.strerror}; {remedy}") from None
    if taken:
        raise UserError(f"expected a new or empty folder, got {folder}; {remedy}")


def checked_path(name: str, value: object) -> str | Path:
    """Return a path that a system can have; raise UserError for anything else."""
    if isinstance(value, str | Path) and str(value) and "\0" not in str(value):
        with suppress(UnicodeEncodeError):
            if max(map(len, os.fsencode(value).split(b"/"))) < LONGEST_NAME:
                return value
    raise UserError(f"expected {name}, the path of a folder, got {value!r:.80}")


def check_no_file(folder: Path) -> None:
    """Check that a folder to write to is not a file.

    Raises:
        UserError: it is.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"expected a folder to write to, but {folder} is a file")


def write_whole(
    path: Path,
    write: Callable[[Path], object],
    previous: Path | None = None,
    flush: bool = True,
) -> None:
    """Call `write` with a temporary path beside `path`, flush it to disk, and rename it.

    The temporary file is made under a name that nobody can foresee, and only where there is none:
    what lies there, such as a link, is never written through.

    Args:
        path: the file; its folder is created if need be.
        write: writes to the path that it is given.
        previous: new name, in the same folder, of the file that is replaced; None: it is deleted.
            A process killed between the two renames leaves `previous` alone.
        flush: False leaves it to the system when the file reaches the disk.

    Raises:
        OSError: it could not be written; the file of before is intact.
    """
    # The suffix stays: savefig and its like choose the format by it.
    part = path.with_name(f".{path.stem}.{secrets.token_hex(8)}.part{path.suffix}")
    try:
        _make_folder(path.parent)
        part.open("xb").close()
        write(part)
        if flush:
            with part.open("rb+") as file:
                os.fsync(file.fileno())
        if previous is not None and path.exists():
            os.replace(path, previous)
        os.replace(part, path)
        if flush:
            _flush_folder(path.parent)
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"cannot write {path}: {reason}; what was there before is kept") from error
    finally:
        with suppress(OSError):
            part.unlink()


def _make_folder(folder: Path) -> None:
    """Make a folder, and those above it, durable where they are new."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in new:
        _flush_folder(path.parent)


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


def append_line(path: Path, line: str) -> None:
    """Append a line and flush it to disk, and a new file's name, too.

    A process killed meanwhile leaves a part of the line.

    Raises:
        OSError: it could not be written, or but in part.
    """
    try:
        with path.open("a", encoding="utf-8") as file:
            new = file.tell() == 0
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        if new:
            _flush_folder(path.parent)
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror or error}") from error


def tell(line: str) -> None:
    """Print lines to standard error; a full disk, a closed pipe or a dead terminal loses them.

    Names in them are text: letters that would move the cursor or turn the line are escaped.
    """
    parts = line.split("\n")
    text = "\n".join(part if part.isprintable() else printable(part) for part in parts)
    with suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def write_json(path: Path, value: Any) -> None:
    """Write one JSON document; NaN and infinity raise ValueError."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """Return one JSON document; NaN and infinity raise ValueError."""
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]], header: bool = True) -> str:
    """Return rows as CSV, each line ending in a line feed.

    A spreadsheet must not take a name for a formula: a text that begins like one gets a ' in front.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows({name: _harmless(row[name]) for name in row} for row in rows)
    return text.getvalue()


def _harmless(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULAS) else cell


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as CSV below a header."""
    write_text(path, csv_text(columns, rows))


def write_yaml(path: Path, value: Any) -> None:
    """Write one YAML document, keys in the order given."""
    write_text(path, yaml_text(value))


@contextmanager
def locked(folder: Path, wait: float = 0.0, name: str = LOCK) -> Iterator[None]:
    """Hold a lock on a folder; the kernel releases it however the process ends.

    Args:
        folder: created if need be.
        wait: seconds to wait for another process to release it.
        name: file of the lock. With the usual one the folder itself is locked, too, where the
            system can: to delete the file lets nobody else in.

    Raises:
        FolderInUse: another process still holds it.
        UserError: the folder cannot be made or written to.
    """
    from filelock import FileLock, Timeout

    in_use = f"{folder} is in use by another process; wait for it to end, or choose another --out"
    # A singleton is reentrant: its holder may acquire it again.
    lock = FileLock(folder / name, is_singleton=True)
    try:
        _make_folder(folder)
        lock.acquire(timeout=wait, poll_interval=0.05)
    except Timeout:
        raise FolderInUse(in_use) from None
    except OSError as error:
        link = error.errno == ELOOP and (folder / name).is_symlink()
        reason = f"{name} in it is a link; remove it" if link else f"{error.strerror}"
        raise UserError(
            f"cannot use the folder {folder}: {reason}, or choose another --out"
        ) from None
    descriptor: int | None = None
    try:
        if name == LOCK and lock.lock_counter == 1:
            try:
                descriptor = _lock_itself(folder)
            except BlockingIOError:
                raise FolderInUse(in_use) from None
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)
        lock.release()


def _lock_itself(folder: Path) -> int | None:
    """Lock a folder itself; return its descriptor, None where the system cannot.

    Raises:
        BlockingIOError: another process holds it.
    """
    try:
        from fcntl import LOCK_EX, LOCK_NB, flock

        descriptor = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):
        return None
    try:
        flock(descriptor, LOCK_EX | LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:
        pass
    return descriptor


@contextmanager
def claimed(folder: Path, remedy: str = "choose another") -> Iterator[None]:
    """Hold a new or empty folder; it is removed again if nothing is written to it.

    Raises:
        FolderInUse: another process holds it.
        UserError: it holds something, or cannot be made or written to.
    """
    check_new(folder, remedy)
    with locked(folder, wait=0.3):
        check_new(folder, remedy)
        try:
            yield
        finally:
            with suppress(OSError):
                if [path.name for path in folder.iterdir()] == [LOCK]:
                    (folder / LOCK).unlink()
                    folder.rmdir()
