"""The affine kernels against definition and eager backward, launched as they are."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from operators import (
    Clamp,
    Function,
    all_clamps,
    assert_as_exact,
    channels_last,
    draw,
    in_each_input,
    in_halves,
    not_finite,
)
from torch import Tensor

from couplings.ops import reference, triton_affine
from couplings.ops.affine import eager_affine, eager_affine_backward

all_dtypes = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str
)


@all_clamps
@all_dtypes
@in_halves
def test_forward(
    settings: Clamp, dtype: torch.dtype, rest: int, first: bool, device: torch.device
) -> None:
    # Odd shapes, and halves that are slices of channels: samples do not follow each other.
    inputs = draw((3, 5 + rest, 7, 3), (3, 10, 7, 3), dtype=dtype, device=device)

    def call(function: Function, whole: Tensor, parameters: Tensor) -> tuple[Tensor, ...]:
        passive = whole[:, 5:] if rest else None
        return function(whole[:, :5], parameters, passive, first, *settings)[:2]

    functions = triton_affine.affine_couple, reference.affine_couple
    assert_as_exact(*(partial(call, function) for function in functions), inputs)


@all_clamps
@all_dtypes
def test_backward(settings: Clamp, dtype: torch.dtype, device: torch.device) -> None:
    active, parameters, grad = draw(
        (3, 5, 7, 3), (3, 10, 7, 3), (3, 8, 7, 3), dtype=dtype, device=device
    )
    wide = torch.promote_types(dtype, torch.float32)
    (grad_log_det,) = draw((3,), dtype=wide, device=device)
    y, _, unit = eager_affine(active, parameters, None, False, *settings)
    kept = y if settings[-1] else active

    def call(function: Function, grad: Tensor, *t: Tensor) -> tuple[Tensor, ...]:
        return function(grad[:, 3:], *t, *settings, t[1].dtype)

    functions = triton_affine.affine_couple_backward, eager_affine_backward
    inputs = [grad, grad_log_det, kept, unit]
    assert_as_exact(*(partial(call, function) for function in functions), inputs)


# Long samples take several blocks.
@all_clamps
@pytest.mark.parametrize(
    ("shape", "dtype", "tolerance"),
    [
        ((3, 7), torch.float64, {"atol": 1e-13, "rtol": 1e-13}),
        ((2, 1501), torch.float32, {}),
        ((1, 1), torch.float32, {}),
        ((2, 1, 1, 1), torch.float32, {}),
    ],
    ids=str,
)
def test_is_the_eager_kernel(
    settings: Clamp,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    tolerance: dict[str, float],
    device: torch.device,
) -> None:
    twice = (shape[0], 2 * shape[1], *shape[2:])
    arguments = (*draw(shape, twice, dtype=dtype, device=device), None, False, *settings)
    ours = triton_affine.affine_couple(*arguments)
    torch.testing.assert_close(ours, eager_affine(*arguments), **tolerance)


@all_clamps
@not_finite
@in_each_input
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_what_is_not_finite_stays_so(
    settings: Clamp, bad: float, position: int, device: torch.device
) -> None:
    tensors = draw((2, 3), (2, 6), dtype=torch.float32, device=device)
    tensors[position][0, 0] = bad
    ours = triton_affine.affine_couple(*tensors, None, False, *settings)
    expected = reference.affine_couple(*tensors, None, False, *settings)
    torch.testing.assert_close(ours, expected, equal_nan=True)


def test_channels_last_is_left_to_the_eager_kernel(device: torch.device) -> None:
    drawn = draw((2, 3, 4, 5), (2, 6, 4, 5), dtype=torch.float32, device=device)
    active, parameters = map(channels_last, drawn)
    y, _, _ = triton_affine.affine_couple(active, parameters, None, False, 1.0, 1.0, False, False)
    assert y.is_contiguous(memory_format=torch.channels_last)
