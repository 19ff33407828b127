"""Data sets from whatever object holds them: frames, arrays, and others' data sets."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from flowclf.data.arrays import from_arrays
from flowclf.data.dataset import Dataset
from flowclf.data.load import load_dataset
from flowclf.data.table import from_frame
from flowclf.support.errors import UserError

__all__ = ["as_dataset"]

LABELS = ("label", "labels", "target", "class")


def as_dataset(
    data: Any, target: str | None = None, sample_weight: Any = None, **reading: Any
) -> Dataset:
    """Return the data set of a name, a path, arrays, a frame or others' data; a `Dataset` as is.

    Args:
        data: a known name or a path; (x, y), of which a fifth becomes the test split; (x_train,
            y_train, x_test, y_test); a data frame of pandas or polars; a `torch.utils.data.Dataset`
            or `DataLoader` of pairs (x, y); a data set of Hugging Face `datasets`; or of the last
            two a pair (train, test) or a dictionary.
        target: the column of labels, of a frame or a table.
        sample_weight: of (x, y) or (x_train, y_train, x_test, y_test), see `from_arrays`.
        reading: fields of `Reading`.

    Raises:
        UserError: anything else, or what `from_arrays`, `from_frame` and `load_dataset` refuse.
    """
    if sample_weight is not None and not isinstance(data, tuple | list):
        raise UserError(
            f"expected sample_weight beside (x, y), got it beside {type(data).__name__}; of a "
            "table give data.weight=COLUMN"
        )
    if isinstance(data, Dataset):
        return data
    if isinstance(data, str | Path):
        return load_dataset(str(data), target=target, **reading)
    if hasattr(data, "columns"):
        if target is None:
            names = ", ".join(map(str, list(data.columns)[:8]))
            raise UserError(f"expected target=, the column of the labels, among: {names}")
        return from_frame(data, target, **reading)
    if isinstance(data, dict) and "train" in data:  # as Hugging Face has it
        rest = next((data[key] for key in ("test", "validation") if key in data), None)
        data = data["train"] if rest is None else (data["train"], rest)
    if _is_others(data):
        return _from_others((data,), target, reading)
    if isinstance(data, tuple | list) and len(data) == 2 and all(map(_is_others, data)):
        return _from_others(data, target, reading)
    if isinstance(data, tuple | list) and len(data) in (2, 4):
        x, y, *test = data
        return from_arrays(x, y, tuple(test) or None, sample_weight=sample_weight, **reading)
    raise UserError(
        "expected the name or path of data, (x, y), (x_train, y_train, x_test, y_test), a data "
        f"frame, a data set of torch or Hugging Face, or a Dataset, got {type(data).__name__}"
    )


def _is_others(data: Any) -> bool:
    """Tell whether it is a data set of torch or Hugging Face, or a loader."""
    return isinstance(data, TorchDataset | DataLoader) or hasattr(data, "column_names")


def _from_others(parts: Iterable[Any], target: str | None, reading: dict[str, Any]) -> Dataset:
    splits, name = [], "data"
    names: tuple[str, ...] = ()
    for part in parts:
        if hasattr(part, "column_names"):
            x, y, names = _hugging_face(part, target)
        else:
            x, y = _pairs(part)
            inner = getattr(part, "dataset", part)
            names = tuple(map(str, getattr(inner, "classes", ())))
            name = type(inner).__name__
        splits.append((x, y))
    first, *rest = splits
    present = np.unique(np.asarray(first[1]))
    # Names of classes that are not there would be those of others.
    named = names if len(names) == len(present) else ()
    return from_arrays(*first, rest[0] if rest else None, name=name, class_names=named, **reading)


def _pairs(data: Any) -> tuple[Any, Any]:
    """Return x and y of a torch data set or of the batches of a loader."""
    loader = isinstance(data, DataLoader)
    rows = data if loader else (data[i] for i in range(len(data)))
    try:
        xs, ys = zip(*((row[0], row[1]) for row in rows), strict=True)
    except (TypeError, ValueError, KeyError, IndexError):
        raise UserError(
            f"expected pairs (x, y) from {type(data).__name__}, with a length; make it return them"
        ) from None
    if loader:
        labels = np.concatenate([np.asarray(y) for y in ys])
        return torch.cat([torch.as_tensor(x) for x in xs]), labels
    return _stacked(xs), np.asarray([np.asarray(y).item() for y in ys])


def _stacked(samples: Iterable[Any]) -> Any:
    """Stack samples, of which pictures must be of one size."""
    arrays = [np.asarray(sample) for sample in samples]
    if len({array.shape for array in arrays}) != 1:
        raise UserError("expected samples of one shape, got several; resize them to one size")
    return np.stack(arrays)


def _hugging_face(data: Any, target: str | None) -> tuple[Any, Any, tuple[str, ...]]:
    """Return x, y and the names of the classes: one column of pictures or arrays, or numbers."""
    columns = list(data.column_names)
    label = target or next((name for name in LABELS if name in columns), None)
    if label not in columns:
        raise UserError(f"expected target=, the column of the labels, among: {', '.join(columns)}")
    names = getattr(getattr(data, "features", {}).get(label), "names", None) or ()
    others = [name for name in columns if name != label]
    if len(others) == 1:
        x = _stacked(row[others[0]] for row in data)
        x = x[:, None] if x.ndim == 1 else x
    else:
        x = np.stack([np.asarray(data[name]) for name in others], axis=1)
    return x, np.asarray(data[label]), tuple(map(str, names))
