"""The spline kernels against definition and eager backward."""

from __future__ import annotations

from functools import partial

import operators
import pytest
import torch
from operators import Function, assert_as_exact, both_ways, channels_last, in_each_input, not_finite
from torch import Tensor

from couplings.ops import reference_spline, triton_spline
from couplings.ops.spline import eager_spline, eager_spline_backward

BOUND = 3.0

all_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


def draw(device: torch.device, dtype: torch.dtype, bins: int, rest: int = 0) -> list[Tensor]:
    """Draw x with three active channels, a quarter of it in the tails, and parameters."""
    shapes = (3, 3 + rest, 7, 5), (3, 3 * (3 * bins - 1), 7, 5)
    x, raw = operators.draw(*shapes, dtype=dtype, device=device)
    return [2.5 * x, raw]


@both_ways
@all_dtypes
@pytest.mark.parametrize("bins", [1, 5, 8])
@pytest.mark.parametrize(("rest", "first"), [(0, False), (2, False), (2, True)])
def test_forward(
    bins: int, dtype: torch.dtype, rest: int, first: bool, inverse: bool, device: torch.device
) -> None:
    def call(function: Function, x: Tensor, raw: Tensor) -> tuple[Tensor, ...]:
        passive = x[:, 3:] if rest else None
        return function(x[:, :3], raw, passive, first, bins, BOUND, inverse)[:2]

    functions = triton_spline.spline_couple, reference_spline.spline_couple
    inputs = draw(device, dtype, bins, rest)
    assert_as_exact(*(partial(call, function) for function in functions), inputs)


@both_ways
@all_dtypes
@pytest.mark.parametrize("bins", [1, 5])
def test_backward(bins: int, dtype: torch.dtype, inverse: bool, device: torch.device) -> None:
    x, raw = draw(device, dtype, bins)
    index = eager_spline(x, raw, None, False, bins, BOUND, inverse)[2]
    grad, grad_log_det = operators.draw((3, 5, 7, 5), (3,), device=device, seed=1)

    def call(function: Function, grad: Tensor, x: Tensor, raw: Tensor) -> tuple[Tensor, ...]:
        wide = grad_log_det.to(torch.promote_types(grad.dtype, torch.float32))
        return function(grad[:, 2:], wide, x, index, raw, bins, BOUND, inverse)

    functions = triton_spline.spline_couple_backward, eager_spline_backward
    inputs = [grad.to(dtype), x, raw]
    assert_as_exact(*(partial(call, function) for function in functions), inputs)


@both_ways
def test_zeros_are_the_identity(inverse: bool, device: torch.device) -> None:
    x, raw = draw(device, torch.float32, 8)
    raw.zero_()
    y, log_det, _ = triton_spline.spline_couple(x, raw, None, False, 8, BOUND, inverse)
    torch.testing.assert_close(y, x, atol=1e-6, rtol=0)
    torch.testing.assert_close(log_det, torch.zeros_like(log_det), atol=1e-4, rtol=0)


@both_ways
@pytest.mark.parametrize("bins", [5, 65], ids=["channels last", "many bins"])
def test_what_is_left_to_the_eager_kernel(bins: int, inverse: bool, device: torch.device) -> None:
    x, raw = draw(device, torch.float32, bins)
    if bins == 5:
        x, raw = map(channels_last, (x, raw))
    settings = (bins, BOUND, inverse)
    ours = triton_spline.spline_couple(x, raw, None, False, *settings)
    expected = eager_spline(x, raw, None, False, *settings)
    assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))
    arguments = (x, expected[1], x, expected[2], raw, *settings)
    ours = triton_spline.spline_couple_backward(*arguments)
    expected = eager_spline_backward(*arguments)
    assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))


@both_ways
def test_float64(inverse: bool, device: torch.device) -> None:
    x, raw = draw(device, torch.float64, 5)
    y, log_det, _ = triton_spline.spline_couple(x, raw, None, False, 5, BOUND, inverse)
    expected = reference_spline.spline_couple(x, raw, None, False, 5, BOUND, inverse)
    torch.testing.assert_close((y, log_det), expected, atol=1e-12, rtol=1e-12)


@both_ways
@not_finite
@in_each_input
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_what_is_not_finite_stays_so(
    bad: float, position: int, inverse: bool, device: torch.device
) -> None:
    tensors = draw(device, torch.float32, 5)
    tensors[0] *= 0.1
    tensors[position][0, 0, 0, 0] = bad
    ours = triton_spline.spline_couple(*tensors, None, False, 5, BOUND, inverse)
    expected = reference_spline.spline_couple(*tensors, None, False, 5, BOUND, inverse)
    torch.testing.assert_close(ours[:2], expected, equal_nan=True, atol=1e-4, rtol=1e-4)
