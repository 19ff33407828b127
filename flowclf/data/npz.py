"""Arrays of the user's own from one `.npz` file, and headers of `.npy` files, without trust."""

import math
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from flowclf.data.arrays import as_samples
from flowclf.data.dataset import Dataset, Reading, Split, draw_test, validate
from flowclf.support.devices import check_fits
from flowclf.support.errors import UserError

__all__ = ["load_npz", "read_header", "read_npz"]

_KEYS = ("x_train", "y_train", "x_test", "y_test")
_MEDMNIST_KEYS = ("train_images", "train_labels", "test_images", "test_labels")
_ALONE = ("x", "y")
_NO_LABEL = -1
_NAMES = ("class_names", "feature_names")
_PARTS = ("train", "test")

_Array = npt.NDArray[np.generic]
# A third version has but names of fields that are not Latin.
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def load_npz(path: Path, reading: Reading | None = None) -> Dataset:
    """Load `x_train`, `y_train`, `x_test`, `y_test` (MedMNIST's names for them), or `x` and `y`.

    `x` is N×H×W or N×H×W×C in uint8 (images; floats with `data.range`), or N×F in any real or
    integer type (a table, which becomes float32); `y` is N or N×1 in integers 0..K-1, in train also
    -1 for a row without a label, or in strings. Of `x` and `y` alone a fifth is drawn for the test.
    `class_names` and `feature_names` are arrays of strings. Nothing pickled is ever read.

    Raises:
        UserError: the file or an array in it is anything else.
    """
    how = reading or Reading()
    choices = _KEYS, _MEDMNIST_KEYS, _ALONE
    found, unused = _read(path, choices, _NAMES)
    arrays = [found[key] for keys in choices for key in keys if key in found]
    named = {key: tuple(map(str, found[key].tolist())) for key in _NAMES if key in found}
    given = [_labels(y, f"{path}: {part}") for y, part in zip(arrays[1::2], _PARTS, strict=False)]
    names, labels = _numbered(given, named.get("class_names"), path)
    notices, splits = unused, []
    for x, y, part in zip(arrays[::2], labels, _PARTS, strict=False):
        samples, notes = as_samples(x, f"{path}: {part}", how.range, channels_last=True)
        if len(samples) != len(y):
            raise UserError(
                f"{path}: {part}: expected one label a row, got {len(samples)} rows and {len(y)} "
                "labels; make x and y equally long"
            )
        splits.append(Split(samples, y))
        notices += notes
    train, *rest = splits
    if rest:
        (test,) = rest
    else:
        train, test, drawn = draw_test(train, how, path.name)
        notices += (drawn,)
    columns, count = named.get("feature_names", ()), train.x.shape[1]
    if columns and len(columns) != count:
        raise UserError(f"{path}: expected {count} feature_names, got {len(columns)}")
    levels = 256 if train.x.ndim == 4 else None
    data = Dataset(path.name, train, test, names, levels, notices, feature_names=columns)
    return validate(data, path)


def _numbered(
    labels: list[_Array], names: tuple[str, ...] | None, path: Path
) -> tuple[tuple[str, ...], list[Tensor]]:
    """Return the names of the classes, and labels as int64; strings are numbered, sorted."""
    if labels[0].dtype.kind != "U":
        known = int((np.unique(labels[0].astype(np.int64)) != _NO_LABEL).sum())
        if names is not None and len(names) < known:
            raise UserError(f"{path}: expected {known} class_names, got {len(names)}; add some")
        numbers = [torch.from_numpy(y.astype(np.int64)) for y in labels]
        return names or tuple(str(number) for number in range(known)), numbers
    order = np.array(names) if names else np.unique(labels[0])
    for y in labels:
        if (strange := ~np.isin(y, order)).any():
            raise UserError(
                f"{path}: expected labels of the training rows or class_names, got "
                f"{y[strange].tolist()[0]!r}; correct it"
            )
    place = np.argsort(order)
    numbers = [torch.from_numpy(place[np.searchsorted(order[place], y)]) for y in labels]
    return tuple(order.tolist()), numbers


def read_npz(path: Path) -> Tensor:
    """Read samples alone: the array `x`, or `x_test` or `test_images` of a data set.

    Raises:
        UserError: there is none of them, or it is not as `load_npz` takes it.
    """
    found, _ = _read(path, (("x",), _KEYS[2:3], _MEDMNIST_KEYS[2:3]))
    (x,) = found.values()
    return as_samples(x, str(path), channels_last=True)[0]


def _read(
    path: Path, choices: Sequence[tuple[str, ...]], optional: tuple[str, ...] = ()
) -> tuple[dict[str, _Array], tuple[str, ...]]:
    """Read the first choice of arrays that is there whole, and the optional ones that are."""
    try:
        with warnings.catch_warnings(), zipfile.ZipFile(path) as archive:
            # Of headers that Python 2 wrote, and of strange ones.
            warnings.simplefilter("ignore")
            return _arrays(archive, path, choices, optional)
    except UserError:
        raise
    # zipfile, its decompressors and numpy's parser of headers fail in ways of their own.
    except Exception as error:
        raise UserError(
            f"{path}: expected an intact .npz, got {type(error).__name__}; {_SAVE}"
        ) from error


_SAVE = "write it with numpy.savez(path, x_train=…, y_train=…, x_test=…, y_test=…)"


def _arrays(
    archive: zipfile.ZipFile,
    path: Path,
    choices: Sequence[tuple[str, ...]],
    optional: tuple[str, ...],
) -> tuple[dict[str, _Array], tuple[str, ...]]:
    names = [name.removesuffix(".npy") for name in archive.namelist()]
    keys = (*_wanted(names, path, choices), *(key for key in optional if key in names))
    members = [archive.getinfo(f"{key}.npy") for key in keys]
    check_fits(sum(member.file_size for member in members), str(path))
    parts = zip(members, keys, strict=True)
    arrays = {key: _array(archive, member, key, path) for member, key in parts}
    return arrays, tuple(f"array {name!r} is not used" for name in names if name not in keys)


def _wanted(
    names: Sequence[str], path: Path, choices: Sequence[tuple[str, ...]]
) -> tuple[str, ...]:
    for keys in choices:
        if all(key in names for key in keys):
            for key in keys:
                if names.count(key) > 1:
                    raise UserError(f"{path}: expected each array once, got {key} twice; {_SAVE}")
            return keys
    got = ", ".join(map(repr, names)) or "none"
    raise UserError(f"{path}: expected the arrays {', '.join(choices[0])}, got {got}; rename them")


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, key: str, path: Path) -> _Array:
    where = f"{path}: {key}"
    with archive.open(member) as stream:
        shape, _, dtype = read_header(stream, where, _SAVE)
        expected = math.prod(shape) * dtype.itemsize
        got = member.file_size - stream.tell()
    if got != expected:
        raise UserError(
            f"{where}: expected {expected:,} bytes as its header says, got {got:,}; {_SAVE}"
        )
    with archive.open(member) as stream:
        return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))


def _labels(y: _Array, where: str) -> _Array:
    if y.dtype.kind not in "buiU":
        raise UserError(
            f"{where}: expected labels as integers 0..K-1 or as strings, got {y.dtype}; number the "
            "classes and cast to int64"
        )
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        raise UserError(
            f"{where}: expected one label a row (N or N×1), got {_shape(y)}; "
            "use argmax(axis=1) for one-hot labels"
        )
    # Beyond int64 a label would come out as a negative one, 2⁶⁴-1 as "no label".
    if y.dtype.kind == "u" and y.max(initial=0) > np.iinfo(np.int64).max:
        raise UserError(f"{where}: expected labels 0..K-1, got {y.max()}; renumber from 0")
    return y


def _shape(array: _Array) -> str:
    return "×".join(str(size) for size in array.shape) or "a single number"


def read_header(
    stream: IO[bytes], where: str, remedy: str
) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    """Read shape, Fortran order and dtype; the stream is left at the numbers.

    Raises:
        UserError: no such header, or one of Python objects.
    """
    try:
        shape, fortran, dtype = _HEADERS[np.lib.format.read_magic(stream)](stream)
    # numpy's parser fails in ways of its own.
    except Exception as error:
        raise UserError(
            f"{where}: expected an array in numpy's format, got {type(error).__name__}; {remedy}"
        ) from error
    if dtype.hasobject:
        raise UserError(
            f"{where}: expected an array of numbers, got Python objects; convert it with "
            "numpy.asarray(…, dtype=…)"
        )
    return shape, fortran, dtype
