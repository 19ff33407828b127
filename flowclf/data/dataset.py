"""Data sets: two labelled splits, their validation, and how rows are drawn from them."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self
from unicodedata import bidirectional, category

import numpy as np
import torch
from torch import Tensor

from flowclf.data.features import Features
from flowclf.data.streamed import Shards
from flowclf.support.errors import UserError
from flowclf.support.safetensors import digest

__all__ = [
    "Dataset",
    "Reading",
    "Split",
    "check_labels",
    "draw_test",
    "hold_out",
    "keep_labels",
    "stratified",
    "subset",
    "validate",
    "weighted",
]

_SHOWN = 12
_NO_LABEL = -1
TURNING = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")


@dataclass(frozen=True, eq=False)
class Split:
    """Samples with their labels.

    Args:
        x: images as uint8 grey levels (N, C, H, W), which may be `Shards` that stay in their files,
            or a table as float32 (N, F).
        y: int64 class numbers (N,); -1 is a row without a label.
        weight: float64 (N,), how often a row is drawn in training, relative to others; None: equal.

    Raises:
        UserError: x and y differ in length.
    """

    x: Tensor
    y: Tensor
    weight: Tensor | None = None

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise UserError(
                f"expected one label per row, got {len(self.x)} rows and {len(self.y)} labels; "
                "make x and y equally long"
            )

    def __len__(self) -> int:
        return len(self.y)

    def __repr__(self) -> str:
        return f"Split({len(self):,} samples of shape {tuple(self.x.shape[1:])}, {self.x.dtype})"

    def take(self, indices: Tensor | slice) -> Self:
        """Return the rows at `indices` (int64 or bool tensor, or a slice), in that order."""
        x = self.x.part(indices) if isinstance(self.x, Shards) else self.x[indices]
        weight = None if self.weight is None else self.weight[indices]
        return type(self)(x, self.y[indices], weight)

    def spread(self, count: int) -> Self:
        """Return at most `count` rows, evenly spaced: of every class, however they are sorted."""
        if len(self) <= count:
            return self
        return self.take(torch.linspace(0, len(self) - 1, count).long())

    @property
    def unlabelled(self) -> Tensor:
        """Bool mask (N,) of the rows without a label."""
        return self.y == _NO_LABEL

    def labelled(self) -> Self:
        """Return the rows with a label, in their old order; itself if that is all of them."""
        unlabelled = self.unlabelled
        return self.take(~unlabelled) if unlabelled.any() else self


@dataclass(frozen=True, eq=False)
class Dataset:
    """Named data set with its official (or the user's) splits, of equal sample shape."""

    name: str  # in messages and result files
    train: Split
    test: Split
    class_names: tuple[str, ...]  # K, in the order of the class numbers
    levels: int | None = None  # of an image, values 0..levels-1 (256 for 8 bits); None for a table
    notices: tuple[str, ...] = ()  # what is not as it officially is, one line each for the user
    vocabulary: tuple[str, ...] = ()  # words that the columns of a table of texts stand for
    feature_names: tuple[str, ...] = ()  # of a table's columns, where they are known
    features: Features | None = None  # what made a table of pictures or texts

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of an image, (F,) of a table's row."""
        return tuple(self.train.x.shape[1:])

    @property
    def classes(self) -> int:
        """The number K of classes."""
        return len(self.class_names)

    def __repr__(self) -> str:
        kind = f"images {self.shape}" if self.is_image else f"rows of {self.shape[0]} numbers"
        return (
            f"Dataset({self.name!r}, {len(self.train):,} training and {len(self.test):,} test "
            f"{kind}, {self.classes} classes)"
        )

    @property
    def is_image(self) -> bool:
        return self.train.x.ndim == 4

    @cached_property
    def sha256(self) -> str:
        """Digest of all samples and labels, wherever they were read from.

        Of images that stay in their files, the checksums that these were written with stand in. Of
        features it is that of what they were made from, as their last bits differ by machine.
        """
        if self.features is not None:
            return self.features.sha256
        parts = {"train": self.train, "test": self.test}
        images = {f"{name}.x": part.x for name, part in parts.items()}
        sums = {n: x.checksums if isinstance(x, Shards) else x for n, x in images.items()}
        labels = {f"{name}.y": part.y for name, part in parts.items()}
        weights = {} if self.train.weight is None else {"train.weight": self.train.weight}
        return digest(sums | labels | weights)


@dataclass(frozen=True)
class Reading:
    """Options for reading the user's own files; each is a setting `data.` of the same name."""

    target: str | None = None  # column of the labels, of a table in a .csv or .parquet file
    drop: tuple[str, ...] = ()  # its columns to leave out
    weight: str | None = None  # its column of the rows' weights in training
    # Missing values of a table: an error, or the median of the training rows (of a category: one
    # of its own).
    missing: Literal["refuse", "impute"] = "refuse"
    size: tuple[int, ...] | int | None = None  # of pictures: the side, or (H, W)
    mode: Literal["as-is", "grey", "rgb"] = "as-is"  # of pictures
    range: tuple[float, ...] | None = None  # of images of floats: what is black, and what is white
    test_share: float = 0.2  # of all samples, drawn where the data have no test split …
    split_seed: int = 0  # … with this seed

    @classmethod
    def of(cls, settings: Any) -> Self:
        """Take the fields from an object with attributes of the same names."""
        return cls(**{field.name: getattr(settings, field.name) for field in fields(cls)})


def draw_test(split: Split, reading: Reading, where: str) -> tuple[Split, Split, str]:
    """Draw a test split by class: (train, test, the notice that says so).

    Raises:
        UserError: too few samples for one of each class in train, and one in test.
    """
    labelled, classes = int((~split.unlabelled).sum()), len(_rows_by_class(split))
    size = max(classes, int(labelled * (1 - reading.test_share) + 1e-9))
    if size >= labelled:
        raise UserError(
            f"{where}: expected more samples than classes, to hold some out for the test, got "
            f"{labelled} of {classes} classes; add samples, or give a test split"
        )
    train, test = stratified(split, size, reading.split_seed)
    return (
        train,
        test,
        (
            f"{where}: {len(test):,} of {len(split):,} samples were drawn for the test "
            f"(data.test_share={reading.test_share:g}, data.split_seed={reading.split_seed})"
        ),
    )


def weighted(split: Split, weight: Any, where: str) -> Split:
    """Return a split with weights (N,) for training; rows of weight 0 are left out.

    Raises:
        UserError: not one number a row, or one that is negative or not finite.
    """
    try:
        given = weight.detach().cpu() if isinstance(weight, Tensor) else weight
        values = torch.from_numpy(np.array(given, dtype=np.float64))
    except (TypeError, ValueError):
        raise UserError(f"{where}: expected weights that are numbers, got others") from None
    if values.shape != split.y.shape:
        raise UserError(
            f"{where}: expected a weight for each of {len(split)} rows, got {tuple(values.shape)}"
        )
    if not bool((values >= 0).all() and values.isfinite().all()):
        wrong = values[~((values >= 0) & values.isfinite())]
        raise UserError(
            f"{where}: expected weights of 0 or more, got {float(wrong[0]):g}; correct or drop it"
        )
    return replace(split, weight=values).take(values > 0)


def validate(data: Dataset, path: Path | None = None) -> Dataset:
    """Return `data` after checking everything that training relies on; messages name the path.

    Raises:
        UserError: an empty split, shapes that differ, a value that is not finite or not a grey
            level, fewer than two classes, a class name that cannot be printed and stored, or
            labels that are not 0..K-1 with each in train; beside these, train alone may hold -1,
            a row without a label.
    """
    where = str(path or data.name)
    for which, split in (("train", data.train), ("test", data.test)):
        kind = (split.x.ndim, split.x.dtype)
        assert kind in {(4, torch.uint8), (2, torch.float32)}, kind
        assert (split.y.ndim, split.y.dtype) == (1, torch.int64), (split.y.shape, split.y.dtype)
        _check_values(f"{where}: {which}", split.x, data.levels)
    if data.train.x.shape[1:] != data.test.x.shape[1:]:
        raise UserError(
            f"{where}: expected train and test samples of one shape, got {data.shape} and "
            f"{tuple(data.test.x.shape[1:])}; convert one to the other's shape"
        )
    _check_classes(data, where)
    _check_all_labels(data, where)
    return data


def check_labels(y: Tensor, classes: int, where: str) -> None:
    """Check that all labels of a data set with K known classes are 0..K-1.

    Raises:
        UserError: naming the first that is not.
    """
    strange = y[(y < 0) | (y >= classes)]
    if len(strange):
        raise UserError(
            f"{where}: expected labels 0..{classes - 1}, got {int(strange[0])}; fetch it again"
        )


def _check_values(where: str, x: Tensor, levels: int | None) -> None:
    if x.numel() == 0:
        raise UserError(f"{where}: expected at least one row and one value, got {tuple(x.shape)}")
    if x.is_floating_point():
        if (bad := ~torch.isfinite(x)).any():
            row, column = bad.nonzero()[0].tolist()
            raise UserError(
                f"{where}: expected finite numbers, got {int(bad.sum())} NaN or infinite values "
                f"(first at row {row}, column {column}); remove or fill them"
            )
    elif levels is not None and not isinstance(x, Shards) and int(x.max()) >= levels:
        raise UserError(
            f"{where}: expected grey levels 0..{levels - 1}, got {int(x.max())}; rescale the images"
        )


def _check_classes(data: Dataset, where: str) -> None:
    if data.classes < 2:
        raise UserError(
            f"{where}: expected at least 2 classes, got {data.classes}; add the other class"
        )
    for name in data.class_names:
        # Control characters, halves of characters, of names of files that are not UTF-8, and
        # marks that turn the text behind them.
        if any(category(c) in ("Cc", "Cs") or bidirectional(c) in TURNING for c in name):
            raise UserError(
                f"{where}: expected a class name of printable text, got {name!r}; rename it"
            )


def _check_all_labels(data: Dataset, where: str) -> None:
    found = torch.unique(data.train.y).tolist()
    if [label for label in found if label != _NO_LABEL] != list(range(data.classes)):
        raise UserError(
            f"{where}: expected the train labels 0..{data.classes - 1}, each at least once, "
            f"and -1 for a row without a label, got {_shown(found)}; renumber the labels from 0 "
            "without gaps"
        )
    if missing := int(data.test.unlabelled.sum()):
        raise UserError(
            f"{where}: expected a label for every test row, got {missing} rows with -1; move these "
            "rows to train"
        )
    strange = sorted(set(torch.unique(data.test.y).tolist()) - set(range(data.classes)))
    if strange:
        raise UserError(
            f"{where}: expected test labels within 0..{data.classes - 1} as in train, "
            f"got also {_shown(strange)}; remove these rows or add such rows to train"
        )


def _shown(labels: Sequence[int]) -> str:
    listed = ", ".join(str(label) for label in labels[:_SHOWN])
    return listed if len(labels) <= _SHOWN else f"{listed}, … ({len(labels)} different)"


def hold_out(split: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """Split off a validation part: (train, val), stratified by class, rows in their old order.

    Each class gives `fraction` of its rows, rounded, but keeps at least one, and rows without a
    label stay in train; the global generator is not touched, and equal seeds give equal splits.

    Raises:
        UserError: `fraction` is not in [0, 1).
    """
    if not 0 <= fraction < 1:
        raise UserError(f"expected a held-out fraction in [0, 1), got {fraction}; try 0.1")
    classes = _rows_by_class(split)
    counts = [min(round(fraction * len(rows)), len(rows) - 1) for rows in classes]
    held = _mask(len(split), classes, counts, seed)
    return split.take(~held), split.take(held)


def _rows_by_class(split: Split) -> list[Tensor]:
    labels = torch.unique(split.y[~split.unlabelled])
    return [(split.y == label).nonzero()[:, 0] for label in labels]


def _mask(length: int, classes: list[Tensor], counts: list[int], seed: int) -> Tensor:
    """Return a bool mask (length,) of so many rows of each class, drawn at random."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.zeros(length, dtype=torch.bool)
    for rows, count in zip(classes, counts, strict=True):
        drawn[rows[torch.randperm(len(rows), generator=generator)[:count]]] = True
    return drawn


def stratified(split: Split, n: int, seed: int) -> tuple[Split, Split]:
    """Draw exactly `n` labelled rows, in proportion to the classes: (drawn, rest).

    Shares are rounded by the largest remainder, with at least one row of each class. Rows keep
    their old order, and those without a label go with the drawn ones; the global generator is not
    touched, and equal seeds give equal splits.

    Raises:
        UserError: `n` is below the number of classes or above that of the labelled rows.
    """
    drawn = _drawn(split, n, seed) | split.unlabelled
    return split.take(drawn), split.take(~drawn)


def keep_labels(split: Split, n: int, seed: int) -> Split:
    """Keep the labels of exactly `n` rows, in proportion to the classes; -1 for the others.

    Drawn as by `stratified`, with its errors.
    """
    drawn = _drawn(split, n, seed)
    return replace(split, y=torch.where(drawn, split.y, _NO_LABEL))


def _drawn(split: Split, n: int, seed: int) -> Tensor:
    """Return a bool mask (N,) of `n` labelled rows."""
    classes = _rows_by_class(split)
    sizes = torch.tensor([len(rows) for rows in classes], dtype=torch.int64)
    if not len(classes) <= n <= sizes.sum():
        raise UserError(
            f"expected to draw from {len(classes)} rows, one a class, to all {int(sizes.sum())} "
            f"labelled ones, got {n}; change the number"
        )
    return _mask(len(split), classes, _shares(sizes, n).tolist(), seed)


def _shares(sizes: Tensor, n: int) -> Tensor:
    """Apportion `n` seats to `sizes` (K,), at least one to each, in integer arithmetic."""
    total = sizes.sum()
    shares = (n * sizes // total.clamp_min(1)).clamp_min(1)
    while shares.sum() < n:
        shares[(n * sizes - total * shares).argmax()] += 1
    while shares.sum() > n:
        lack = n * sizes - total * shares
        shares[lack.masked_fill(shares == 1, lack.max() + 1).argmin()] -= 1
    return shares


def subset(split: Split, n: int) -> Split:
    """Return the first `n` rows (all of them if there are fewer).

    Raises:
        UserError: `n` is below 1.
    """
    if n < 1:
        raise UserError(f"expected a subset of at least 1 row, got {n}")
    return split.take(slice(n))
