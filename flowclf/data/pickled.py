"""CIFAR's Python batches, read without running anything that a pickle asks for."""

import io
import pickle
from operator import index
from typing import Any

import numpy as np
import numpy.typing as npt

from flowclf.support.errors import UserError

__all__ = ["read_pickled_batch"]


class _Array:
    """Stand-in for numpy's array: it keeps the state and gives numpy no chance to act on it."""

    def __init__(self, *args: object) -> None:
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state

    def to_bytes_array(self) -> npt.NDArray[np.uint8]:
        _, shape, dtype, column_major, raw = self.state
        if dtype.code != "u1":
            raise ValueError(f"array of {dtype.code}")
        content = raw.encode("latin1") if isinstance(raw, str) else raw
        flat = np.frombuffer(content, dtype=np.uint8)
        return flat.reshape(shape, order="F" if column_major else "C")


class _Dtype:
    """Stand-in for numpy's dtype, whose real state could make it read arbitrary memory."""

    def __init__(self, code: str, *flags: object) -> None:
        self.code = code

    def __setstate__(self, state: object) -> None:
        pass


class _Latin1(bytes):
    """Stand-in for a function, whose attributes a pickle could set."""

    def __new__(cls, text: str, encoding: str) -> "_Latin1":
        return super().__new__(cls, text.encode("latin1"))

    def __setstate__(self, state: object) -> None:
        pass


_ALLOWED: dict[tuple[str, str], object] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _Latin1,
}


class _Unpickler(pickle._Unpickler):
    """Python's own unpickler: the one in C reserves memory for any memo index that is named."""

    # Nor must a length that is claimed reserve any.
    dispatch = {
        code: load
        for code, load in pickle._Unpickler.dispatch.items()
        if code != pickle.BYTEARRAY8[0]
    }

    def find_class(self, module: str, name: str) -> object:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise _Refused(repr(f"{module}.{name}")) from None


class _Refused(Exception):
    """Request of a pickle that no CIFAR batch needs."""


def read_pickled_batch(
    content: bytes, where: str
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Read pixels (N, 3072) and labels (N,) of a pickled batch; the fine labels of CIFAR-100.

    Raises:
        UserError: it is damaged, not a CIFAR batch, or asks for any other Python object.
    """
    try:
        batch = _Unpickler(io.BytesIO(content), encoding="latin1").load()
        pixels = batch["data"].to_bytes_array()
        labels = batch["labels"] if "labels" in batch else batch["fine_labels"]
        # Of lists within lists numpy would make as many numbers as their product.
        numbers = np.array([index(label) for label in labels], dtype=np.int64)
    except _Refused as error:
        raise UserError(
            f"{where}: expected a pickle of plain arrays, got one that asks for {error}; "
            "do not trust this file, fetch the official one"
        ) from error
    # A damaged pickle can fail in any way at all.
    except Exception as error:
        raise UserError(
            f"{where}: expected a CIFAR batch, got a damaged or different pickle "
            f"({type(error).__name__}); fetch the official one"
        ) from error
    if pixels.ndim != 2 or pixels.shape[1] != 3072 or numbers.shape != pixels.shape[:1]:
        raise UserError(
            f"{where}: expected pixels N×3072 with N labels, got {pixels.shape} and "
            f"{numbers.shape}; fetch the official file"
        )
    return pixels, numbers
