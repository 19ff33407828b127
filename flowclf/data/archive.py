"""Reads chosen members of a `.tar.gz` into memory; nothing is ever written to disk."""

import tarfile
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path

from flowclf.errors import UserError

__all__ = ["MOST_BYTES", "read_members"]

MOST_BYTES = 256 * 2**20
"""No batch of CIFAR is larger."""
_MOST_MEMBERS = 1000


def read_members(path: Path, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """(name, content) of each regular file in the archive whose full name is `wanted`.

    Raises:
        UserError: the archive is damaged, or a wanted member is not a file of bounded size.
    """
    try:
        with tarfile.open(path, "r:gz") as tar:
            for number, member in enumerate(tar):
                _check_member(member, number, path)
                if member.name.removeprefix("./") in wanted:
                    yield member.name.removeprefix("./"), _content(tar, member, path)
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise UserError(
            f"{path}: expected an intact .tar.gz, got a damaged one ({type(error).__name__}); "
            "fetch it again"
        ) from error


def _check_member(member: tarfile.TarInfo, number: int, path: Path) -> None:
    if number >= _MOST_MEMBERS or member.size > MOST_BYTES:
        raise UserError(
            f"{path}: expected fewer than {_MOST_MEMBERS} files of at most {MOST_BYTES:,} bytes, "
            f"got more at {member.name!r}; fetch the official archive"
        )


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> bytes:
    stream = tar.extractfile(member) if member.isreg() else None
    if stream is None:
        raise UserError(f"{path}: expected a plain file, got a link or folder {member.name!r}")
    return stream.read()
