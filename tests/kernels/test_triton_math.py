"""The functions that Triton lacks: relative errors, by float64 or by PyTorch in it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from couplings.ops import triton_math

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "atan": torch.atan,
    "softplus": lambda x: torch.log1p(torch.exp(-x.abs())) + x.clamp(min=0),
    "sigmoid": torch.sigmoid,
}


@triton.jit
def _apply(x, out, size, NAME: tl.constexpr, BLOCK: tl.constexpr):  # noqa: ANN001, ANN202
    at = tl.arange(0, BLOCK)
    value = tl.load(x + at, at < size, other=0.0)
    if NAME == "tanh":
        value = triton_math.tanh(value)
    elif NAME == "atan":
        value = triton_math.atan(value)
    elif NAME == "softplus":
        value = triton_math.softplus(value)
    else:
        value = triton_math.sigmoid(value)
    tl.store(out + at, value, at < size)


def apply(name: str, x: Tensor) -> Tensor:
    out = torch.empty_like(x)
    _apply[(1,)](x, out, len(x), NAME=name, BLOCK=triton.next_power_of_2(len(x)))
    return out


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_relative_error(name: str, dtype: torch.dtype, device: torch.device) -> None:
    size = torch.logspace(-20, 1.4, 1001, dtype=dtype, device=device)
    x = torch.cat((size, -size, torch.zeros_like(size[:1])))
    exact = FUNCTIONS[name](x.double())
    error = (apply(name, x) - exact).abs() / exact.abs().clamp(min=torch.finfo(dtype).tiny)
    # A GPU's exp has up to 2 units, and e^25 makes many of the rounding of its argument.
    allowed = 4 if device.type == "cpu" else 64
    assert float(error.max()) <= allowed * torch.finfo(dtype).eps


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_limits(name: str, device: torch.device) -> None:
    x = torch.tensor([float("inf"), float("-inf"), 1e4, -1e4, float("nan")], device=device)
    torch.testing.assert_close(apply(name, x), FUNCTIONS[name](x), equal_nan=True)
