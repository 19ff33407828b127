"""The mixture's and the rotation's kernels against their definitions."""

from __future__ import annotations

import operators
import pytest
import torch
from operators import assert_as_exact, both_ways, not_finite
from torch import Tensor

from couplings import random_rotation
from couplings.ops import matmul, reference, triton_mixture, triton_rotation

SHAPES = [(2, 5, 3, 7), (2, 40, 4, 5), (1, 17, 9, 9), (2, 1, 16)]

rotated = pytest.mark.parametrize("shape", SHAPES, ids=str)


def draw(
    device: torch.device, *shapes: tuple[int, ...], dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    return operators.draw(*shapes, dtype=dtype, device=device)


def matrix_of(channels: int, device: torch.device) -> Tensor:
    return random_rotation(channels, torch.Generator().manual_seed(1)).to(device)


@pytest.mark.parametrize("shape", [(3, 37, 6), (1, 1, 1), (2, 1500, 3)], ids=str)
@pytest.mark.parametrize("distance", [1.0, 10.0])
def test_mixture(shape: tuple[int, int, int], distance: float, device: torch.device) -> None:
    batch, classes, dims = shape
    z, means, weights = draw(device, (batch, dims), (classes, dims), (classes,))
    inputs = [z, distance * means, weights.log_softmax(0)]
    assert_as_exact(triton_mixture.mixture, reference.mixture, inputs, False)


@pytest.mark.parametrize("absent", [slice(0, 1), slice(2, 4), slice(0, 1100)], ids=str)
def test_mixture_with_classes_of_weight_zero(absent: slice, device: torch.device) -> None:
    z, means, logits = draw(device, (3, 4), (1500, 4), (1500,))
    logits[absent] = float("-inf")
    arguments = (z, means, logits.log_softmax(0), False)
    torch.testing.assert_close(triton_mixture.mixture(*arguments), matmul.eager_mixture(*arguments))


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@not_finite
def test_mixture_of_what_is_not_finite(bad: float, device: torch.device) -> None:
    z, means, logits = draw(device, (3, 4), (5, 4), (5,))
    z[0, 0] = bad
    arguments = (z, means, logits.log_softmax(0), False)
    ours, expected = triton_mixture.mixture(*arguments), matmul.eager_mixture(*arguments)
    torch.testing.assert_close(ours, expected, equal_nan=True)


@pytest.mark.parametrize("fixed_prior", [False, True])
@pytest.mark.parametrize("given", [(0, 1, 2), (1,), (0,), (2,), (1, 2)], ids=str)
def test_mixture_backward(given: tuple[int, ...], fixed_prior: bool, device: torch.device) -> None:
    z, means, logits = draw(device, (3, 6), (37, 6), (3, 37))
    upstream = draw(device, (3, 37), (3,), (3, 37))
    grads = [upstream[i] if i in given else None for i in range(3)]
    arguments = (*grads, z, means, logits.log_softmax(1), fixed_prior)
    ours = triton_mixture.mixture_backward(*arguments)
    torch.testing.assert_close(ours, matmul.eager_mixture_backward(*arguments))


@both_ways
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@rotated
def test_rotation(
    shape: tuple[int, ...], dtype: torch.dtype, inverse: bool, device: torch.device
) -> None:
    matrix = matrix_of(shape[1], device)
    x, scale, offset = draw(device, shape, shape[1:2], shape[1:2], dtype=dtype)
    calls = (
        lambda x, s, o, f=f: f(x, matrix, s, o, inverse)
        for f in (triton_rotation.rotate, reference.rotate)
    )
    assert_as_exact(*calls, [x, scale, offset])


@both_ways
@rotated
def test_rotation_backward(shape: tuple[int, ...], inverse: bool, device: torch.device) -> None:
    matrix = matrix_of(shape[1], device)
    grad, z, scale, offset = draw(device, shape, shape, shape[1:2], shape[1:2])
    ours = triton_rotation.rotate_backward(grad, z, matrix, scale, offset, inverse)
    expected = matmul.eager_rotate_backward(grad, z, matrix, scale, offset, inverse)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


@both_ways
def test_the_scales_gradient_is_no_difference_of_sums(inverse: bool, device: torch.device) -> None:
    matrix = matrix_of(5, device)
    grad, z, scale, offset = draw(device, (3, 5, 8, 8), (3, 5, 8, 8), (5,), (5,))
    offset = offset + 1000
    z = z + offset[:, None, None]
    ours = triton_rotation.rotate_backward(grad, z, matrix, scale, offset, inverse)[1]
    tensors = (t.double() for t in (grad, z, matrix, scale, offset))
    exact = matmul.eager_rotate_backward(*tensors, inverse)[1]
    torch.testing.assert_close(ours.double(), exact, atol=1e-4, rtol=1e-5)


@both_ways
def test_rotation_of_a_slice_of_channels(inverse: bool, device: torch.device) -> None:
    matrix = matrix_of(5, device)
    x, grad, scale, offset = draw(device, (2, 8, 3, 7), (2, 8, 3, 7), (5,), (5,))
    settings = (matrix, scale, offset, inverse)
    ours = triton_rotation.rotate(x[:, 3:], *settings)
    torch.testing.assert_close(ours, matmul.eager_rotate(x[:, 3:], *settings), atol=1e-5, rtol=1e-5)
    ours = triton_rotation.rotate_backward(grad[:, :5], x[:, 3:], *settings)
    expected = matmul.eager_rotate_backward(grad[:, :5], x[:, 3:].contiguous(), *settings)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


LEFT = {
    "float64": ((2, 3, 4, 4), torch.float64),
    "flat": ((3, 7), torch.float32),
    "few positions": ((2, 5, 2, 2), torch.float32),
    "many channels": ((2, 65, 4, 4), torch.float32),
}


@both_ways
@pytest.mark.parametrize(("shape", "dtype"), LEFT.values(), ids=LEFT)
def test_matrix_products_are_left_to_the_eager_kernel(
    shape: tuple[int, ...], dtype: torch.dtype, inverse: bool, device: torch.device
) -> None:
    matrix = matrix_of(shape[1], device)
    x, z, scale, offset = draw(device, shape, shape, shape[1:2], shape[1:2], dtype=dtype)
    settings = (matrix, scale, offset, inverse)
    assert torch.equal(triton_rotation.rotate(x, *settings), matmul.eager_rotate(x, *settings))
    ours = triton_rotation.rotate_backward(x, z, *settings)
    expected = matmul.eager_rotate_backward(x, z, *settings)
    assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))
