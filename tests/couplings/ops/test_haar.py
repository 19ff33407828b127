"""couplings::haar against its definition: values, derivatives, layouts, tracing."""

import operators
import pytest
import torch
from operators import assert_as_exact, both_ways
from torch import Tensor

from couplings.functional import haar, unhaar
from couplings.ops import reference

OPERATOR = torch.ops.couplings.haar


def draw(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Tensor:
    return operators.draw(shape, dtype=dtype)[0].requires_grad_()


@both_ways
def test_derivatives_and_opcheck(inverse: bool) -> None:
    x = draw((2, 4, 2, 4))
    assert torch.autograd.gradcheck(lambda x: OPERATOR(x, 0.3, inverse), x)
    assert torch.autograd.gradgradcheck(lambda x: OPERATOR(x, 0.3, inverse), x)
    torch.library.opcheck(OPERATOR, (x, 0.3, inverse))


@both_ways
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(2, 12, 2, 6), (1, 4, 2, 2), (0, 4, 2, 2)], ids=str)
def test_as_exact_as_the_definition(
    shape: tuple[int, ...], dtype: torch.dtype, inverse: bool
) -> None:
    assert_as_exact(OPERATOR, reference.haar, [draw(shape, dtype)], 0.3, inverse)


@both_ways
def test_any_layout(inverse: bool) -> None:
    x = draw((2, 8, 4, 6)).detach()
    expected = reference.haar(x, 0.3, inverse)
    last = x.contiguous(memory_format=torch.channels_last)
    ours = OPERATOR(last, 0.3, inverse)
    assert ours.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(ours, expected)
    slices = torch.cat((x[:, :3], x), dim=1)[:, 3:]
    torch.testing.assert_close(OPERATOR(slices, 0.3, inverse), expected)


def test_the_inverse_undoes_the_scale() -> None:
    x = draw((2, 3, 4, 6)).detach()
    torch.testing.assert_close(unhaar(haar(x, 0.3), 0.3), x)


@both_ways
def test_no_autocast_rounds_it(inverse: bool) -> None:
    x = draw((2, 4, 4, 4), torch.float32).detach()
    expected = reference.haar(x, 1.0, inverse)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(OPERATOR(x, 1.0, inverse), expected)
        torch.testing.assert_close(reference.haar(x, 1.0, inverse), expected)
