"""MNIST's idx format, the two data sets that are published in it, and MNIST rotated."""

import gzip
import math
import zlib
from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from flowclf.data.catalog import FILES
from flowclf.data.dataset import Dataset, Split, check_labels, validate
from flowclf.data.rotate import random_angles, rotated
from flowclf.data.source import DataSource
from flowclf.support.devices import check_fits
from flowclf.support.errors import UserError

__all__ = [
    "load_fashion_mnist",
    "load_mnist",
    "load_rotated_mnist",
    "read_idx",
    "read_labelled",
]

_FASHION_NAMES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
_UBYTE = 8
_SIDE, _CLASSES = 28, 10
# Deflate cannot do better, so that no header makes us reserve more memory than its file can fill.
_MOST_INFLATION = 1032
# The angles belong to the data set, not to a run: every run sees and is tested on the same images.
_ROTATION_SEEDS = (360, 361)
_ROTATED_AT_ONCE = 5000


def load_mnist(source: DataSource) -> Dataset:
    """Load MNIST: 60,000 and 10,000 images (1, 28, 28)."""
    return _load("mnist", tuple("0123456789"), source)


def load_fashion_mnist(source: DataSource) -> Dataset:
    """Load Fashion-MNIST: 60,000 and 10,000 images (1, 28, 28)."""
    return _load("fashion-mnist", _FASHION_NAMES, source)


def load_rotated_mnist(source: DataSource) -> Dataset:
    """Load MNIST, each image rotated by a random angle, uniform in [0, 360) degrees.

    Always the same angles: those of torch's CPU generator, seeded with 360 for the training and
    361 for the test split.
    """
    data = load_mnist(source)
    train, test = map(_rotate, (data.train, data.test), _ROTATION_SEEDS)
    return replace(data, name="rotated-mnist", train=train, test=test)


def _rotate(split: Split, seed: int) -> Split:
    angles = random_angles(len(split), torch.Generator().manual_seed(seed))
    parts = zip(split.x.split(_ROTATED_AT_ONCE), angles.split(_ROTATED_AT_ONCE), strict=True)
    return replace(split, x=torch.cat([rotated(x, part).to(x.dtype) for x, part in parts]))


def _load(name: str, class_names: tuple[str, ...], source: DataSource) -> Dataset:
    found = [source.fetch(name, file) for file in FILES[name]]
    train_x, train_y, test_x, test_y = (each.path for each in found)
    notices = tuple(notice for each in found for notice in each.notices)
    train, test = _digits(train_x, train_y), _digits(test_x, test_y)
    data = Dataset(name, train, test, class_names, levels=256, notices=notices)
    return validate(data, train_x.parent)


def _digits(images: Path, labels: Path) -> Split:
    """Load 28×28 images of ten classes, the form of both data sets."""
    split = read_labelled(images, labels)
    height, width = split.x.shape[2:]
    if (height, width) != (_SIDE, _SIDE):
        raise UserError(
            f"{images}: expected images of {_SIDE}×{_SIDE} pixels, got {height}×{width}; "
            "fetch it again"
        )
    check_labels(split.y, _CLASSES, str(labels))
    return split


def read_labelled(images: Path, labels: Path) -> Split:
    """Read images (N, 1, H, W) and labels (N,) from two idx files.

    Raises:
        UserError: a file is damaged, or the two differ in length.
    """
    x, y = read_idx(images, ndim=3), read_idx(labels, ndim=1)
    if len(x) != len(y):
        raise UserError(
            f"{images} and {labels.name}: expected as many labels as images, got {len(x)} "
            f"images and {len(y)} labels; put files of one data set together"
        )
    return Split(x.unsqueeze(1), y.to(torch.int64))


def read_idx(path: Path, ndim: int) -> Tensor:
    """Read a uint8 array of `ndim` dimensions from an idx file, gzipped if it ends in `.gz`.

    Raises:
        UserError: anything but exactly one intact array of unsigned bytes.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            shape = _read_header(stream, path, ndim)
            expected = math.prod(shape)
            _check_declared(expected, path)
            content = stream.read(expected + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(
            f"{path}: expected an intact gzip file, got a damaged one "
            f"({type(error).__name__}); fetch it again"
        ) from error
    if len(content) != expected:
        got = f"{len(content):,}" if len(content) < expected else "more"
        raise UserError(
            f"{path}: expected {expected:,} bytes after the header, got {got}; fetch it again"
        )
    return torch.from_numpy(np.frombuffer(content, dtype=np.uint8).reshape(shape).copy())


def _read_header(stream: IO[bytes] | gzip.GzipFile, path: Path, ndim: int) -> tuple[int, ...]:
    magic, expected = stream.read(4), bytes((0, 0, _UBYTE, ndim))
    if magic != expected:
        raise UserError(
            f"{path}: expected an idx file of unsigned bytes in {ndim} dimensions (magic "
            f"{expected.hex()}), got magic {magic.hex() or 'nothing'}; fetch it again"
        )
    sizes = stream.read(4 * ndim)
    if len(sizes) < 4 * ndim:
        raise UserError(f"{path}: expected {ndim} dimensions, got the end of file; fetch it again")
    return tuple(int.from_bytes(sizes[i : i + 4], "big") for i in range(0, 4 * ndim, 4))


def _check_declared(expected: int, path: Path) -> None:
    inflation = _MOST_INFLATION if path.suffix == ".gz" else 1
    if expected > path.stat().st_size * inflation:
        raise UserError(
            f"{path}: expected {expected:,} bytes as its header says, got a file too short to hold "
            "them; fetch it again"
        )
    if expected == 0:
        raise UserError(f"{path}: expected at least one value, got an empty array")
    check_fits(expected, str(path))
