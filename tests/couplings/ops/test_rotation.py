"""couplings::rotate against its definition."""

from collections.abc import Callable

import operators
import pytest
import torch
from operators import assert_as_exact, both_ways, channels_last, strided
from torch import Tensor

from couplings import random_rotation
from couplings.functional import rotate, unrotate
from couplings.ops import reference

OPERATOR = torch.ops.couplings.rotate
Function = Callable[..., Tensor]


def draw(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> tuple[list[Tensor], Tensor]:
    """Draw x, log-scale, offset; and the rotation."""
    tensors = operators.draw(shape, shape[1:2], shape[1:2], dtype=dtype)
    rotation = random_rotation(shape[1], torch.Generator().manual_seed(0))
    return [tensor.requires_grad_() for tensor in tensors], rotation


def bound(function: Function, rotation: Tensor, inverse: bool) -> Function:
    return lambda x, scale, offset: function(x, rotation, scale, offset, inverse)


@both_ways
@pytest.mark.parametrize("lay_out", [Tensor.contiguous, channels_last])
@pytest.mark.parametrize("shape", [(3, 4, 1, 1), (2, 3, 2, 2), (2, 3, 3, 7)], ids=str)
def test_derivatives_and_opcheck(
    shape: tuple[int, ...], lay_out: Callable[[Tensor], Tensor], inverse: bool
) -> None:
    (x, scale, offset), rotation = draw(shape)
    x = lay_out(x.detach()).requires_grad_()
    torch.library.opcheck(OPERATOR, (x, rotation, scale, offset, inverse))
    call = bound(OPERATOR, rotation, inverse)
    assert torch.autograd.gradcheck(call, (x, scale, offset))
    assert torch.autograd.gradgradcheck(call, (x, scale, offset))


@both_ways
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "shape",
    [(5, 7), (0, 3, 2, 2), (1, 2, 1, 1), (3, 12, 5, 7), (2, 70, 4, 5), (2, 33, 9, 9)],
    ids=str,
)
def test_as_exact_as_the_definition(
    shape: tuple[int, ...], dtype: torch.dtype, inverse: bool
) -> None:
    tensors, rotation = draw(shape, dtype)
    call, plain = (bound(f, rotation, inverse) for f in (OPERATOR, reference.rotate))
    assert_as_exact(call, plain, tensors)


@both_ways
def test_channels_last_and_strided_inputs(inverse: bool) -> None:
    (x, scale, offset), rotation = draw((2, 3, 4, 5), torch.float32)
    call, plain = (bound(f, rotation, inverse) for f in (OPERATOR, reference.rotate))
    for lay_out in (channels_last, strided):
        assert_as_exact(call, plain, [lay_out(x).requires_grad_(), scale, offset])
    assert call(channels_last(x), scale, offset).is_contiguous(memory_format=torch.channels_last)


def test_inverse_and_log_det() -> None:
    (x, scale, offset), rotation = draw((2, 3, 4, 5))
    z, log_det = rotate(x, rotation, scale, offset)
    back, inverse_log_det = unrotate(z, rotation, scale, offset)
    torch.testing.assert_close(back, x)
    torch.testing.assert_close(log_det, (20 * scale.sum()).expand(2))
    torch.testing.assert_close(inverse_log_det, -log_det)


def test_autocast_does_not_round() -> None:
    (x, scale, offset), rotation = draw((2, 3, 4, 5), torch.float32)
    expected = rotate(x, rotation, scale, offset)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(rotate(x, rotation, scale, offset), expected)
