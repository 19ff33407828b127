"""Loss of power, as a file system may show it: what was not flushed is gone, in part or whole.

A process that `records` notes in a journal which files and folders it flushed, and keeps by hard
links what it replaces and deletes. After it was killed, `cut` turns the folder into one of the
states that a disk could be in: of each folder's changes since it was last flushed only the first
few took place, and of a file what was written since is cut, or zeros.
"""

import json
import os
import random
import shutil
import stat
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = ["cut", "records", "settle"]


def records(journal: Path) -> None:
    """Note from now on, in this process, what it does to files and folders."""
    note = _noter(journal)
    fsync, replace, unlink, mkdir, opened = os.fsync, os.replace, os.unlink, os.mkdir, Path.open

    def keep(path: Any) -> str | None:
        kept = journal / f"{os.getpid()}-{random.SystemRandom().getrandbits(64):x}"
        try:
            os.link(path, kept, follow_symlinks=False)
        except OSError:
            return None
        return str(kept)

    def noted_fsync(descriptor: int) -> None:
        fsync(descriptor)
        note(**_flushed(os.fstat(descriptor)))

    def noted_replace(source: Any, target: Any) -> None:
        note("replace", path=_of(target), source=_of(source), inode=os.stat(source).st_ino,
             kept=keep(target))  # fmt: skip
        replace(source, target)

    def noted_unlink(path: Any, **options: Any) -> None:
        if not options and os.path.lexists(path):
            note("unlink", path=_of(path), kept=keep(path))
        unlink(path, **options)

    def noted_mkdir(path: Any, *arguments: Any, **options: Any) -> None:
        mkdir(path, *arguments, **options)
        note("create", path=_of(path), inode=os.stat(path).st_ino)

    def noted_open(self: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        new = mode[0] in "xwa" and not self.exists()
        file = opened(self, mode, *arguments, **options)
        if new:
            note("create", path=_of(self), inode=os.fstat(file.fileno()).st_ino)
        return file

    os.fsync, os.replace = noted_fsync, noted_replace  # type: ignore[assignment]
    os.unlink, os.mkdir = noted_unlink, noted_mkdir  # type: ignore[assignment]
    Path.open = noted_open  # type: ignore[method-assign, assignment]


def cut(folder: Path, journal: Path, rng: random.Random) -> int:
    """Lose what the killed processes that noted in the journal had not flushed.

    Returns:
        How many changes and files were lost.
    """
    pending: dict[int, list[dict[str, Any]]] = defaultdict(list)
    sizes: dict[int, tuple[int, int]] = {}
    lines = journal / "lines"
    for line in lines.read_text("utf-8").splitlines() if lines.exists() else ():
        entry = json.loads(line)
        if entry["kind"] != "flushed":
            pending[entry["parent"]].append(entry)
        elif entry["folder"]:
            pending.pop(entry["inode"], None)
        else:
            sizes[entry["inode"]] = entry["size"], entry["at"]
    lost = 0
    # A folder's own entry is lost after what it holds.
    for changes in sorted(pending.values(), key=lambda found: -len(Path(found[0]["path"]).parts)):
        for entry in reversed(changes[rng.randint(0, len(changes)) :]):
            lost += _undo(entry)
    for path in folder.rglob("*"):
        found = path.lstat()
        if stat.S_ISREG(found.st_mode) and path.name != ".lock":
            size, at = sizes.get(found.st_ino, (0, 0))
            if (size, at) != (found.st_size, found.st_mtime_ns):
                _cut_file(path, min(size, found.st_size), found.st_size, rng)
                lost += 1
    settle(folder, journal)
    return lost


def settle(folder: Path, journal: Path) -> None:
    """Begin the journal anew: what is there now has reached the disk."""
    journal.mkdir(exist_ok=True)
    for kept in journal.iterdir():
        kept.unlink()
    with (journal / "lines").open("w", encoding="utf-8") as lines:
        for path in folder.rglob("*"):
            lines.write(json.dumps(_flushed(path.stat())) + "\n")


def _flushed(found: os.stat_result) -> dict[str, Any]:
    return {"kind": "flushed", "folder": stat.S_ISDIR(found.st_mode), "inode": found.st_ino,
            "size": found.st_size, "at": found.st_mtime_ns}  # fmt: skip


def _noter(journal: Path) -> Callable[..., None]:
    journal.mkdir(exist_ok=True)
    descriptor = os.open(journal / "lines", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(kind: str, **values: Any) -> None:
        if "path" in values:
            values["parent"] = os.stat(os.path.dirname(values["path"])).st_ino
        os.write(descriptor, (json.dumps({"kind": kind, **values}) + "\n").encode())

    return note


def _of(path: Any) -> str:
    return os.path.abspath(os.fspath(path))


def _undo(entry: dict[str, Any]) -> bool:
    """Undo a change; False if it had not taken place, or what it changed is gone."""
    path, kept = Path(entry["path"]), entry.get("kept")
    inode = path.lstat().st_ino if os.path.lexists(path) else None
    with suppress(OSError):
        if entry["kind"] == "unlink":
            if inode is None and kept:
                os.link(kept, path)
                return True
        elif inode != entry["inode"]:
            return False
        elif entry["kind"] == "create":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            return True
        else:
            os.rename(path, entry["source"])
            if kept:
                os.link(kept, path)
            return True
    return False


def _cut_file(path: Path, flushed: int, size: int, rng: random.Random) -> None:
    """Keep what was flushed, and of the rest the first part, or zeros in its place."""
    with path.open("rb+") as file:
        end = rng.randint(flushed, size)
        file.truncate(end)
        if rng.random() < 0.3:
            file.truncate(size)  # zeros
