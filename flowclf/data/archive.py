"""Reader of chosen members of a `.tar.gz`, in memory; nothing is ever written to disk."""

import gzip
import io
import shutil
import tarfile
from collections.abc import Collection, Iterator
from pathlib import Path

from flowclf.support.errors import UserError

__all__ = ["MOST_BYTES", "read_members"]

MOST_BYTES = 256 * 2**20
"""No batch of CIFAR is larger."""
_MOST_MEMBERS = 1000
_MOST_IN_ALL = 2**30
_AT_ONCE = 2**16


def read_members(path: Path, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of each regular file whose full name is `wanted`.

    Raises:
        UserError: the archive is damaged, a wanted member is there twice or is not a file, or they
            are larger or more than any that are official.
    """
    try:
        with _Bounded(path) as stream:
            with tarfile.open(fileobj=stream, mode="r:") as tar:
                yield from _members(tar, wanted, path)
            # tarfile ends in silence at a damaged header, and gzip's checksum is the last of all.
            while rest := stream.read(_AT_ONCE):
                if rest.strip(b"\0"):
                    raise tarfile.ReadError
    except UserError:
        raise
    # tarfile lets through what zlib, struct and int have to say of a damaged header.
    except Exception as error:
        raise UserError(
            f"{path}: expected an intact .tar.gz, got a damaged one ({type(error).__name__}); "
            "fetch it again"
        ) from error


class _Bounded(gzip.GzipFile):
    """Gzip stream with bounds on each read and on the total: headers alone may claim gigabytes."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= _AT_ONCE or self.tell() > _MOST_IN_ALL:
            raise UserError(
                f"{self.name}: expected headers of at most {_AT_ONCE:,} bytes and files of at most "
                f"{_MOST_IN_ALL:,} in all, got more; fetch the official archive"
            )
        return super().read(size)


def _members(
    tar: tarfile.TarFile, wanted: Collection[str], path: Path
) -> Iterator[tuple[str, bytes]]:
    found: set[str] = set()
    for number, member in enumerate(tar):
        if number >= _MOST_MEMBERS or not 0 <= member.size <= MOST_BYTES:
            raise UserError(
                f"{path}: expected fewer than {_MOST_MEMBERS} files of at most {MOST_BYTES:,} "
                f"bytes, got more at {member.name!r}; fetch the official archive"
            )
        name = member.name.removeprefix("./")
        if name in found:
            raise UserError(f"{path}: expected each file once, got {name!r} twice; fetch it again")
        if name in wanted:
            found.add(name)
            yield name, _content(tar, member, path)


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> bytes:
    # A sparse file's map can make tarfile look for its next part forever.
    plain = member.isreg() and not member.issparse()
    stream = tar.extractfile(member) if plain else None
    if stream is None:
        raise UserError(
            f"{path}: expected a plain file, got a link, folder or sparse file {member.name!r}; "
            "fetch the official archive"
        )
    content = io.BytesIO()
    shutil.copyfileobj(stream, content, _AT_ONCE)
    return content.getvalue()
