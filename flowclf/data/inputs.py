"""Inputs without labels, for a trained model to decide on: pictures, rows of numbers, texts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from flowclf.data.features import Features
from flowclf.data.fitting import made_to_fit, read_pictures
from flowclf.data.npz import read_npz
from flowclf.data.table import encode_rows, read_columns
from flowclf.data.text import TextOptions, is_number, read_rows, read_texts, word_frequencies
from flowclf.settings import DataFacts
from flowclf.support.errors import UserError

__all__ = ["Inputs", "load_inputs"]


@dataclass(frozen=True, eq=False)
class Inputs:
    """Samples in the form that a model takes, each with a name for messages and results."""

    names: tuple[str, ...]  # the file; "file:row", counted from 0, of files with many
    x: Tensor  # (N, *shape)
    notices: tuple[str, ...] = ()  # what was changed to make them fit, one line each for the user


def load_inputs(
    paths: Sequence[Path],
    facts: DataFacts,
    vocabulary: Sequence[str] = (),
    text: TextOptions | None = None,
    features: Features | None = None,
) -> Inputs:
    """Load the inputs of a model of such data.

    Images: pictures, folders of them, and `.npz` files; other sizes and colours are made to fit,
    with a notice. Tables: `.npz` files, and `.csv` files of numbers with or without a header;
    where the features have names, also `.parquet` files, and categories.
    With a vocabulary: `.csv` files of texts, whose columns `text` names.
    With features: what they are made of, images or texts.

    Raises:
        UserError: no such file, another kind, or rows that do not fit.
    """
    for path in paths:
        if not path.exists():
            raise UserError(f"expected an existing file or folder of inputs, got {path}")
    if features is not None:
        return _featured(paths, facts, text or TextOptions(), features)
    arrays = [path for path in paths if path.suffix.lower() in (".npz", ".csv", ".parquet")]
    parts = [_rows(path, facts, vocabulary, text or TextOptions()) for path in arrays]
    others = [path for path in paths if path not in arrays]
    if others and facts.levels is None:
        raise UserError(
            f"{others[0]}: expected a .csv or .npz file of rows of {facts.shape[0]} numbers"
        )
    if others and facts.levels is not None:
        parts.append(Inputs(*read_pictures(others, facts.shape, facts.levels)))
    if not parts:
        raise UserError("expected at least one file of inputs, got none")
    return Inputs(
        tuple(name for part in parts for name in part.names),
        torch.cat([part.x for part in parts]),
        tuple(notice for part in parts for notice in part.notices),
    )


def _featured(
    paths: Sequence[Path], facts: DataFacts, text: TextOptions, features: Features
) -> Inputs:
    """Load images or texts, and return their features."""
    if features.shape:
        own = facts.model_copy(update={"shape": features.shape, "levels": features.levels})
        found = load_inputs(paths, own)
        return replace(found, x=features(found.x))
    read = [(path, texts) for path in paths for texts in (read_texts(path, text),)]
    names = tuple(f"{path}:{row}" for path, texts in read for row in range(len(texts)))
    return Inputs(names, features([each for _, texts in read for each in texts]))


def _rows(path: Path, facts: DataFacts, vocabulary: Sequence[str], text: TextOptions) -> Inputs:
    """Read a file of many samples."""
    notices: tuple[str, ...] = ()
    if path.suffix.lower() == ".npz":
        x = read_npz(path)
        if facts.levels is not None and x.ndim == 4:
            x, notices = made_to_fit(str(path), x, 256, facts.shape, facts.levels, resize=True)
    elif facts.levels is not None:
        raise UserError(f"{path}: expected pictures or an .npz file of images, got a .csv file")
    elif vocabulary:
        x = word_frequencies(read_texts(path, text), vocabulary)
    else:
        x = _table(path, facts)
    if tuple(x.shape[1:]) != facts.shape:
        got = " × ".join(map(str, x.shape[1:]))
        wanted = " × ".join(map(str, facts.shape))
        raise UserError(f"{path}: expected samples of {wanted} numbers, got {got}")
    return Inputs(tuple(f"{path}:{row}" for row in range(len(x))), x, notices)


def _table(path: Path, facts: DataFacts) -> Tensor:
    """Read rows of numbers (N, F), float32, with named columns as those of the training data."""
    if path.suffix.lower() == ".parquet":
        return encode_rows(read_columns(path), facts.feature_names, str(path))
    rows = read_rows(path)
    # A first row that is not numbers is a header.
    if rows and not all(map(is_number, rows[0])):
        if facts.feature_names:
            return encode_rows(read_columns(path), facts.feature_names, str(path))
        rows = rows[1:]
    columns = facts.shape[0]
    for number, row in enumerate(rows):
        wrong = next((cell for cell in row if not is_number(cell)), None)
        if len(row) != columns or wrong is not None:
            got = f"{len(row)} cells" if wrong is None else repr(wrong)
            raise UserError(f"{path}: expected {columns} numbers in row {number}, got {got}")
    return torch.tensor([[float(cell) for cell in row] for row in rows]).view(-1, columns)
