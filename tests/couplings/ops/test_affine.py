"""couplings::affine_couple against its definition, the clamp and the functions on top of it."""

from collections.abc import Callable
from math import atan, pi, tanh
from typing import Literal

import pytest
import torch
from FrEIA.modules import GLOWCouplingBlock
from operators import (
    Clamp,
    Function,
    all_clamps,
    assert_as_exact,
    bound,
    channels_last,
    coupled,
    gradients_of,
    in_each_input,
    in_halves,
    in_layouts,
    not_finite,
)
from torch import Tensor, nn

from couplings import MLP, Affine, ConvNet, SoftClamp, two_sided_coupling
from couplings.functional import affine_couple, affine_uncouple
from couplings.ops import reference
from couplings.testing import randomize

OPERATOR, DEFINITION = torch.ops.couplings.affine_couple, reference.affine_couple


def draw(shape: tuple[int, ...], rest: int = 0, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return coupled(shape, 2, rest, dtype=dtype)


def both(first: bool, *settings: object) -> tuple[Function, Function]:
    return bound(OPERATOR, first, *settings), bound(DEFINITION, first, *settings)


@all_clamps
@in_halves
def test_derivatives_and_opcheck(rest: int, first: bool, settings: Clamp) -> None:
    tensors = draw((2, 2, 3), rest)
    call = bound(OPERATOR, first, *settings)
    assert torch.autograd.gradcheck(call, tensors)
    assert torch.autograd.gradgradcheck(call, tensors)
    passive = tensors[2] if rest else None
    torch.library.opcheck(OPERATOR, (*tensors[:2], passive, first, *settings))


@all_clamps
@in_halves
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(5, 3, 7, 9), (1, 1), (0, 2, 3), (3, 17, 1, 5)], ids=str)
def test_as_exact_as_the_definition(
    shape: tuple[int, ...], dtype: torch.dtype, rest: int, first: bool, settings: Clamp
) -> None:
    assert_as_exact(*both(first, *settings), draw(shape, rest, dtype))


@all_clamps
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("factor", [1e-4, 8.0])
def test_small_and_saturated_scales(factor: float, dtype: torch.dtype, settings: Clamp) -> None:
    active, parameters = draw((4, 3, 5), dtype=dtype)
    parameters = (factor * parameters).detach().requires_grad_()
    assert_as_exact(*both(False, *settings), [active, parameters])


@all_clamps
@in_halves
@in_layouts
def test_any_layout(
    lay_out: Callable[[Tensor], Tensor], rest: int, first: bool, settings: Clamp
) -> None:
    tensors = [lay_out(t).requires_grad_() for t in draw((2, 3, 4, 5), rest, torch.float32)]
    assert_as_exact(*both(first, *settings), tensors)


def test_channels_last_stays_channels_last() -> None:
    active, parameters, passive = (channels_last(t) for t in draw((2, 3, 4, 5), 2))
    y, _ = affine_couple(active, parameters, SoftClamp(), passive)
    assert y.is_contiguous(memory_format=torch.channels_last)


@all_clamps
@in_each_input
@not_finite
def test_what_is_not_finite_stays_so(bad: float, position: int, settings: Clamp) -> None:
    tensors = [t.detach() for t in draw((2, 2, 3))]
    tensors[position][0, 0, 0] = bad
    ours, expected = (call(*tensors) for call in both(False, *settings))
    torch.testing.assert_close(ours, expected, equal_nan=True)


def test_autocast_keeps_the_log_det_in_float32() -> None:
    active, parameters = draw((2, 4, 3), dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        y, log_det = affine_couple(active, parameters, SoftClamp())
        wide, _ = affine_couple(active.float(), parameters, SoftClamp())
    assert (y.dtype, wide.dtype, log_det.dtype) == (torch.bfloat16, torch.float32, torch.float32)


def test_the_operator_itself_compiles() -> None:
    tensors = draw((3, 2, 4))
    call = bound(OPERATOR, False, 0.7, 0.8, False, False)
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    ours, expected = (gradients_of(f, tensors) for f in (compiled, call))
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("raw", [-30.0, -1.0, 0.0, 0.3, 7.0])
def test_clamp_is_its_formula(raw: float) -> None:
    value = torch.tensor(raw, dtype=torch.float64)
    assert float(SoftClamp(0.7, 0.1)(value)) == pytest.approx(0.7 * tanh(0.1 * raw))
    expected = 2 * 2 / pi * atan(0.5 * raw)
    assert float(SoftClamp(2.0, 0.5, "atan")(value)) == pytest.approx(expected)


@pytest.mark.parametrize(("form", "slope"), [("tanh", 1.5 * 0.2), ("atan", 1.5 * 0.2 * 2 / pi)])
def test_clamp_has_its_slope_at_zero_and_tends_to_its_limit(
    form: Literal["tanh", "atan"], slope: float
) -> None:
    clamp = SoftClamp(1.5, 0.2, form)
    raw = torch.tensor([-1e9, 0.0, 1e9], dtype=torch.float64, requires_grad=True)
    values = clamp(raw)
    expected = torch.tensor([-1.5, 0.0, 1.5]).double()
    torch.testing.assert_close(values, expected, atol=1e-7, rtol=0)
    assert bool((values.abs() <= 1.5).all())
    (gradient,) = torch.autograd.grad(values.sum(), raw)
    assert float(gradient[1]) == pytest.approx(slope)


def test_clamp_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="expected form 'tanh' or 'atan', got 'sigmoid'"):
        SoftClamp(form="sigmoid")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="positive limit and gain, got 0 and 0.1"):
        SoftClamp(limit=0)
    with pytest.raises(ValueError, match="positive limit and gain"):
        SoftClamp(gain=-1.0)


def test_affine_couple_is_its_formula() -> None:
    x, raw, shift = torch.randn(3, 2, 4, 3, 3, dtype=torch.float64)
    clamp = SoftClamp()
    parameters = torch.cat((raw, shift), dim=1)
    y, log_det = affine_couple(x, parameters, clamp)
    torch.testing.assert_close(y, x * clamp(raw).exp() + shift)
    torch.testing.assert_close(log_det, clamp(raw).sum((1, 2, 3)))
    back, inverse_log_det = affine_uncouple(y, parameters, clamp)
    torch.testing.assert_close(back, x)
    torch.testing.assert_close(inverse_log_det, -log_det)


@pytest.mark.parametrize("shape", [(6,), (4, 2, 3)])
def test_two_sided_coupling_is_freias_glow_block(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)

    def net(inputs: int, outputs: int) -> nn.Module:
        if len(shape) == 1:
            return MLP((inputs,), outputs, generator=generator, hidden=(8,))
        return ConvNet((inputs, *shape[1:]), outputs, generator=generator, width=6).eval()

    freia = GLOWCouplingBlock([shape], subnet_constructor=net, clamp=2.0).double()
    randomize(freia, generator)
    # FrEIA's s = 2 · 0.636 · atan(raw): the limit that our 2/π turns into 2 · 0.636.
    clamp = SoftClamp(2 * 0.636 * pi / 2, 1.0, "atan")
    ours = two_sided_coupling(shape, lambda s, n, _: net(s[0], n), Affine(clamp)).double()
    ours[0].net.load_state_dict(freia.subnet2.state_dict())  # type: ignore[union-attr]
    ours[1].net.load_state_dict(freia.subnet1.state_dict())  # type: ignore[union-attr]
    x = torch.randn(3, *shape, dtype=torch.float64, generator=generator)
    (expected,), expected_log_det = freia([x])
    torch.testing.assert_close(ours(x), (expected, expected_log_det))
    (expected,), expected_log_det = freia([x], rev=True)
    torch.testing.assert_close(ours.inverse(x), (expected, expected_log_det))
