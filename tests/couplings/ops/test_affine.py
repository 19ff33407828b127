"""couplings::affine_couple against its definition: values, both derivatives, exactness, tracing."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor

from couplings import SoftClamp
from couplings.functional import affine_couple, affine_uncouple
from couplings.ops import reference
from couplings.testing import assert_as_exact

OPERATOR = torch.ops.couplings.affine_couple
SETTINGS = {
    f"{'inverse' if inverse else 'forward'} {'atan' if atan else 'tanh'}": (0.7, 0.8, atan, inverse)
    for inverse, atan in product((False, True), (False, True))
}
HALVES = {"alone": (None, False), "passive first": (3, False), "active first": (3, True)}

Arguments = tuple[object, ...]
Function = Callable[..., tuple[Tensor, ...]]


@pytest.fixture(params=SETTINGS.values(), ids=SETTINGS)
def settings(request: pytest.FixtureRequest) -> Arguments:
    return request.param


@pytest.fixture(params=HALVES.values(), ids=HALVES)
def halves(request: pytest.FixtureRequest) -> tuple[int | None, bool]:
    return request.param


def draw(
    shape: tuple[int, ...], rest: int | None = None, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    """Active half of this shape, parameters and the passive half (where asked for)."""
    generator = torch.Generator().manual_seed(0)
    batch, size, *inner = shape
    channels = [size, 2 * size] + ([rest] if rest else [])
    return [
        torch.randn(batch, c, *inner, dtype=torch.float64, generator=generator)
        .to(dtype)
        .requires_grad_()
        for c in channels
    ]


def bound(function: Function, active_first: bool, settings: Arguments) -> Function:
    """A function of the tensors alone: y and log_det."""

    def call(
        active: Tensor, parameters: Tensor, passive: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        return function(active, parameters, passive, active_first, *settings)[:2]

    return call


def test_derivatives(halves: tuple[int | None, bool], settings: Arguments) -> None:
    rest, first = halves
    tensors = draw((2, 2, 3), rest)
    call = bound(OPERATOR, first, settings)
    assert torch.autograd.gradcheck(call, tensors)
    assert torch.autograd.gradgradcheck(call, tensors)


def test_opcheck(halves: tuple[int | None, bool], settings: Arguments) -> None:
    rest, first = halves
    active, parameters, *passive = draw((2, 2, 3), rest)
    half = passive[0] if passive else None
    torch.library.opcheck(OPERATOR, (active, parameters, half, first, *settings))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(5, 3, 7, 9), (1, 1), (0, 2, 3), (3, 17, 1, 5)], ids=str)
def test_as_exact_as_the_definition(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    halves: tuple[int | None, bool],
    settings: Arguments,
) -> None:
    rest, first = halves
    tensors = draw(shape, rest, dtype)
    assert_as_exact(
        bound(OPERATOR, first, settings), bound(reference.affine_couple, first, settings), tensors
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_small_and_saturated_scales_are_as_exact(dtype: torch.dtype, settings: Arguments) -> None:
    for factor in (1e-4, 8.0):
        active, parameters = draw((4, 3, 5), dtype=dtype)
        parameters = (factor * parameters).detach().requires_grad_()
        call, plain = (
            bound(OPERATOR, False, settings),
            bound(reference.affine_couple, False, settings),
        )
        assert_as_exact(call, plain, [active, parameters])


def channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)


def strided(tensor: Tensor) -> Tensor:
    return torch.stack((tensor, tensor), dim=-1)[..., 0]


@pytest.mark.parametrize("lay_out", [channels_last, strided])
def test_any_layout(
    lay_out: Callable[[Tensor], Tensor],
    halves: tuple[int | None, bool],
    settings: Arguments,
) -> None:
    rest, first = halves
    drawn = draw((2, 3, 4, 5), rest, torch.float32)
    tensors = [lay_out(t.detach()).requires_grad_() for t in drawn]
    call, plain = bound(OPERATOR, first, settings), bound(reference.affine_couple, first, settings)
    assert_as_exact(call, plain, tensors)


def test_channels_last_stays_channels_last() -> None:
    active, parameters, passive = (channels_last(t) for t in draw((2, 3, 4, 5), 2))
    y, _ = affine_couple(active, parameters, SoftClamp(), passive)
    assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("position", ["active", "parameters"])
def test_what_is_not_finite_stays_so(bad: float, position: str, settings: Arguments) -> None:
    tensors = [t.detach() for t in draw((2, 2, 3))]
    tensors[("active", "parameters").index(position)][0, 0, 0] = bad
    ours = bound(OPERATOR, False, settings)(*tensors)
    plain = bound(reference.affine_couple, False, settings)(*tensors)
    for got, expected in zip(ours, plain, strict=True):
        torch.testing.assert_close(got, expected, equal_nan=True)


def test_autocast_keeps_the_log_det_in_float32() -> None:
    active, parameters = draw((2, 4, 3), dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        y, log_det = affine_couple(active, parameters, SoftClamp())
        wide, _ = affine_couple(active.float(), parameters, SoftClamp())
    assert (y.dtype, wide.dtype, log_det.dtype) == (torch.bfloat16, torch.float32, torch.float32)


def both_ways(x: Tensor, parameters: Tensor) -> Tensor:
    """A function of one sample through the functional layer."""
    y, log_det = affine_couple(x[None], parameters[None], SoftClamp())
    back, _ = affine_uncouple(y, parameters[None] / 2, SoftClamp())
    return back.sum() + log_det.sum()


def test_torch_func_goes_through_the_definition() -> None:
    x, parameters = (t.detach() for t in draw((3, 2, 4)))
    expected = torch.stack([both_ways(a, p) for a, p in zip(x, parameters, strict=True)])
    torch.testing.assert_close(torch.vmap(both_ways)(x, parameters), expected)
    _, slope = torch.func.jvp(lambda v: both_ways(v, parameters[0]), (x[0],), (x[1],))
    gradient = torch.func.jacrev(both_ways)(x[0], parameters[0])
    torch.testing.assert_close(slope, (gradient * x[1]).sum())


def test_one_graph_under_compile_and_export() -> None:
    x, parameters = (t.detach() for t in draw((3, 2, 4)))

    def call(x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        return affine_couple(x, parameters, SoftClamp())

    expected = call(x, parameters)
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, parameters), expected)


def test_the_operator_itself_compiles() -> None:
    tensors = draw((3, 2, 4))
    call = bound(OPERATOR, False, (0.7, 0.8, False, False))
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*tensors), call(*tensors))
    ours, expected = (
        torch.autograd.grad(f(*tensors)[0].square().sum(), tensors) for f in (compiled, call)
    )
    torch.testing.assert_close(ours, expected)
