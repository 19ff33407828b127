"""The compiler takes every kernel that a launcher would launch, for an H200 that is not there.

The interpreter runs kernels that no compiler takes: with variables that change their type in a
loop, or more shared memory than there is. As a program, this fails for the first of them, and
prints how many it compiled.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from triton import compile as compile_kernel
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from couplings.ops import triton_affine, triton_haar, triton_mixture, triton_rotation, triton_spline

TARGET = GPUTarget("cuda", 90, 32)
BOTH = ("_forward", "_backward")
ENTRIES = {triton_haar: ("_transform",), triton_rotation: ("_mix",)}
ENTRIES |= dict.fromkeys((triton_affine, triton_mixture, triton_spline), BOTH)
TYPES = {torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.float32: "*fp32"}
TYPES |= {torch.float64: "*fp64", torch.int16: "*i16", torch.int64: "*i64"}


class Compiled:
    """Stand-in for a kernel that compiles instead of launching."""

    count = 0

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return self.compile

    def compile(self, *positional: Any, **named: Any) -> None:
        values = dict(zip(self.kernel.arg_names, positional, strict=False)) | named
        # It asks whether the tensor is on the CPU, as the interpreter's are.
        values |= {"WIDE": False} if "WIDE" in values else {}
        signature, constants = {}, {}
        for i, parameter in enumerate(self.kernel.params):
            value = values[parameter.name]
            if isinstance(value, Tensor):
                signature[parameter.name] = TYPES[value.dtype]
            # Triton makes a constant of every 1.
            elif parameter.is_constexpr or value == 1:
                signature[parameter.name] = "constexpr"
                constants[(i,)] = value
            else:
                signature[parameter.name] = "i32"
        compile_kernel(ASTSource(self.kernel, signature, constants), target=TARGET)
        Compiled.count += 1


def launches(dtype: torch.dtype) -> Iterator[None]:
    """Launch each kernel in this dtype: both clamps, both directions."""
    wide = torch.promote_types(dtype, torch.float32)
    x, twice = torch.ones(3, 4, 8, 8).to(dtype), torch.ones(3, 8, 8, 8).to(dtype)
    log_det = torch.ones(3, dtype=wide)
    for atan, inverse in product((False, True), repeat=2):
        clamp = (0.7, 0.1, atan, inverse)
        yield triton_affine.affine_couple(x, twice, x, False, *clamp)
        yield triton_affine.affine_couple_backward(x, log_det, x, x.to(wide), *clamp, dtype)
    index, weights = torch.ones(3, 1, 4, 8, 8, dtype=torch.int16), torch.ones(4, dtype=wide)
    for inverse in (False, True):
        raw, settings = torch.ones(3, 4 * 14, 8, 8).to(dtype), (5, 3.0, inverse)
        yield triton_spline.spline_couple(x, raw, x, False, *settings)
        yield triton_spline.spline_couple_backward(x, log_det, x, index, raw, *settings)
        yield triton_haar.haar(x, 0.5, inverse)
        channels = (torch.eye(4), weights, weights, inverse)
        yield triton_rotation.rotate(x, *channels)
        yield triton_rotation.rotate_backward(x, x, *channels)
    rows, classes = torch.ones(3, 4, dtype=wide), torch.ones(3, 7, dtype=wide)
    means = torch.ones(7, 4, dtype=wide)
    yield triton_mixture.mixture(rows, means, means[:, 0], False)
    for given, fixed in product(product((False, True), repeat=3), (False, True)):
        upstream = zip((classes, log_det, classes), given, strict=True)
        grads = [grad if use else None for grad, use in upstream]
        yield triton_mixture.mixture_backward(*grads, rows, means, classes, fixed)


def main() -> None:
    for module, names in ENTRIES.items():
        for name in names:
            setattr(module, name, Compiled(getattr(module, name)))
    for name in sys.argv[1:]:
        list(launches(getattr(torch, name)))
    print(Compiled.count)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_every_launch_compiles(dtype: str, tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    program = [sys.executable, __file__, dtype]
    run = subprocess.run(program, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr[-3000:]
    assert int(run.stdout) > 10


if __name__ == "__main__":
    main()
