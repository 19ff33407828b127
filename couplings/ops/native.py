"""Compiled CPU kernels: which library runs, and how tensors reach it.

`build_native` compiles `csrc` once for each instruction set; here the one for this processor is
loaded. Tensors pass as addresses and strides, and torch_parallel_for, of torch's stable C ABI, runs
the work in torch's own threads: a library works with every torch that has this function. Without a
library the operators are those written in PyTorch, for which COUPLINGS_KERNELS=python asks, too.
"""

import ctypes
import os
import struct
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from couplings.ops import build_native

DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2}


class Layout(NamedTuple):
    """Order in which a kernel walks over the numbers of a sample of (B, C, ...).

    Channels are rows of positions or, where channels are innermost in memory, positions are rows of
    channels. A view (struct View of csrc/view.h) is five numbers: address, dtype and the strides of
    samples, rows and columns.
    """

    channels_last: bool

    def shape(self, x: Tensor) -> tuple[int, int]:
        """Return the rows and columns of one sample."""
        positions = x.shape[2:].numel()
        return (positions, x.shape[1]) if self.channels_last else (x.shape[1], positions)

    def views(self, *tensors: Tensor | None) -> list[int]:
        """Describe tensors to a kernel; None: one that is not there."""
        numbers: list[int] = []
        for x in tensors:
            if x is None:
                numbers += (0, 0, 0, 0, 0)
            else:
                sample, channel, *_ = x.stride()
                position = _position_stride(x)
                rows = (position, channel) if self.channels_last else (channel, position)
                numbers += (x.data_ptr(), DTYPES[x.dtype], sample, *rows)
        return numbers


def per_sample(x: Tensor) -> tuple[int, ...]:
    """Describe (B,), a number a sample."""
    return x.data_ptr(), DTYPES[x.dtype], x.stride(0), 0, 0


def per_row(x: Tensor) -> tuple[int, ...]:
    """Describe a matrix or vector, the same for all samples."""
    row, column = x.stride() if x.dim() == 2 else (0, x.stride(0))
    return x.data_ptr(), DTYPES[x.dtype], 0, row, column


def readable(*tensors: Tensor) -> bool:
    """Return True if the kernels take all of these: dtypes, strides, and something in them."""
    return all(x.dtype in DTYPES and x.numel() and _position_stride(x) >= 0 for x in tensors)


def call(name: str, dtype: torch.dtype, form: str, *numbers: float) -> None:
    """Run a kernel that computes in `dtype` on a struct of these numbers."""
    assert not isinstance(_LOADED, str)
    library, parallel_for = _LOADED
    getattr(library, name)(parallel_for, dtype == torch.float64, struct.pack(form, *numbers))


def description() -> str:
    """Say in one line which CPU kernels run, and if none, why."""
    if isinstance(_LOADED, str):
        return f"CPU kernels: PyTorch's own ({_LOADED})"
    return f"CPU kernels: compiled for {Path(_LOADED[0]._name).stem.split('_')[1].upper()}"


def _load() -> tuple[ctypes.CDLL, ctypes.c_void_p] | str:
    """Return the library and torch_parallel_for, or the reason why there is none."""
    if os.environ.get("COUPLINGS_KERNELS") == "python":
        return "COUPLINGS_KERNELS=python"
    found = (torch.backends.cpu.get_cpu_capability(), "DEFAULT")
    path = next(filter(Path.exists, map(build_native.library, found)), None)
    if path is None:
        return f"none is compiled for {found[0]}; see `python -m couplings build`"
    try:
        library = ctypes.CDLL(str(path))
        library.kernels_version.restype = ctypes.c_char_p
        address = ctypes.cast(_libtorch().torch_parallel_for, ctypes.c_void_p)
    except (OSError, AttributeError) as error:
        return f"{path.name}: {error}"
    if library.kernels_version().decode() != build_native.version():
        return f"{path.name} was compiled from other sources; see `python -m couplings build`"
    return library, address


def _libtorch() -> Any:
    folder = Path(torch.__file__).parent / "lib"
    names = ("libtorch_cpu.so", "libtorch_cpu.dylib")
    return ctypes.CDLL(str(next(folder / name for name in names if (folder / name).exists())))


def _position_stride(x: Tensor) -> int:
    """Return the one stride of all positions of (B, C, ...), or -1 if there is none."""
    shape, strides = x.shape[2:], x.stride()[2:]
    if len(shape) == 2 and strides[0] == strides[1] * shape[1]:
        return strides[1]
    stride, extent = 0, 1
    for size, step in zip(reversed(shape), reversed(strides), strict=True):
        if size == 1:
            continue
        if extent == 1:
            stride = step
        elif step != stride * extent:
            return -1
        extent *= size
    return stride


# Chosen once: a run computes all its numbers with the same kernels.
_LOADED = _load()
COMPILED = not isinstance(_LOADED, str)
