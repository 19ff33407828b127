"""The user's own texts, from one `.csv` file, as the average of their words."""

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
import torch
from torch import Tensor

from flowclf.data.dataset import Dataset, Split, stratified, validate
from flowclf.support.devices import check_fits
from flowclf.support.errors import UserError

__all__ = [
    "TextOptions",
    "is_number",
    "load_text",
    "read_rows",
    "read_split",
    "read_texts",
    "word_frequencies",
]

# A quote that is never closed should not swallow the memory.
_LONGEST_FIELD = 2**20
_TRAIN_PERCENT = 80

_Row = list[str]


@dataclass(frozen=True)
class TextOptions:
    """Options for reading texts and their labels.

    Columns are names in the first row, or all of them are numbers from 0, and the file has no
    header.

    Raises:
        UserError: an empty vocabulary.
    """

    text: str = ""  # the column of the texts, or several joined by commas; empty for "text"
    label: str = "label"  # the column of the labels
    vocabulary: int = 2000  # at most so many of the most frequent words are counted
    train_size: int | None = None  # labelled rows, the others are the test split; None: 80 %
    seed: int = 0  # of the draw of these rows

    def __post_init__(self) -> None:
        if self.vocabulary < 1:
            raise UserError(
                f"expected a vocabulary of at least 1 word, got {self.vocabulary}; try 2000"
            )

    @property
    def text_columns(self) -> list[str]:
        return [name.strip() for name in (self.text or "text").split(",")]


def load_text(path: Path, options: TextOptions) -> Dataset:
    """Load a UTF-8 `.csv` file of texts with any strings as labels.

    A row (F,) holds how often each word of the vocabulary occurs, divided by their sum: a linear
    layer on it is an averaged embedding. The vocabulary is that of the train split, without
    English stop words. Classes are sorted, as numbers if all are; a row with an empty label is
    unlabelled, y = -1, and in train.

    Raises:
        UserError: a column that is not there, rows of unequal length, text that is not UTF-8 or
            has no words, fewer than two classes, or a `train_size` that leaves out a class or
            leaves no row to test on.
    """
    drawn, rest, labels, names = read_split(path, options)
    words = _vocabulary(path, drawn, options.vocabulary)
    check_fits((len(drawn) + len(rest)) * len(words) * torch.float32.itemsize, str(path))
    x_train, x_test = word_frequencies(drawn, words), word_frequencies(rest, words)
    splits = Split(x_train, labels[0]), Split(x_test, labels[1])
    return validate(Dataset(path.name, *splits, names, vocabulary=words), path)


def read_split(
    path: Path, options: TextOptions
) -> tuple[list[str], list[str], tuple[Tensor, Tensor], tuple[str, ...]]:
    """Read the texts of the train and the test split, their labels, and the classes' names.

    Raises:
        UserError: as `load_text`.
    """
    texts, labels = _columns(path, read_rows(path), options)
    names = _class_names(path, labels, options)
    if all(map(is_number, " ".join(texts).split())):
        raise UserError(
            f"{path}: expected texts in {', '.join(options.text_columns)}, got numbers alone; "
            f"for a table of numbers give data.target={options.label}, the column of the labels"
        )
    number = {name: i for i, name in enumerate(names)}
    y = torch.tensor([number.get(label, -1) for label in labels], dtype=torch.int64)
    train, test = _split(path, y, len(names), options)
    drawn, rest = ([texts[row] for row in part.x.tolist()] for part in (train, test))
    return drawn, rest, (train.y, test.y), names


def read_texts(path: Path, options: TextOptions) -> list[str]:
    """Read the texts of a `.csv` file, its columns joined; labels are not needed.

    Raises:
        UserError: as `load_text`.
    """
    rows = read_rows(path)
    has_header = not all(name.isdecimal() for name in options.text_columns)
    places = _places(path, rows[0] if rows else [], options.text_columns, has_header)
    return [" ".join(row[place] for place in places) for row in rows[has_header:]]


def read_rows(path: Path) -> list[_Row]:
    """Read the rows of a UTF-8 `.csv` file that are not empty, all of one length.

    Raises:
        UserError: anything else.
    """
    try:
        with _field_limit(), path.open(encoding="utf-8-sig", newline="") as stream:
            return list(_rows(stream, path))
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: expected UTF-8 text, got byte {error.object[error.start]:#04x}; "
            "save the file as UTF-8"
        ) from error
    except OSError as error:
        raise UserError(
            f"{path}: expected a readable .csv file, got {error.strerror}; correct the path"
        ) from error


def is_number(cell: str) -> bool:
    """Tell whether a cell holds a number."""
    try:
        float(cell)
    except ValueError:
        return False
    return True


@contextmanager
def _field_limit() -> Iterator[None]:
    before = csv.field_size_limit(_LONGEST_FIELD)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _rows(stream: TextIO, path: Path) -> Iterator[_Row]:
    reader, width = csv.reader(stream, strict=True), 0
    try:
        for row in filter(None, reader):
            width, where = width or len(row), f"{path}: line {reader.line_num}"
            if len(row) != width:
                raise UserError(
                    f"{where}: expected {width} fields as in the first row, got {len(row)}; "
                    "put texts with commas in quotes"
                )
            if any("\0" in field for field in row):
                raise UserError(
                    f"{where}: expected text, got a NUL character; save the file as UTF-8"
                )
            yield row
    except csv.Error as error:
        raise UserError(
            f"{path}: line {reader.line_num}: expected comma-separated fields of at most "
            f"{_LONGEST_FIELD:,} characters, got {error}; close each quote and double those inside"
        ) from error


def _columns(path: Path, rows: list[_Row], options: TextOptions) -> tuple[_Row, _Row]:
    """Read each row's text and label."""
    wanted = [*options.text_columns, options.label.strip()]
    if wanted[-1] in wanted[:-1]:
        raise UserError(
            f"{path}: expected the label in a column of its own, got {wanted[-1]!r} for text and "
            "label; name another column"
        )
    has_header = not all(name.isdecimal() for name in wanted)
    *texts, label = _places(path, rows[0] if rows else [], wanted, has_header)
    body = rows[has_header:]
    return [" ".join(row[i] for i in texts) for row in body], [row[label].strip() for row in body]


def _places(path: Path, first: _Row, wanted: list[str], has_header: bool) -> list[int]:
    known = first if has_header else [str(number) for number in range(len(first))]
    lacking = [name for name in wanted if name not in known]
    if lacking:
        got = ", ".join(map(repr, known)) or "an empty file"
        raise UserError(
            f"{path}: expected a column {lacking[0]!r}, got {got}; name the columns of text and "
            "label as in the first row, or all by numbers from 0 if there is no header; of a table "
            "of numbers and categories give data.target, the column of the labels"
        )
    return [known.index(name) for name in wanted]


def _class_names(path: Path, labels: list[str], options: TextOptions) -> tuple[str, ...]:
    names = {label for label in labels if label}
    if len(names) < 2:
        got = f"only {min(names)!r}" if names else "none"
        raise UserError(
            f"{path}: expected at least 2 classes in column {options.label!r}, got {got}; "
            "name the column of the labels"
        )
    if all(name.removeprefix("-").isdecimal() for name in names):
        return tuple(sorted(names, key=lambda name: (float(name), name)))
    return tuple(sorted(names))


def _split(path: Path, y: Tensor, classes: int, options: TextOptions) -> tuple[Split, Split]:
    """Return train and test split, with row numbers as x."""
    labelled = int((y >= 0).sum())
    size = options.train_size
    if size is None:
        size = max(classes, labelled * _TRAIN_PERCENT // 100)
    if not classes <= size < labelled:
        raise UserError(
            f"{path}: expected to train on at least {classes} labelled rows, one a class, and to "
            f"test on one, got {size} of {labelled} to train on; change train_size or add rows"
        )
    return stratified(Split(torch.arange(len(y)), y), size, options.seed)


def word_frequencies(texts: Sequence[str], vocabulary: Sequence[str]) -> Tensor:
    """Count each word of the vocabulary in each text, divided by their sum: (N, F).

    For new texts use the vocabulary that a run has kept: `Run(folder).read_vocabulary()`.
    """
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.preprocessing import normalize

    counts = CountVectorizer(vocabulary=list(vocabulary), dtype=np.float32).transform(texts)
    return torch.from_numpy(normalize(counts, norm="l1").toarray())


def _vocabulary(path: Path, texts: list[str], size: int) -> tuple[str, ...]:
    """Return the most frequent words but English stop words, in alphabetical order."""
    from sklearn.feature_extraction.text import CountVectorizer

    counter = CountVectorizer(stop_words="english", dtype=np.float32)
    try:
        counts = counter.fit_transform(texts)
    except ValueError as error:
        raise UserError(
            f"{path}: expected words in the texts to train on, got none but stop words; "
            "name the columns of the texts"
        ) from error
    # Its max_features breaks ties by an unstable sort, so that columns would depend on the machine.
    totals = np.asarray(counts.sum(axis=0)).ravel()
    kept = np.sort(np.argsort(-totals, kind="stable")[:size])
    return tuple(counter.get_feature_names_out()[kept])
