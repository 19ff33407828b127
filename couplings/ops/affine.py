"""couplings::affine_couple, an affine coupling in one operator, and its backward.

    s = limit · u(raw);   y = x · e^s + t, log_det = Σ s;   inverse: y = (x - t) · e^-s, -Σ s

The backward keeps one half-sized tensor besides the input (inverse: the output): u in (-1, 1).

              g_x = g_y · e^s,    g_t = g_y,     g_s = g_x · x + g_log_det
    inverse:  g_x = g_y · e^-s,   g_t = -g_x,    g_s = -(g_y · y + g_log_det)
              g_raw = g_s · limit · u',          u' = gain (1 - u²) or gain (2/π) cos²(π u / 2)

Second derivatives exist: under create_graph=True the backward is written in plain operations.
"""

from __future__ import annotations

from math import e, log2, pi
from typing import Any

import torch
from torch import Tensor

from couplings.ops.dispatch import define, differentiable, widened
from couplings.ops.layout import empty_with, per_sample, room

__all__ = ["affine_couple", "affine_couple_backward"]

Kernel = tuple[Tensor, Tensor, Tensor]

# e^s is taken as 2^(s log2 e): on CPUs torch.exp2 takes a quarter of the time of torch.exp.
LOG2_E = log2(e)


def affine_couple(
    active: Tensor,
    parameters: Tensor,
    passive: Tensor | None,
    active_first: bool,
    limit: float,
    gain: float,
    atan: bool,
    inverse: bool,
) -> Kernel:
    """(y, log_det, u) of `reference.affine_couple`, in few passes and with few temporaries."""
    dtype = torch.promote_types(active.dtype, parameters.dtype)
    if dtype != widened(dtype):
        active, parameters = active.float(), parameters.float()
        passive = None if passive is None else passive.float()
        y, log_det, unit = affine_couple(
            active, parameters, passive, active_first, limit, gain, atan, inverse
        )
        return y.to(dtype), log_det, unit
    raw, shift = parameters.chunk(2, dim=1)
    out, mapped = room(active, passive, active_first, dtype)
    unit = _unit(raw, gain, atan, mapped)
    signed = -limit if inverse else limit
    torch.mul(unit, signed * LOG2_E, out=mapped).exp2_()
    if inverse:
        mapped.mul_(active - shift)
    else:
        mapped.mul_(active).add_(shift)
    return out, unit.flatten(1).sum(1).mul_(signed), unit


def affine_couple_backward(
    grad: Tensor,
    grad_log_det: Tensor,
    kept: Tensor,
    unit: Tensor,
    limit: float,
    gain: float,
    atan: bool,
    inverse: bool,
    parameters_dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """(g_active, g_parameters) from the active half's gradient; kept: x, or the inverse's y."""
    signed = -limit if inverse else limit
    wide_grad = grad.to(unit.dtype)
    grad_active = torch.mul(unit, signed * LOG2_E).exp2_().mul_(wide_grad)
    grad_parameters = empty_with(unit, (len(grad), 2 * unit.shape[1], *grad.shape[2:]))
    grad_raw, grad_shift = grad_parameters.chunk(2, dim=1)
    torch.mul(wide_grad if inverse else grad_active, kept, out=grad_raw)
    grad_raw.add_(per_sample(grad_log_det, grad))
    _multiply_by_slope(grad_raw, unit, signed * gain, atan, work=grad_shift)
    if inverse:
        torch.neg(grad_active, out=grad_shift)
    else:
        grad_shift.copy_(grad)
    return grad_active.to(kept.dtype), grad_parameters.to(parameters_dtype)


def _formula(
    grad: Tensor,
    grad_log_det: Tensor,
    kept: Tensor,
    unit: Tensor,
    limit: float,
    gain: float,
    atan: bool,
    inverse: bool,
    parameters_dtype: torch.dtype,
    grad_unit: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The same in operations that can be differentiated; u may then have a gradient of its own."""
    signed = -limit if inverse else limit
    grad_active = grad * (signed * unit).exp()
    total = (grad if inverse else grad_active) * kept + per_sample(grad_log_det, grad)
    if grad_unit is not None:
        total = total + grad_unit / signed
    grad_raw = total * _unit_slope(unit, signed * gain, atan)
    grad_shift = -grad_active if inverse else grad
    grad_parameters = torch.cat((grad_raw, grad_shift), dim=1)
    return grad_active.to(kept.dtype), grad_parameters.to(parameters_dtype)


def _unit(raw: Tensor, gain: float, atan: bool, work: Tensor) -> Tensor:
    """u, with tanh v = (e^2v - 1) / (e^2v + 1), which takes a third of torch.tanh's time.

    `work` is overwritten. On a CPU fresh memory costs more than what is computed in it.
    """
    unit = empty_with(work, raw.shape)
    if atan:
        return torch.mul(raw, gain, out=unit).atan_().mul_(2 / pi)
    # Above 2v = 40 tanh is 1 in float64 too, and e^2v would overflow.
    torch.mul(raw, 2 * gain, out=unit).clamp_max_(40).expm1_()
    return unit.div_(torch.add(unit, 2, out=work))


def _multiply_by_slope(
    values: Tensor, unit: Tensor, factor: float, atan: bool, work: Tensor
) -> None:
    """values · factor · du/d(gain · raw), in place; `work` is overwritten."""
    if atan:
        torch.mul(unit, pi / 2, out=work).cos_().square_()
        values.mul_(work).mul_(factor * 2 / pi)
    else:
        values.mul_(torch.sub(1, unit, out=work))
        values.mul_(torch.add(unit, 1, out=work)).mul_(factor)


def _unit_slope(unit: Tensor, factor: float, atan: bool) -> Tensor:
    """factor · du/d(gain · raw)."""
    if atan:
        return (unit * (pi / 2)).cos().square() * (factor * 2 / pi)
    return (1 - unit) * (1 + unit) * factor


def _fake(
    active: Tensor, parameters: Tensor, passive: Tensor | None, active_first: bool, *_: Any
) -> Kernel:
    dtype = torch.promote_types(active.dtype, parameters.dtype)
    out, _mapped = room(active, passive, active_first, dtype)
    unit = empty_with(out, active.shape, widened(dtype))
    return out, unit.new_empty(len(active)), unit


def _fake_backward(
    grad: Tensor, grad_log_det: Tensor, kept: Tensor, unit: Tensor, *settings: Any
) -> tuple[Tensor, Tensor]:
    shape = (len(grad), 2 * unit.shape[1], *grad.shape[2:])
    grad_parameters = empty_with(unit, shape, settings[-1])
    return torch.empty_like(unit, dtype=kept.dtype), grad_parameters


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Kernel) -> None:
    active, parameters, passive, active_first, *settings = inputs
    y, _, unit = output
    rest = 0 if passive is None else passive.shape[1]
    ctx.passive_start, ctx.active_start = (active.shape[1], 0) if active_first else (0, rest)
    ctx.rest, ctx.settings = rest, (*settings, parameters.dtype)
    ctx.inverse = settings[-1]
    ctx.save_for_backward(y if ctx.inverse else active, unit)
    ctx.set_materialize_grads(False)


def _backward(
    ctx: Any, grad_y: Tensor | None, grad_log_det: Tensor | None, grad_unit: Tensor | None
) -> tuple[Any, ...]:
    kept, unit = ctx.saved_tensors
    size = unit.shape[1]
    if grad_log_det is None:
        grad_log_det = unit.new_zeros(len(unit))
    if ctx.inverse:
        kept = kept.narrow(1, ctx.active_start, size)
    if grad_y is None:
        grad, grad_passive = torch.zeros_like(kept), None
    else:
        grad = grad_y.narrow(1, ctx.active_start, size)
        grad_passive = grad_y.narrow(1, ctx.passive_start, ctx.rest) if ctx.rest else None
    arguments: tuple[Any, ...] = (grad, grad_log_det, kept, unit, *ctx.settings)
    if differentiable() or grad_unit is not None:
        grads = _formula(*(*arguments, grad_unit))
    else:
        grads = torch.ops.couplings.affine_couple_backward(*arguments)
    return *grads, grad_passive, None, None, None, None, None


define(
    "affine_couple",
    "(Tensor active, Tensor parameters, Tensor? passive, bool active_first, float limit, "
    "float gain, bool atan, bool inverse) -> (Tensor y, Tensor log_det, Tensor unit)",
    affine_couple,
    _fake,
    triton="triton_affine",
)
define(
    "affine_couple_backward",
    "(Tensor grad, Tensor grad_log_det, Tensor kept, Tensor unit, float limit, float gain, "
    "bool atan, bool inverse, ScalarType parameters_dtype) -> (Tensor, Tensor)",
    affine_couple_backward,
    _fake_backward,
    triton="triton_affine",
)
torch.library.register_autograd("couplings::affine_couple", _backward, setup_context=_setup)
