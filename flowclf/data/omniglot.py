"""Omniglot as a classification of alphabets: which of 50 scripts is this character from?

Each of the 1,623 characters was drawn by 20 people. Drawers 1 to 15 are the train split, 16 to 20
the test split, so that every character is in both and no drawing of it is. The 105×105 bitmaps
become 28×28 grey levels, white ink on black, each the area average of 3.75×3.75 pixels (Pillow's
BOX filter: deterministic, without the overshoot of LANCZOS).
"""

import io
import re
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from flowclf.data.catalog import FILES
from flowclf.data.dataset import Dataset, Split, validate
from flowclf.data.pictures import decode
from flowclf.data.source import DataSource
from flowclf.support.errors import UserError

__all__ = ["Drawing", "load_omniglot", "read_drawings"]

_MEMBER = re.compile(
    r"images_[a-z]+/(?P<alphabet>[^/]+)/character\d+/\d+_(?P<drawer>\d\d)\.png", re.A
)
_SIDE = 105
_RESIZED = 28
_TRAIN_DRAWERS = 15
_DRAWERS = range(1, 21)
_ALPHABETS = 50
_IMAGES = 32_460
_MOST_MEMBERS = 100_000
_MOST_BYTES = 2**16


@dataclass(frozen=True, eq=False)
class Drawing:
    """One drawn character: grey levels (28, 28), its alphabet, and who drew it (1 to 20)."""

    alphabet: str
    drawer: int
    pixels: npt.NDArray[np.uint8]


def load_omniglot(source: DataSource) -> Dataset:
    """Load 24,345 and 8,115 images (1, 28, 28) of 50 alphabets, sorted by name.

    Raises:
        UserError: a zip is missing or damaged, or together they lack an alphabet.
    """
    found = [source.fetch("omniglot", file) for file in FILES["omniglot"]]
    drawings = [drawing for each in found for drawing in read_drawings(each.path)]
    names = tuple(sorted({drawing.alphabet for drawing in drawings}))
    if len(names) != _ALPHABETS:
        raise UserError(
            f"omniglot: expected {_ALPHABETS} alphabets in the two zip files, got {len(names)}; "
            "fetch them again"
        )
    notices = tuple(notice for each in found for notice in each.notices)
    if len(drawings) != _IMAGES:
        notices += (f"expected {_IMAGES:,} images, found {len(drawings):,}",)
    train = _to_split((d for d in drawings if d.drawer <= _TRAIN_DRAWERS), names)
    test = _to_split((d for d in drawings if d.drawer > _TRAIN_DRAWERS), names)
    data = Dataset("omniglot", train, test, names, levels=256, notices=notices)
    return validate(data, found[0].path.parent)


def _to_split(drawings: Iterable[Drawing], names: tuple[str, ...]) -> Split:
    numbers = {name: number for number, name in enumerate(names)}
    chosen = list(drawings)
    pixels = np.stack([d.pixels for d in chosen]) if chosen else np.empty((0, 1, 1), np.uint8)
    labels = [numbers[d.alphabet] for d in chosen]
    return Split(torch.from_numpy(pixels).unsqueeze(1), torch.tensor(labels, dtype=torch.int64))


def read_drawings(path: Path) -> Iterator[Drawing]:
    """Read the drawings in a zip, in the order of their names; other members are ignored.

    Raises:
        UserError: the zip or a picture in it is damaged, too large, there twice, not 105×105, or
            drawn by nobody known.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for member in _members(archive, path):
                yield _read(archive, member, path)
    except UserError:
        raise
    # zipfile and its decompressors fail in ways of their own.
    except Exception as error:
        raise UserError(
            f"{path}: expected an intact zip, got a damaged one ({type(error).__name__}); "
            "fetch it again"
        ) from error


def _members(archive: zipfile.ZipFile, path: Path) -> list[zipfile.ZipInfo]:
    infos = archive.infolist()
    if len(infos) > _MOST_MEMBERS or any(info.file_size > _MOST_BYTES for info in infos):
        raise UserError(
            f"{path}: expected at most {_MOST_MEMBERS:,} files of at most {_MOST_BYTES:,} bytes, "
            "got more; fetch the official zip"
        )
    chosen = sorted(
        (info for info in infos if _MEMBER.fullmatch(info.filename)), key=lambda i: i.filename
    )
    for one, next_one in pairwise(chosen):
        if one.filename == next_one.filename:
            raise UserError(
                f"{path}: expected each picture once, got {one.filename!r} twice; fetch it again"
            )
    return chosen


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> Drawing:
    from PIL.Image import Resampling
    from PIL.ImageChops import invert

    name = _MEMBER.fullmatch(member.filename)
    assert name
    where, drawer = f"{path}: {member.filename!r}", int(name["drawer"])
    if drawer not in _DRAWERS:
        raise UserError(f"{where}: expected a drawer from 1 to 20, got {drawer}; fetch it again")
    # Asked for no number, zipfile unpacks all that is there before it cuts off what is too much.
    with archive.open(member) as stream:
        content = stream.read(member.file_size)
    image = decode(io.BytesIO(content), where, most_pixels=_SIDE * _SIDE).convert("L")
    if image.size != (_SIDE, _SIDE):
        raise UserError(
            f"{where}: expected {_SIDE}×{_SIDE} pixels, got {image.width}×{image.height}; "
            "fetch the official zip"
        )
    shrunk = invert(image).resize((_RESIZED, _RESIZED), Resampling.BOX)
    return Drawing(name["alphabet"], drawer, np.asarray(shrunk, dtype=np.uint8))
