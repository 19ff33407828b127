"""The user's own arrays, from one `.npz` file."""

import zipfile
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from flowclf.data.dataset import Dataset, Split, validate
from flowclf.errors import UserError

__all__ = ["load_npz"]

_KEYS = ("x_train", "y_train", "x_test", "y_test")
_MEDMNIST_KEYS = ("train_images", "train_labels", "test_images", "test_labels")
_MOST_CHANNELS = 4

_Array = npt.NDArray[np.generic]


def load_npz(path: Path) -> Dataset:
    """A data set from `x_train`, `y_train`, `x_test`, `y_test` (or MedMNIST's names for them).

    `x` is N×H×W or N×H×W×C in uint8 (images), or N×F in any real or integer type (a table, which
    becomes float32); `y` is N or N×1 in integers 0..K-1, in train also -1 for a row without a
    label. Nothing pickled is ever read.

    Raises:
        UserError: the file or an array in it is anything else.
    """
    arrays, unused = _read(path)
    x_train, y_train, x_test, y_test = arrays
    train = Split(_samples(x_train, f"{path}: train"), _labels(y_train, f"{path}: train"))
    test = Split(_samples(x_test, f"{path}: test"), _labels(y_test, f"{path}: test"))
    classes = len(torch.unique(train.labelled().y))
    names = tuple(str(number) for number in range(classes))
    levels = 256 if train.x.ndim == 4 else None
    return validate(Dataset(path.name, train, test, names, levels, notices=unused))


def _read(path: Path) -> tuple[list[_Array], tuple[str, ...]]:
    try:
        # numpy leaves a file open if it opened it itself and the content is no zip.
        with path.open("rb") as stream:
            return _arrays(np.load(stream, allow_pickle=False), path)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, MemoryError) as error:
        raise UserError(
            f"{path}: expected an intact .npz, got {type(error).__name__}; {_SAVE}"
        ) from error
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{path}: expected an .npz file, got something else; {_SAVE}") from error


def _arrays(content: object, path: Path) -> tuple[list[_Array], tuple[str, ...]]:
    if not isinstance(content, np.lib.npyio.NpzFile):
        raise UserError(f"{path}: expected an .npz of four arrays, got one array; {_SAVE}")
    with content:
        keys = _wanted(content, path)
        arrays = [_one(content, key, path) for key in keys]
        unused = tuple(f"array {key!r} is not used" for key in content if key not in keys)
        return arrays, unused


_SAVE = "write it with numpy.savez(path, x_train=…, y_train=…, x_test=…, y_test=…)"


def _wanted(content: np.lib.npyio.NpzFile, path: Path) -> tuple[str, ...]:
    for keys in (_KEYS, _MEDMNIST_KEYS):
        if all(key in content for key in keys):
            return keys
    got = ", ".join(map(repr, content)) or "none"
    raise UserError(f"{path}: expected the arrays {', '.join(_KEYS)}, got {got}; rename them")


def _one(content: np.lib.npyio.NpzFile, key: str, path: Path) -> _Array:
    try:
        return np.asarray(content[key])
    except ValueError as error:
        raise UserError(
            f"{path}: expected {key} as an array of numbers, got Python objects or a damaged "
            "array; convert it with numpy.asarray(…, dtype=…)"
        ) from error


def _samples(x: _Array, where: str) -> Tensor:
    if x.dtype.kind not in "buif":
        raise UserError(
            f"{where}: expected uint8 images or a table of numbers, got {x.dtype}; convert x"
        )
    if x.ndim == 2:
        # Numbers beyond float32 become infinite here and are reported with their place.
        with np.errstate(over="ignore"):
            return torch.from_numpy(x.astype(np.float32))
    return _images(x, where)


def _images(x: _Array, where: str) -> Tensor:
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
