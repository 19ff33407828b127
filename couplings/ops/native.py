"""Library of compiled CPU kernels that runs on this machine.

`build_native` compiles `csrc` once for each instruction set; here the library for this processor is
loaded. Tensors reach it as addresses and strides (`dispatch`), and torch_parallel_for, of torch's
stable C ABI, runs the work in torch's own threads: it works with every torch that has this
function. Without a library the operators run as they are written in PyTorch, for which
COUPLINGS_KERNELS=python asks, too.
"""

import ctypes
import os
from pathlib import Path
from typing import Any

import torch

from couplings.ops import build_native


def description() -> str:
    """Say in one line which CPU kernels run, and if none, why."""
    if isinstance(LOADED, str):
        return f"CPU kernels: PyTorch's own ({LOADED})"
    return f"CPU kernels: compiled for {Path(LOADED[0]._name).stem.split('_')[1].upper()}"


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


# Chosen once: a run computes all its numbers with the same kernels.
LOADED = _load()
COMPILED = not isinstance(LOADED, str)
