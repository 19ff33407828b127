"""The affine kernels against definition and eager backward, launched as they are."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor

from couplings.ops import reference, triton_affine
from couplings.ops.affine import eager_affine, eager_affine_backward
from couplings.testing import assert_as_exact

SETTINGS = {
    f"{'inverse' if inverse else 'forward'} {'atan' if atan else 'tanh'}": (0.7, 0.8, atan, inverse)
    for inverse, atan in product((False, True), (False, True))
}
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
Settings = tuple[float, float, bool, bool]
Function = Callable[..., tuple[Tensor, ...]]

all_settings = pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
all_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def draw(device: torch.device, dtype: torch.dtype, *shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes]
    return [tensor.to(device, dtype) for tensor in drawn]


@all_settings
@all_dtypes
@pytest.mark.parametrize("rest", [0, 3])
@pytest.mark.parametrize("first", [False, True], ids=["active last", "active first"])
def test_forward(
    settings: Settings, dtype: torch.dtype, rest: int, first: bool, device: torch.device
) -> None:
    # Odd shapes, and halves that are slices of channels: samples do not follow each other.
    whole, parameters = draw(device, dtype, (3, 5 + rest, 7, 3), (3, 10, 7, 3))

    def call(function: Function, whole: Tensor, parameters: Tensor) -> tuple[Tensor, ...]:
        passive = whole[:, 5:] if rest else None
        return function(whole[:, :5], parameters, passive, first, *settings)[:2]

    assert_as_exact(
        lambda *t: call(triton_affine.affine_couple, *t),
        lambda *t: call(reference.affine_couple, *t),
        [whole, parameters],
    )


@all_settings
@all_dtypes
def test_backward(settings: Settings, dtype: torch.dtype, device: torch.device) -> None:
    active, parameters, grad = draw(device, dtype, (3, 5, 7, 3), (3, 10, 7, 3), (3, 8, 7, 3))
    (grad_log_det,) = draw(device, torch.promote_types(dtype, torch.float32), (3,))
    y, _, unit = eager_affine(active, parameters, None, False, *settings)
    kept = y if settings[-1] else active

    def call(
        function: Function, grad: Tensor, grad_log_det: Tensor, kept: Tensor, unit: Tensor
    ) -> tuple[Tensor, ...]:
        return function(grad[:, 3:], grad_log_det, kept, unit, *settings, kept.dtype)

    assert_as_exact(
        lambda *t: call(triton_affine.affine_couple_backward, *t),
        lambda *t: call(eager_affine_backward, *t),
        [grad, grad_log_det, kept, unit],
    )


@all_settings
def test_float64(settings: Settings, device: torch.device) -> None:
    active, parameters = draw(device, torch.float64, (3, 7), (3, 14))
    ours = triton_affine.affine_couple(active, parameters, None, False, *settings)
    expected = eager_affine(active, parameters, None, False, *settings)
    torch.testing.assert_close(ours, expected, atol=1e-13, rtol=1e-13)


@all_settings
def test_long_samples_take_several_blocks(settings: Settings, device: torch.device) -> None:
    active, parameters = draw(device, torch.float32, (2, 1501), (2, 3002))
    ours = triton_affine.affine_couple(active, parameters, None, False, *settings)
    torch.testing.assert_close(ours, eager_affine(active, parameters, None, False, *settings))


@all_settings
@pytest.mark.parametrize("shape", [(1, 1), (2, 1, 1, 1)], ids=str)
def test_smallest(settings: Settings, shape: tuple[int, ...], device: torch.device) -> None:
    active, parameters = draw(device, torch.float32, shape, (shape[0], 2, *shape[2:]))
    ours = triton_affine.affine_couple(active, parameters, None, False, *settings)
    torch.testing.assert_close(ours, eager_affine(active, parameters, None, False, *settings))


@all_settings
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("position", [0, 1], ids=["active", "parameters"])
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_what_is_not_finite_stays_so(
    settings: Settings, bad: float, position: int, device: torch.device
) -> None:
    tensors = draw(device, torch.float32, (2, 3), (2, 6))
    tensors[position][0, 0] = bad
    ours = triton_affine.affine_couple(*tensors, None, False, *settings)
    expected = reference.affine_couple(*tensors, None, False, *settings)
    torch.testing.assert_close(ours, expected, equal_nan=True)


def test_channels_last_is_left_to_the_eager_kernel(device: torch.device) -> None:
    active, parameters = (
        tensor.contiguous(memory_format=torch.channels_last)
        for tensor in draw(device, torch.float32, (2, 3, 4, 5), (2, 6, 4, 5))
    )
    y, _, _ = triton_affine.affine_couple(active, parameters, None, False, 1.0, 1.0, False, False)
    assert y.is_contiguous(memory_format=torch.channels_last)
