"""Data sets from what is in memory: arrays, tensors and data frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from flowclf.data.dataset import Dataset, Split, stratified, validate
from flowclf.data.load import load_dataset
from flowclf.support.errors import UserError

__all__ = ["as_dataset", "from_arrays", "from_frame"]

NAME = "array"
TRAIN_PERCENT = 80
LEVELS = 256
# Text columns of a frame with more values than this are no categories.
MOST_CATEGORIES = 100

_Array = npt.NDArray[Any]


def as_dataset(data: Any, target: str | None = None, seed: int = 0) -> Dataset:
    """Return the data set of a name, a path, arrays or a data frame; a `Dataset` as it is.

    Args:
        data: a known name or a path; (x, y), of which a fifth becomes the test split; (x_train,
            y_train, x_test, y_test); or a data frame of pandas or polars.
        target: the frame's column of labels.
        seed: of the draw of the test split.

    Raises:
        UserError: anything else, or what `from_arrays`, `from_frame` and `load_dataset` refuse.
    """
    if isinstance(data, Dataset):
        return data
    if isinstance(data, str | Path):
        return load_dataset(str(data))
    if hasattr(data, "columns"):
        if target is None:
            names = ", ".join(map(str, list(data.columns)[:8]))
            raise UserError(f"expected target=, the column of the labels, among: {names}")
        return from_frame(data, target, seed=seed)
    if isinstance(data, tuple | list) and len(data) in (2, 4):
        x, y, *test = data
        return from_arrays(x, y, tuple(test) or None, seed=seed)
    raise UserError(
        "expected the name or path of data, (x, y), (x_train, y_train, x_test, y_test), a data "
        f"frame or a Dataset, got {type(data).__name__}"
    )


def from_arrays(
    x: Any,
    y: Any,
    test: tuple[Any, Any] | None = None,
    *,
    name: str = NAME,
    feature_names: Sequence[str] = (),
    seed: int = 0,
) -> Dataset:
    """Make a data set of samples x and their labels y, in numpy, torch or lists.

    x is N×F of numbers, a table; or N×H×W, N×C×H×W or N×H×W×C of uint8, images. Labels are of any
    sortable kind; their values, sorted, are the classes.

    Args:
        x, y: all samples, or the training split.
        test: x and y of the test split; None: a fifth of x, drawn by class.
        name: of the data set.
        feature_names: of a table's columns.
        seed: of the draw.

    Raises:
        UserError: other shapes or types, lengths that differ, or NaN.
    """
    labels = _labels(y)
    names, numbers = np.unique(labels, return_inverse=True)
    samples = _samples(x)
    split = Split(samples, torch.from_numpy(numbers.astype(np.int64)))
    notices: tuple[str, ...] = ()
    if test is None:
        size = max(len(names), len(split) * TRAIN_PERCENT // 100)
        if size >= len(split):
            raise UserError(
                f"expected more samples than classes to hold some out for the test, got "
                f"{len(split)} of {len(names)} classes; give (x_train, y_train, x_test, y_test)"
            )
        train, rest = stratified(split, size, seed)
        notices = (f"{len(rest):,} of {len(split):,} samples were drawn for the test, seed {seed}",)
    else:
        train, rest = split, Split(_samples(test[0]), _known(_labels(test[1]), names))
    levels = LEVELS if samples.ndim == 4 else None
    classes = tuple(map(str, names.tolist()))
    columns = tuple(map(str, feature_names))
    data = Dataset(name, train, rest, classes, levels, notices, feature_names=columns)
    return validate(data)


def from_frame(frame: Any, target: str, *, name: str = "frame", seed: int = 0) -> Dataset:
    """Make a data set of a pandas or polars data frame; a fifth of the rows becomes the test split.

    Columns of numbers and of truth values are features as they are; columns of text or categories
    become one of 0 and 1 for each of their values (one-hot).

    Raises:
        UserError: no such column, no other column, missing values, or text with over 100 values.
    """
    columns = list(frame.columns)
    if target not in columns:
        raise UserError(
            f"expected target to be a column, got {target!r}; columns: "
            f"{', '.join(map(str, columns[:12]))}"
        )
    names: list[str] = []
    parts: list[_Array] = []
    for column in columns:
        if column == target:
            continue
        values = np.asarray(frame[column])
        _check_present(values, column)
        if values.dtype.kind in "biuf":
            names.append(str(column))
            parts.append(values.astype(np.float64)[:, None])
            continue
        known, place = np.unique(values.astype(str), return_inverse=True)
        if len(known) > MOST_CATEGORIES:
            raise UserError(
                f"column {column!r}: expected numbers or at most {MOST_CATEGORIES} categories, "
                f"got {len(known)} different texts; drop it, or group its values"
            )
        names += [f"{column}={value}" for value in known]
        parts.append(np.eye(len(known))[place])
    if not parts:
        raise UserError(f"expected columns beside {target!r} to learn from, got none")
    labels = np.asarray(frame[target])
    _check_present(labels, target)
    x = np.concatenate(parts, axis=1)
    return from_arrays(x, labels, name=name, feature_names=names, seed=seed)


def _samples(x: Any) -> Tensor:
    values = x.detach().cpu().numpy() if isinstance(x, Tensor) else np.asarray(x)
    if values.dtype.kind not in "biuf":
        raise UserError(f"expected x of numbers, got {values.dtype}; encode texts as numbers first")
    if values.ndim == 2:
        with np.errstate(over="ignore"):
            return torch.from_numpy(values.astype(np.float32))
    shape = "×".join(map(str, values.shape))
    if values.ndim not in (3, 4):
        raise UserError(f"expected x as N×F, N×H×W, N×C×H×W or N×H×W×C, got {shape or 'a number'}")
    if values.dtype != np.uint8:
        raise UserError(
            f"expected images as uint8 grey levels 0..255, got {values.dtype}; multiply by 255 if "
            "they are in 0..1, round, and cast to uint8"
        )
    if values.ndim == 3:
        values = values[:, None]
    elif values.shape[1] not in (1, 3) and values.shape[3] in (1, 3):
        values = np.moveaxis(values, 3, 1)
    return torch.from_numpy(values.copy())


def _labels(y: Any) -> _Array:
    values = y.detach().cpu().numpy() if isinstance(y, Tensor) else np.asarray(y)
    if values.ndim != 1:
        raise UserError(f"expected one label a sample, (N,), got shape {values.shape}")
    _check_present(values, "y")
    return values.astype(str) if values.dtype == object else values


def _known(labels: _Array, names: _Array) -> Tensor:
    """Return the class numbers of test labels."""
    places = np.searchsorted(names, labels).clip(max=len(names) - 1)
    strange = labels[names[places] != labels]
    if len(strange):
        first = strange.tolist()[0]
        raise UserError(f"expected test labels that are in the training labels, got {first!r} too")
    return torch.from_numpy(places.astype(np.int64))


def _check_present(values: _Array, column: Any) -> None:
    """Refuse missing values, as pandas has them: NaN, None, NaT."""
    missing = np.array([value is None or value != value for value in values.ravel().tolist()])
    if missing.any():
        raise UserError(
            f"{column}: expected a value in every row, got {int(missing.sum())} missing (first in "
            f"row {int(missing.argmax())}); fill or drop these rows"
        )
