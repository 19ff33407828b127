"""Data sets from arrays: numpy's, torch's, or lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from flowclf.data.dataset import Dataset, Reading, Split, draw_test, validate, weighted
from flowclf.support.errors import UserError

__all__ = ["absent", "as_labels", "as_samples", "from_arrays"]

NAME = "array"
LEVELS = 256
MOST_CHANNELS = 4
# Of a multiple of 1/255 in float32.
ROUNDING = 1e-3

_Array = npt.NDArray[Any]


def from_arrays(
    x: Any,
    y: Any,
    test: tuple[Any, Any] | None = None,
    *,
    name: str = NAME,
    class_names: Sequence[str] = (),
    feature_names: Sequence[str] = (),
    sample_weight: Any = None,
    **reading: Any,
) -> Dataset:
    """Make a data set of samples x and their labels y, in numpy, torch or lists.

    x is N×F of numbers, a table; or N×H×W, N×C×H×W or N×H×W×C of grey levels 0..255, images, or of
    floats whose `range` is given; of floats in 0…1 that are multiples of 1/255 it is known. Labels
    are of any sortable kind; their values, sorted, are the classes.

    Args:
        x, y: all samples, or the training split.
        test: x and y of the test split; None: a fifth of x, drawn by class.
        name: of the data set.
        class_names: of the values of y, sorted; none: the values themselves.
        feature_names: of a table's columns.
        sample_weight: of each row of x, how often it is drawn in training, relative to others.
        reading: fields of `Reading`, such as range=(0, 1), test_share or split_seed.

    Raises:
        UserError: other shapes or types, lengths that differ, or NaN.
    """
    how = Reading(**reading)
    labels = as_labels(y)
    values, numbers = np.unique(labels, return_inverse=True)
    names = tuple(map(str, class_names)) or tuple(map(str, values.tolist()))
    if len(names) != len(values):
        raise UserError(
            f"expected a class name for each of {len(values)} labels, got {len(names)} names"
        )
    samples, notices = as_samples(x, "x", how.range)
    split = Split(samples, torch.from_numpy(numbers.astype(np.int64)))
    if sample_weight is not None:
        split = weighted(split, sample_weight, "sample_weight")
    if test is None:
        train, rest, drawn = draw_test(split, how, name)
        notices = (*notices, drawn)
    else:
        train, x_test = split, as_samples(test[0], "the test x", how.range)[0]
        rest = Split(x_test, _known(as_labels(test[1]), values))
    levels = LEVELS if samples.ndim == 4 else None
    columns = tuple(map(str, feature_names))
    data = Dataset(name, train, rest, names, levels, notices, feature_names=columns)
    return validate(data)


def as_samples(
    x: Any, where: str, span: Sequence[float] | None = None, channels_last: bool = False
) -> tuple[Tensor, tuple[str, ...]]:
    """Return a table (N, F) float32, or images (N, C, H, W) uint8, and notices of what was done.

    Floats of images become grey levels, `span` from black to white. Channels may come first or
    last; where both are possible, `channels_last` says which.

    Raises:
        UserError: anything else; numbers outside of the span.
    """
    try:
        values = x.detach().cpu().numpy() if isinstance(x, Tensor) else np.asarray(x)
    except ValueError:
        raise UserError(f"{where}: expected samples of one shape, got several") from None
    if values.dtype.kind not in "biuf":
        raise UserError(
            f"{where}: expected uint8 images or a table of numbers, got {values.dtype}; convert x"
        )
    if values.ndim == 2:
        # Numbers beyond float32 become infinite here and are reported with their place.
        with np.errstate(over="ignore"):
            table = values.astype(np.float32)
        if values.dtype.kind in "iu" and (lost := table.astype(np.float64) != values).any():
            raise UserError(
                f"{where}: expected whole numbers that float32 holds, as all up to 16,777,216, "
                f"got {values[lost][0]}; subtract an offset, or divide into columns"
            )
        return torch.from_numpy(table), ()
    if values.ndim not in (3, 4):
        shape = "×".join(map(str, values.shape)) or "a number"
        raise UserError(
            f"{where}: expected x as N×F, N×H×W, N×C×H×W or N×H×W×C, got {shape}; reshape it"
        )
    levels, notices = _grey_levels(values, where, span)
    if levels.ndim == 3:
        return torch.from_numpy(levels[:, None].copy()), notices
    last, first = levels.shape[3] <= MOST_CHANNELS, levels.shape[1] in (1, 3)
    if not (last or first):
        raise UserError(
            f"{where}: expected 1 or 3 channels, as N×C×H×W or N×H×W×C, got "
            f"{'×'.join(map(str, levels.shape))}; reshape it"
        )
    if last and (channels_last or not first):
        levels = np.moveaxis(levels, 3, 1)
    return torch.from_numpy(levels.copy()), notices


def _grey_levels(
    values: _Array, where: str, span: Sequence[float] | None
) -> tuple[_Array, tuple[str, ...]]:
    """Return uint8 grey levels of images."""
    if values.dtype == np.uint8:
        return values, ()
    low, high = (values.min(), values.max()) if values.size else (0, 0)
    if values.dtype.kind in "iu" and low >= 0 and high < LEVELS:
        return values.astype(np.uint8), ()
    notices: tuple[str, ...] = ()
    if span is None and values.dtype.kind == "f" and low >= 0 and high <= 1:
        scaled = values * np.float32(LEVELS - 1)
        if np.abs(scaled - scaled.round()).max(initial=0) < ROUNDING:
            span, notices = (0, 1), (f"{where}: floats in 0…1 were taken as 256 grey levels",)
    if span is None:
        raise UserError(
            f"{where}: expected images as uint8 grey levels 0..255, got {values.dtype} from "
            f"{low:g} to {high:g}; say what is black and what is white, e.g. data.range=0,1"
        )
    black, white = span
    if not black < white or low < black or high > white or not np.isfinite(low + high):
        raise UserError(
            f"{where}: expected images within data.range={black:g},{white:g}, got numbers from "
            f"{low:g} to {high:g}; correct the range"
        )
    return ((values - black) / (white - black) * (LEVELS - 1)).round().astype(np.uint8), notices


def as_labels(y: Any) -> _Array:
    """Return labels (N,) of numbers or strings.

    Raises:
        UserError: another shape, or a missing label.
    """
    values = y.detach().cpu().numpy() if isinstance(y, Tensor) else np.asarray(y)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise UserError(f"expected one label a sample, (N,), got shape {values.shape}")
    if (missing := absent(values)).any():
        raise UserError(
            f"y: expected a value in every row, got {int(missing.sum())} missing (first in row "
            f"{int(missing.argmax())}); fill or drop these rows"
        )
    return values.astype(str) if values.dtype == object else values


def _known(labels: _Array, names: _Array) -> Tensor:
    """Return the class numbers of test labels."""
    places = np.searchsorted(names, labels).clip(max=len(names) - 1)
    strange = labels[names[places] != labels]
    if len(strange):
        first = strange.tolist()[0]
        raise UserError(f"expected test labels that are in the training labels, got {first!r} too")
    return torch.from_numpy(places.astype(np.int64))


def absent(values: _Array) -> npt.NDArray[np.bool_]:
    """Return a mask of missing values, as pandas and polars have them: NaN, None, NaT, NA."""
    if values.dtype.kind in "biuU":
        return np.zeros(values.shape, dtype=bool)
    return np.array([_absent(value) for value in values.tolist()], dtype=bool)


def _absent(value: Any) -> bool:
    try:
        return value is None or bool(value != value)
    except TypeError:  # pandas' NA, which equals nothing and differs from nothing
        return True
