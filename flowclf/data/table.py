"""Tables with named columns: data frames, and `.csv` and `.parquet` files of the user's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from flowclf.data.arrays import absent
from flowclf.data.dataset import Dataset, Reading, Split, draw_test, validate, weighted
from flowclf.data.text import is_number, read_rows
from flowclf.support.errors import UserError

__all__ = ["encode_rows", "from_frame", "load_table", "read_columns"]

# A column of texts with more values than this is no category, a target of more no class.
MOST_CATEGORIES = 100
# Cells of a .csv file that stand for no value.
MISSING = {"", "?", "na", "n/a", "nan", "null", "none"}
MISSING_CATEGORY = "missing"

_Array = npt.NDArray[Any]
Columns = Mapping[str, _Array]


def load_table(path: Path, reading: Reading) -> Dataset:
    """Load a `.csv` or `.parquet` file of numbers and categories, with labels in one column.

    As `from_frame`; in a .csv file an empty cell, NA, NaN, null, None and ? are missing values. A
    target that is a number is a column's place from 0, in a file without a header.

    Raises:
        UserError: a file that cannot be read, or what `from_frame` refuses.
    """
    assert reading.target is not None, "a table has a target"
    columns = read_columns(path, header=not reading.target.isdecimal())
    return _encode(columns, reading, path.name)


def from_frame(frame: Any, target: str, *, name: str = "frame", **reading: Any) -> Dataset:
    """Make a data set of a pandas or polars data frame; a fifth of the rows becomes the test split.

    Columns of numbers and of truth values are features as they are; columns of text or categories
    become one of 0 and 1 for each of their values in the training rows (one-hot).

    Args:
        frame: anything with `columns` and a column by its name.
        target: the column of the labels.
        name: of the data set.
        reading: fields of `Reading`, such as missing="impute" or drop=("id",).

    Raises:
        UserError: no such column, no other column, missing values, or text with over 100 values.
    """
    columns = {str(column): np.asarray(frame[column]) for column in frame.columns}
    return _encode(columns, Reading(target=str(target), **reading), name)


def _encode(columns: Columns, reading: Reading, name: str) -> Dataset:
    target = str(reading.target)
    weight = () if reading.weight is None else (reading.weight,)
    for wanted in (target, *reading.drop, *weight):
        if wanted not in columns:
            what = "target" if wanted == target else "data.drop"
            what = "data.weight" if wanted in weight else what
            raise UserError(
                f"{name}: expected {what} to be a column, got {wanted!r}; columns: "
                f"{', '.join([*columns][:12])}"
            )
    features = {k: v for k, v in columns.items() if k not in (target, *reading.drop, *weight)}
    if not features:
        raise UserError(f"{name}: expected columns beside {target!r} to learn from, got none")
    classes, y = _classes(columns[target], target, name)
    numbered = Split(torch.arange(len(y))[:, None], y)
    for column in weight:
        numbered = weighted(numbered, columns[column].tolist(), f"{name}: {column}")
    rows, rest, drawn = draw_test(numbered, reading, name)
    training = rows.x[:, 0].numpy()
    names: list[str] = []
    parts: list[_Array] = []
    for column, values in features.items():
        found, part = _feature(values, column, training, reading.missing, name)
        names += found
        parts.append(part)
    with np.errstate(over="ignore"):
        x = torch.from_numpy(np.concatenate(parts, axis=1).astype(np.float32))
    train = Split(x[rows.x[:, 0]], rows.y, rows.weight)
    test = Split(x[rest.x[:, 0]], rest.y)
    notices = [drawn]
    made = [len(part[0]) for part in parts if part.dtype == bool]
    if made:
        notices.append(f"{name}: {len(made)} columns of categories became {sum(made)} of 0 and 1")
    holes = [column for column, values in features.items() if absent(values).any()]
    if holes:
        notices.append(f"{name}: missing values were imputed in {', '.join(holes)}")
    data = Dataset(name, train, test, classes, None, tuple(notices), feature_names=tuple(names))
    return validate(data)


def _feature(
    values: _Array, column: str, training: _Array, missing: str, name: str
) -> tuple[list[str], _Array]:
    """Return the features of a column, and their names."""
    lacking = absent(values)
    if lacking.any() and missing == "refuse":
        raise UserError(
            f"{name}: {column}: expected a value in every row, got {int(lacking.sum())} missing "
            f"(first in row {int(lacking.argmax())}); fill or drop these rows, or give "
            "data.missing=impute"
        )
    known = np.zeros(len(values), dtype=bool)
    known[training] = True
    known &= ~lacking
    if not known.any():
        raise UserError(
            f"{name}: {column}: expected values in the training rows, got none; drop it"
        )
    numbers = _numbers(values, lacking)
    if numbers is not None:
        numbers[lacking] = np.median(numbers[known])
        return [column], numbers[:, None]
    texts = np.where(lacking, MISSING_CATEGORY, values.astype(str))
    categories = np.unique(texts[training])
    if len(categories) > MOST_CATEGORIES:
        raise UserError(
            f"{name}: {column}: expected numbers or at most {MOST_CATEGORIES} categories, got "
            f"{len(categories)} different texts; leave it out by data.drop={column}, or group them"
        )
    return [f"{column}={text}" for text in categories], texts[:, None] == categories


def _numbers(values: _Array, lacking: _Array) -> _Array | None:
    """Return numbers as float64, those that lack as 0; None where any value is none."""
    if values.dtype.kind in "biuf":
        return np.where(lacking, 0, values).astype(np.float64)
    if values.dtype.kind != "O" or any(isinstance(v, str) for v in values[~lacking].tolist()):
        return None
    try:
        return np.where(lacking, 0, values).astype(np.float64)
    except (TypeError, ValueError):
        return None


def _classes(values: _Array, target: str, name: str) -> tuple[tuple[str, ...], Tensor]:
    """Return the names of the classes, sorted, as numbers if they are, and each row's number."""
    if (lacking := absent(values)).any():
        raise UserError(
            f"{name}: {target}: expected a label in every row, got {int(lacking.sum())} missing "
            f"(first in row {int(lacking.argmax())}); drop these rows"
        )
    numbers = _numbers(values, lacking)
    if numbers is None:
        values = values.astype(str)
    elif (numbers == numbers.round()).all():
        values = numbers.astype(np.int64)
    else:
        values = numbers
    known, places = np.unique(values, return_inverse=True)
    if values.dtype.kind == "f" and len(known) > MOST_CATEGORIES:
        raise UserError(
            f"{name}: {target}: expected classes, got {len(known)} different numbers; name the "
            "column of the labels, or group its values"
        )
    return tuple(map(str, known.tolist())), torch.from_numpy(places.astype(np.int64))


def encode_rows(columns: Columns, feature_names: Sequence[str], where: str) -> Tensor:
    """Encode new rows as the training rows were, by the names of the features: (N, F), float32.

    A category that was not there in training is none of those that were.

    Raises:
        UserError: a column that is not there, or a missing value.
    """
    parts = []
    for name in feature_names:
        column = next((c for c in columns if name == c or name.startswith(f"{c}=")), None)
        if column is None:
            raise UserError(f"{where}: expected a column for {name!r}, got {', '.join(columns)}")
        values = columns[column]
        lacking = absent(values)
        numbers = _numbers(values, lacking)
        if name != column:
            texts = np.where(lacking, MISSING_CATEGORY, values.astype(str))
            parts.append((texts == name[len(column) + 1 :]).astype(np.float64))
        elif numbers is None or lacking.any():
            wrong = int(lacking.argmax()) if lacking.any() else 0
            raise UserError(
                f"{where}: expected numbers in column {column!r}, got {values[wrong]!r} in row "
                f"{wrong}; fill or drop it"
            )
        else:
            parts.append(numbers)
    return torch.from_numpy(np.stack(parts, axis=1).astype(np.float32))


def read_columns(path: Path, header: bool = True) -> dict[str, _Array]:
    """Read a `.csv` or `.parquet` file: columns by name, of numbers where all their values are.

    Raises:
        UserError: no readable file, no row, or two columns of one name.
    """
    if path.suffix.lower() == ".parquet":
        return _read_parquet(path)
    rows = read_rows(path)
    names = rows.pop(0) if header and rows else [str(n) for n in range(len(rows[0]) if rows else 0)]
    names = [name.strip() for name in names]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"{path}: expected a name for each column, got {twice!r} twice")
    if not rows:
        raise UserError(f"{path}: expected rows of values, got none")
    return {name: _cells(cells) for name, cells in zip(names, zip(*rows, strict=True), strict=True)}


def _cells(cells: Sequence[str]) -> _Array:
    """Return a column of a .csv file: float64 with NaN, or texts with None."""
    stripped = [cell.strip() for cell in cells]
    known = [None if cell.lower() in MISSING else cell for cell in stripped]
    present = [cell for cell in known if cell is not None]
    if present and all(map(is_number, present)):
        return np.array([float(cell) if cell is not None else np.nan for cell in known])
    return np.array(known, dtype=object)


def _read_parquet(path: Path) -> dict[str, _Array]:
    try:
        from pyarrow import parquet
    except ImportError:
        raise UserError(
            f"{path}: expected pyarrow to read it with; pip install 'flowclf[frames]', or save a "
            ".csv file"
        ) from None
    try:
        table = parquet.read_table(path)
        # Lists of Python's own values have None where one is missing, whatever the type.
        columns = {name: table.column(name).to_pylist() for name in table.column_names}
    # pyarrow's readers fail in ways of their own.
    except Exception as error:
        raise UserError(
            f"{path}: expected an intact .parquet file, got {type(error).__name__}; write it again"
        ) from error
    return {name: np.array(values, dtype=object) for name, values in columns.items()}
