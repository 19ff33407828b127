"""Source of files: the user's folders first, then the cache, then the network."""

import hashlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from flowclf.data.catalog import FILES, OfficialFile
from flowclf.support.errors import UserError

__all__ = ["DataSource", "Found", "find_in", "user_cache"]

_ENV = "FLOWCLF_DATA"
# Of one download: CIFAR's archives are the largest, 177 MB.
MOST_BYTES = 256 * 2**20
MOST_SECONDS = 3600
SILENCE = 30  # seconds


def user_cache() -> Path:
    """Return the user's cache folder, where downloads are kept (it need not exist yet)."""
    import pooch

    return Path(pooch.os_cache("flowclf"))


@dataclass(frozen=True)
class Found:
    """File on disk, and True if its checksum is the published one."""

    path: Path
    official: bool

    @property
    def notices(self) -> tuple[str, ...]:
        if self.official:
            return ()
        return (f"{self.path.name}: differs from the official file (checksum), read as it is",)


@dataclass(frozen=True)
class DataSource:
    """Search in `data_dir`, $FLOWCLF_DATA and the user's cache, then download.

    Inside a root a file may lie at `<root>/<folder>/<name>` or `<root>/<name>`, and without
    its `.gz`.
    """

    data_dir: Path | None = None
    download: bool = True

    def roots(self) -> Iterator[Path]:
        """Return the existing roots in the order of search.

        Raises:
            UserError: `data_dir` or $FLOWCLF_DATA names no folder.
        """
        named = (("the data folder", self.data_dir), (f"${_ENV}", os.environ.get(_ENV)))
        for what, where in named:
            if where:
                path = Path(where).expanduser()
                if not path.is_dir():
                    raise UserError(
                        f"expected {what} to be an existing folder, got {path}; correct the path"
                    )
                yield path
        cache = user_cache()
        if cache.is_dir():
            yield cache

    def find(self, folder: str, file: OfficialFile) -> Found | None:
        """Return the first acceptable copy of `file`, or None; never downloads."""
        finds = (find_in(root, folder, file) for root in self.roots())
        return next((found for found in finds if found), None)

    def fetch(self, folder: str, file: OfficialFile) -> Found:
        """Return a copy of `file`, downloaded into the cache if there is none.

        Raises:
            UserError: it is not there and could not, or must not, be downloaded.
        """
        found = self.find(folder, file)
        if found:
            return found
        if not self.download:
            raise UserError(
                f"expected {file.name} of {folder}, found no such file; {self._remedy(folder)}, "
                "or allow the download"
            )
        return self._retrieve(folder, file)

    def _retrieve(self, folder: str, file: OfficialFile) -> Found:
        failures = []
        for url in file.urls:
            try:
                return Found(_download(url, file, user_cache() / folder), official=True)
            # requests, urllib3 and pooch (a ValueError for a wrong checksum) share no base class.
            except Exception as error:
                wrong = isinstance(error, ValueError) and "hash" in str(error)
                reason = "wrong checksum" if wrong else type(error).__name__
                failures.append(f"{urlsplit(url).hostname}: {reason}")
        raise UserError(
            f"could not download {file.name} of {folder} from any of {len(failures)} hosts "
            f"({'; '.join(failures)}); {self._remedy(folder)}"
        )

    def _remedy(self, folder: str) -> str:
        root = self.data_dir or os.environ.get(_ENV) or user_cache()
        return f"put the official files into {Path(root) / folder} or set {_ENV} to their folder"


def find_in(root: Path, folder: str, file: OfficialFile) -> Found | None:
    """Return the first acceptable copy of `file` below `root`, or None."""
    names = (file.name, file.name.removesuffix(".gz")) if file.unpacked_md5 else (file.name,)
    for path in (parent / name for parent in (root / folder, root) for name in names):
        if path.is_file() and (found := _recognise(path, folder, file)):
            return found
    return None


def _recognise(path: Path, folder: str, file: OfficialFile) -> Found | None:
    """Return None for another data set's file: MNIST and Fashion-MNIST use the same names."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(
            stream, partial(hashlib.md5, usedforsecurity=False)
        ).hexdigest()
    for owner, files in FILES.items():
        if any(digest in (other.md5, other.unpacked_md5) for other in files):
            return Found(path, official=True) if owner == folder else None
    return Found(path, official=digest == file.md5)


def _download(url: str, file: OfficialFile, target: Path) -> Path:
    import pooch

    # pooch checks a temporary file and renames it, so that a broken download leaves nothing.
    return Path(
        pooch.retrieve(url, f"md5:{file.md5}", fname=file.name, path=target, downloader=_bounded)
    )


def _bounded(url: str, output: str, _: object) -> None:
    """Write what a server sends to a file, as long as it is no more than a published file could be.

    Raises:
        OSError: it is larger, takes longer, or the server fails.
    """
    import requests

    end = time.monotonic() + MOST_SECONDS
    with requests.get(url, stream=True, timeout=SILENCE) as response, open(output, "wb") as file:
        response.raise_for_status()
        for chunk in response.iter_content(2**16):
            file.write(chunk)
            if file.tell() > MOST_BYTES or time.monotonic() > end:
                raise OSError(f"more than {MOST_BYTES:,} bytes or {MOST_SECONDS} s")
