"""The Haar kernel against its definition, launched as it is."""

from __future__ import annotations

import operators
import pytest
import torch
from operators import assert_as_exact, both_ways, channels_last, not_finite
from torch import Tensor

from couplings.ops import reference, triton_haar
from couplings.ops.haar import eager_haar

SHAPES = [(2, 12, 2, 6), (3, 4, 2, 2), (1, 8, 34, 70)]


def draw(device: torch.device, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    return operators.draw(shape, dtype=dtype, device=device)[0]


@both_ways
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_as_exact_as_the_definition(
    shape: tuple[int, ...], dtype: torch.dtype, inverse: bool, device: torch.device
) -> None:
    assert_as_exact(triton_haar.haar, reference.haar, [draw(device, dtype, shape)], 0.3, inverse)


@both_ways
def test_float64(inverse: bool, device: torch.device) -> None:
    x = draw(device, torch.float64, (2, 4, 6, 4))
    ours, expected = triton_haar.haar(x, 0.3, inverse), reference.haar(x, 0.3, inverse)
    torch.testing.assert_close(ours, expected, atol=1e-15, rtol=1e-15)


@both_ways
def test_a_slice_of_channels(inverse: bool, device: torch.device) -> None:
    x = draw(device, torch.float32, (2, 9, 6, 4))[:, 1:]
    torch.testing.assert_close(triton_haar.haar(x, 1.0, inverse), eager_haar(x, 1.0, inverse))


@both_ways
def test_channels_last_is_left_to_the_eager_kernel(inverse: bool, device: torch.device) -> None:
    x = channels_last(draw(device, torch.float32, (2, 8, 6, 4)))
    ours = triton_haar.haar(x, 1.0, inverse)
    assert torch.equal(ours, eager_haar(x, 1.0, inverse))
    assert ours.is_contiguous(memory_format=torch.channels_last)


@both_ways
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@not_finite
def test_what_is_not_finite_stays_so(bad: float, inverse: bool, device: torch.device) -> None:
    x = draw(device, torch.float32, (2, 4, 2, 2))
    x[0, 0, 0, 0] = bad
    ours, expected = triton_haar.haar(x, 1.0, inverse), eager_haar(x, 1.0, inverse)
    torch.testing.assert_close(ours, expected, equal_nan=True)
