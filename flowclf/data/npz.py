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

from flowclf.data.dataset import Dataset, Split, validate
from flowclf.support.devices import check_fits
from flowclf.support.errors import UserError

__all__ = ["load_npz", "read_header", "read_npz"]

_KEYS = ("x_train", "y_train", "x_test", "y_test")
_MEDMNIST_KEYS = ("train_images", "train_labels", "test_images", "test_labels")
_MOST_CHANNELS = 4

_Array = npt.NDArray[np.generic]
# A third version has but names of fields that are not Latin.
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def load_npz(path: Path) -> Dataset:
    """Load `x_train`, `y_train`, `x_test`, `y_test` (or MedMNIST's names for them).

    `x` is N×H×W or N×H×W×C in uint8 (images), or N×F in any real or integer type (a table, which
    becomes float32); `y` is N or N×1 in integers 0..K-1, in train also -1 for a row without a
    label. Nothing pickled is ever read.

    Raises:
        UserError: the file or an array in it is anything else.
    """
    (x_train, y_train, x_test, y_test), unused = _read(path)
    train = _split(x_train, y_train, f"{path}: train")
    test = _split(x_test, y_test, f"{path}: test")
    classes = len(torch.unique(train.labelled().y))
    names = tuple(str(number) for number in range(classes))
    levels = 256 if train.x.ndim == 4 else None
    return validate(Dataset(path.name, train, test, names, levels, notices=unused), path)


def read_npz(path: Path) -> Tensor:
    """Read samples alone: the array `x`, or `x_test` or `test_images` of a data set.

    Raises:
        UserError: there is none of them, or it is not as `load_npz` takes it.
    """
    (x,), _ = _read(path, (("x",), _KEYS[2:3], _MEDMNIST_KEYS[2:3]))
    return _samples(x, str(path))


def _read(
    path: Path, choices: Sequence[tuple[str, ...]] = (_KEYS, _MEDMNIST_KEYS)
) -> tuple[list[_Array], tuple[str, ...]]:
    try:
        with warnings.catch_warnings(), zipfile.ZipFile(path) as archive:
            # Of headers that Python 2 wrote, and of strange ones.
            warnings.simplefilter("ignore")
            return _arrays(archive, path, choices)
    except UserError:
        raise
    # zipfile, its decompressors and numpy's parser of headers fail in ways of their own.
    except Exception as error:
        raise UserError(
            f"{path}: expected an intact .npz, got {type(error).__name__}; {_SAVE}"
        ) from error


_SAVE = "write it with numpy.savez(path, x_train=…, y_train=…, x_test=…, y_test=…)"


def _arrays(
    archive: zipfile.ZipFile, path: Path, choices: Sequence[tuple[str, ...]]
) -> tuple[list[_Array], tuple[str, ...]]:
    names = [name.removesuffix(".npy") for name in archive.namelist()]
    keys = _wanted(names, path, choices)
    members = [archive.getinfo(f"{key}.npy") for key in keys]
    check_fits(sum(member.file_size for member in members), str(path))
    arrays = [_array(archive, *each, path) for each in zip(members, keys, strict=True)]
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


def _split(x: _Array, y: _Array, where: str) -> Split:
    samples, labels = _samples(x, where), _labels(y, where)
    if len(samples) != len(labels):
        raise UserError(
            f"{where}: expected one label a row, got {len(samples)} rows and {len(labels)} labels; "
            "make x and y equally long"
        )
    return Split(samples, labels)


def _samples(x: _Array, where: str) -> Tensor:
    if x.dtype.kind not in "buif":
        raise UserError(
            f"{where}: expected uint8 images or a table of numbers, got {x.dtype}; convert x"
        )
    if x.ndim == 2:
        # Numbers beyond float32 become infinite here and are reported with their place.
        with np.errstate(over="ignore"):
            return torch.from_numpy(x.astype(np.float32))
    if x.ndim not in (3, 4):
        raise UserError(
            f"{where}: expected x as N×H×W, N×H×W×C or N×F, got {_shape(x)}; reshape it"
        )
    if x.dtype != np.uint8:
        scale = "multiply by 255 and cast to uint8" if x.dtype.kind in "fb" else "cast to uint8"
        raise UserError(
            f"{where}: expected images as uint8 grey levels 0..255, got {x.dtype}; {scale}"
        )
    if x.ndim == 3:
        return torch.from_numpy(x.copy()).unsqueeze(1)
    if x.shape[3] > _MOST_CHANNELS:
        raise UserError(
            f"{where}: expected the channels last (N×H×W×C, C at most {_MOST_CHANNELS}), got "
            f"{_shape(x)}; move them with numpy.moveaxis(x, 1, -1)"
        )
    return torch.from_numpy(np.moveaxis(x, 3, 1).copy())


def _labels(y: _Array, where: str) -> Tensor:
    if y.dtype.kind not in "bui":
        raise UserError(
            f"{where}: expected labels as integers 0..K-1, got {y.dtype}; number the classes and "
            "cast to int64"
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
    return torch.from_numpy(y.astype(np.int64))


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
