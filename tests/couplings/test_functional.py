"""The clamp and the affine arithmetic, against formulas, gradcheck and FrEIA."""

from __future__ import annotations

from collections.abc import Callable
from math import atan, pi, tanh
from typing import Literal

import pytest
import torch
from FrEIA.modules import GLOWCouplingBlock
from torch import Tensor, nn

from couplings import MLP, Affine, ConvNet, SoftClamp, two_sided_coupling
from couplings.functional import affine_couple, affine_uncouple
from couplings.testing import randomize

FORMS: list[Literal["tanh", "atan"]] = ["tanh", "atan"]


@pytest.mark.parametrize("raw", [-30.0, -1.0, 0.0, 0.3, 7.0])
def test_clamp_is_its_formula(raw: float) -> None:
    value = torch.tensor(raw, dtype=torch.float64)
    assert float(SoftClamp(0.7, 0.1)(value)) == pytest.approx(0.7 * tanh(0.1 * raw))
    expected = 2 * 2 / pi * atan(0.5 * raw)
    assert float(SoftClamp(2.0, 0.5, "atan")(value)) == pytest.approx(expected)


@pytest.mark.parametrize("form", FORMS)
def test_clamp_tends_to_its_limit(form: Literal["tanh", "atan"]) -> None:
    far = torch.tensor([-1e9, 1e9], dtype=torch.float64)
    values = SoftClamp(1.5, 0.2, form)(far)
    torch.testing.assert_close(values, torch.tensor([-1.5, 1.5]).double(), atol=1e-7, rtol=0)
    assert bool((values.abs() <= 1.5).all())


@pytest.mark.parametrize(("form", "slope"), [("tanh", 1.5 * 0.2), ("atan", 1.5 * 0.2 * 2 / pi)])
def test_clamp_slope_at_zero(form: Literal["tanh", "atan"], slope: float) -> None:
    raw = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(SoftClamp(1.5, 0.2, form)(raw), raw)
    assert float(gradient) == pytest.approx(slope)


def test_clamp_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="expected form 'tanh' or 'atan', got 'sigmoid'"):
        SoftClamp(form="sigmoid")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="positive limit and gain, got 0 and 0.1"):
        SoftClamp(limit=0)
    with pytest.raises(ValueError, match="positive limit and gain"):
        SoftClamp(gain=-1.0)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("function", [affine_couple, affine_uncouple])
@pytest.mark.parametrize("shape", [(2, 3), (2, 2, 1, 3)])
def test_gradients(
    function: Callable[..., tuple[Tensor, Tensor]],
    form: Literal["tanh", "atan"],
    shape: tuple[int, ...],
) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64, generator=generator, requires_grad=True)
    parameters = torch.cat((x, x)).view(shape[0], -1, *shape[2:]).detach().requires_grad_()
    tensors = [x, parameters]
    clamp = SoftClamp(1.2, 0.8, form)
    assert torch.autograd.gradcheck(lambda *t: function(*t, clamp), tensors)
    assert torch.autograd.gradgradcheck(lambda *t: function(*t, clamp), tensors)


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
