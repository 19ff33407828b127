"""Operators whose kernels are these: schemas hold, and the fakes foretell shapes and strides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from couplings import random_rotation
from couplings.ops import affine, haar, matmul, spline
from couplings.ops import triton_affine as affine_kernels
from couplings.ops import triton_haar as haar_kernels
from couplings.ops import triton_mixture as mixture_kernels
from couplings.ops import triton_rotation as rotation_kernels
from couplings.ops import triton_spline as spline_kernels
from couplings.ops.dispatch import define

CLAMP = (0.7, 0.8, False, False)
SPLINE = (5, 3.0, False)


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


IMAGE, SAMPLES, RAW = draw(2, 3, 4, 5), draw(2), draw(2, 3 * 14, 4, 5)
INDEX = torch.ones(2, 1, 3, 4, 5, dtype=torch.int64)
ROTATION, LOG_WEIGHTS = random_rotation(5, torch.Generator()), draw(7).log_softmax(0)
# Of each operator: its kernel, its fake and arguments.
CASES: dict[str, tuple[Callable[..., Any], Callable[..., Any], tuple[Any, ...]]] = {
    "affine_couple": (
        affine_kernels.affine_couple, affine._fake,
        (IMAGE, draw(2, 6, 4, 5), draw(2, 2, 4, 5), True, *CLAMP),
    ),
    "affine_couple_backward": (
        affine_kernels.affine_couple_backward, affine._fake_backward,
        (IMAGE, SAMPLES, IMAGE, IMAGE, *CLAMP, torch.float32),
    ),
    "spline_couple": (
        spline_kernels.spline_couple, spline._fake,
        (IMAGE, RAW, draw(2, 2, 4, 5), True, *SPLINE),
    ),
    "spline_couple_backward": (
        spline_kernels.spline_couple_backward, spline._fake_backward,
        (IMAGE, SAMPLES, IMAGE, INDEX, RAW, *SPLINE),
    ),
    "mixture": (
        mixture_kernels.mixture, matmul._fake_mixture, (draw(3, 4), draw(7, 4), LOG_WEIGHTS, False),
    ),
    "mixture_backward": (
        mixture_kernels.mixture_backward, matmul._fake_mixture_backward,
        (draw(3, 7), None, draw(3, 7), draw(3, 4), draw(7, 4), draw(3, 7), True),
    ),
    "rotate": (
        rotation_kernels.rotate, matmul._fake_rotate,
        (draw(2, 5, 4, 5), ROTATION, draw(5), draw(5), False),
    ),
    "rotate_backward": (
        rotation_kernels.rotate_backward, matmul._fake_rotate_backward,
        (draw(2, 5, 4, 5), draw(2, 5, 4, 5), ROTATION, draw(5), draw(5), True),
    ),
    "haar": (haar_kernels.haar, haar._fake, (draw(2, 4, 6, 4), 0.5, True)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_opcheck(name: str, device: torch.device) -> None:
    kernel, fake, arguments = CASES[name]
    schema = str(getattr(torch.ops.couplings, name).default._schema)
    define(f"interpreted_{name}", schema[schema.index("(") :], kernel, fake)
    moved = [arg.to(device) if isinstance(arg, Tensor) else arg for arg in arguments]
    operator = getattr(torch.ops.couplings, f"interpreted_{name}")
    torch.library.opcheck(operator, tuple(moved), test_utils=("test_schema", "test_faketensor"))
