"""Affine couplings: the operator couplings::affine_couple, its functions and the map `Affine`.

    s = limit · u(raw);   y = x · e^s + t, log_det = Σ s;   inverse: y = (x - t) · e^-s, -Σ s

The backward keeps one half-sized tensor besides the input (inverse: the output): u in (-1, 1).

              g_x = g_y · e^s,    g_t = g_y,     g_s = g_x · x + g_log_det
    inverse:  g_x = g_y · e^-s,   g_t = -g_x,    g_s = -(g_y · y + g_log_det)
              g_raw = g_s · limit · u',          u' = gain (1 - u²) or gain (2/π) cos²(π u / 2)

Second derivatives exist: under create_graph=True the backward is written in plain operations.
"""

from dataclasses import dataclass, field
from math import e, log2, pi
from typing import Any, Literal

import torch
from torch import Tensor

from couplings.ops import reference
from couplings.ops.dispatch import (
    Layout,
    allocate_halves,
    allocate_joined,
    call,
    define,
    differentiable,
    empty_laid_out_as,
    half_gradients,
    is_channels_last,
    joinable,
    operator_or,
    per_sample,
    readable,
    record_halves,
    sample_view,
    widened,
)

# Of the kernels (y, log_det, u); their `settings` are limit, gain, atan, inverse.
Kernel = tuple[Tensor, Tensor, Tensor]

# struct Affine of csrc/affine.h.
STRUCT = "5q2d"

# e^s is taken as 2^(s log2 e): on CPUs torch.exp2 takes a quarter of the time of torch.exp.
LOG2_E = log2(e)


@dataclass(frozen=True)
class SoftClamp:
    """Smooth bound that keeps a log-scale within (-limit, limit).

        tanh:  s = limit · tanh(gain · raw)
        atan:  s = limit · (2/π) · atan(gain · raw)

    IB-INN's code uses tanh with limit 0.7 and gain 0.1 (convolutional blocks) or 0.2
    (downsampling), and the atan form of FrEIA with limit 2 and gain 1/2 (fully connected);
    FrEIA rounds 2/π to 0.636.

    Raises:
        ValueError: another form, or a limit or gain that is not positive.
    """

    limit: float = 0.7
    gain: float = 0.1
    form: Literal["tanh", "atan"] = "tanh"

    def __post_init__(self) -> None:
        if self.form not in ("tanh", "atan"):
            raise ValueError(f"SoftClamp: expected form 'tanh' or 'atan', got {self.form!r}")
        if self.limit <= 0 or self.gain <= 0:
            raise ValueError(
                f"SoftClamp: expected positive limit and gain, got {self.limit} and {self.gain}"
            )

    def __call__(self, raw: Tensor) -> Tensor:
        """Return the log-scale, of the same shape as `raw`."""
        return reference.soft_clamp(raw, *self.arguments)

    @property
    def arguments(self) -> tuple[float, float, bool]:
        """Limit, gain and whether it is atan, as the operators take them."""
        return self.limit, self.gain, self.form == "atan"


@dataclass(frozen=True)
class Affine:
    """Univariate map y = x · exp(clamp(raw)) + t; parameters: all raw log-scales, then all shifts.

    Dinh et al., "Density estimation using Real NVP", 2017; Kingma & Dhariwal, "Glow", 2018.
    """

    clamp: SoftClamp = field(default_factory=SoftClamp)
    parameters_per_dim: int = field(default=2, init=False)

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Return y and log|dy/dx| summed to (B,)."""
        return affine_couple(x, parameters, self.clamp)

    def inverse(self, y: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Return x and log|dx/dy| summed to (B,)."""
        return affine_uncouple(y, parameters, self.clamp)

    def couple(
        self, active: Tensor, parameters: Tensor, passive: Tensor, active_first: bool, inverse: bool
    ) -> tuple[Tensor, Tensor]:
        """Map one half and write it beside the other, in one pass: see `FusedUnivariate`."""
        function = affine_uncouple if inverse else affine_couple
        return function(active, parameters, self.clamp, passive, active_first)


def affine_couple(
    active: Tensor,
    parameters: Tensor,
    clamp: SoftClamp,
    passive: Tensor | None = None,
    active_first: bool = False,
) -> tuple[Tensor, Tensor]:
    """Compute y_active = active · exp(s) + t with s = clamp(raw), and log_det = Σ s per sample.

    Twice differentiable. Under autocast y has the wider dtype of the two inputs; log_det is
    float32 or wider.

    Args:
        active: (B, A, ...).
        parameters: (B, 2A, ...), all raw log-scales, then all shifts.
        clamp: of the log-scale.
        passive: (B, P, ...), copied into y beside the active half; None: y is the active half.
        active_first: whether the active half comes first in y.

    Returns:
        y (B, A + P, ...) and log_det (B,), nats.
    """
    operator = operator_or(reference.affine_couple, "affine_couple")
    y, log_det, _ = operator(active, parameters, passive, active_first, *clamp.arguments, False)
    return y, log_det


def affine_uncouple(
    active: Tensor,
    parameters: Tensor,
    clamp: SoftClamp,
    passive: Tensor | None = None,
    active_first: bool = False,
) -> tuple[Tensor, Tensor]:
    """Invert `affine_couple`: x_active = (active - t) · exp(-s), log_det = -Σ s."""
    operator = operator_or(reference.affine_couple, "affine_couple")
    x, log_det, _ = operator(active, parameters, passive, active_first, *clamp.arguments, True)
    return x, log_det


def eager_affine(
    active: Tensor, parameters: Tensor, passive: Tensor | None, active_first: bool, *settings: Any
) -> Kernel:
    """Compute `reference.affine_couple` in few passes and with few temporaries."""
    dtype = torch.promote_types(active.dtype, parameters.dtype)
    if dtype != widened(dtype):
        active, parameters = active.float(), parameters.float()
        passive = None if passive is None else passive.float()
        y, log_det, unit = eager_affine(active, parameters, passive, active_first, *settings)
        return y.to(dtype), log_det, unit
    limit, gain, atan, inverse = settings
    raw, shift = parameters.chunk(2, dim=1)
    out, mapped = allocate_joined(active, passive, active_first, dtype)
    unit = _unit(raw, gain, atan, mapped)
    signed = -limit if inverse else limit
    torch.mul(unit, signed * LOG2_E, out=mapped).exp2_()
    if inverse:
        mapped.mul_(active - shift)
    else:
        mapped.mul_(active).add_(shift)
    return out, unit.flatten(1).sum(1).mul_(signed), unit


def eager_affine_backward(
    grad: Tensor, grad_log_det: Tensor, kept: Tensor, unit: Tensor, *settings: Any
) -> tuple[Tensor, Tensor]:
    """Return (g_active, g_parameters) from the active half's gradient.

    `kept` is x, or the y of the inverse.
    """
    limit, gain, atan, inverse, parameters_dtype = settings
    signed = -limit if inverse else limit
    wide_grad = grad.to(unit.dtype)
    grad_active = torch.mul(unit, signed * LOG2_E).exp2_().mul_(wide_grad)
    grad_parameters = empty_laid_out_as(unit, (len(grad), 2 * unit.shape[1], *grad.shape[2:]))
    grad_raw, grad_shift = grad_parameters.chunk(2, dim=1)
    torch.mul(wide_grad if inverse else grad_active, kept, out=grad_raw)
    grad_raw.add_(per_sample(grad_log_det, grad))
    _multiply_by_slope(grad_raw, unit, signed * gain, atan, work=grad_shift)
    if inverse:
        torch.neg(grad_active, out=grad_shift)
    else:
        grad_shift.copy_(grad)
    return grad_active.to(kept.dtype), grad_parameters.to(parameters_dtype)


def compiled_affine(
    active: Tensor, parameters: Tensor, passive: Tensor | None, active_first: bool, *settings: Any
) -> Kernel:
    """Compute what `eager_affine` does, in one pass."""
    inputs = (active, parameters) if passive is None else (active, parameters, passive)
    shape = (len(active), 2 * active.shape[1], *active.shape[2:])
    if not (readable(*inputs) and parameters.shape == shape and joinable(active, passive)):
        return eager_affine(active, parameters, passive, active_first, *settings)
    dtype = torch.promote_types(active.dtype, parameters.dtype)
    wide, layout = widened(dtype), Layout(is_channels_last(parameters))
    out, mapped, rest = allocate_halves(active, passive, active_first, dtype)
    unit = empty_laid_out_as(out, active.shape, wide)
    log_det = active.new_empty(len(active), dtype=wide)
    raw, shift = parameters.chunk(2, dim=1)
    call(
        *("affine_forward", wide, STRUCT + "42q"),
        *_struct(layout, active, *settings),
        *((0, 0) if passive is None else layout.shape(passive)),
        *layout.views(active, raw, shift, passive, mapped, rest),
        *sample_view(log_det),
        *layout.views(unit),
    )
    return out, log_det, unit


def compiled_affine_backward(
    grad: Tensor, grad_log_det: Tensor, kept: Tensor, unit: Tensor, *settings: Any
) -> tuple[Tensor, Tensor]:
    """Compute what `eager_affine_backward` does, in one pass."""
    *clamp, parameters_dtype = settings
    if not readable(grad, grad_log_det, kept, unit):
        return eager_affine_backward(grad, grad_log_det, kept, unit, *settings)
    layout = Layout(is_channels_last(unit))
    shape = (len(grad), 2 * unit.shape[1], *grad.shape[2:])
    grad_active = torch.empty_like(unit, dtype=kept.dtype)
    grad_parameters = empty_laid_out_as(unit, shape, parameters_dtype)
    results = (grad_active, *grad_parameters.chunk(2, dim=1))
    call(
        *("affine_backward", unit.dtype, STRUCT + "35q"),
        *_struct(layout, unit, *clamp),
        *layout.views(grad),
        *sample_view(grad_log_det),
        *layout.views(kept, unit, *results),
    )
    return grad_active, grad_parameters


def _struct(
    layout: Layout, active: Tensor, limit: float, gain: float, atan: bool, inverse: bool
) -> tuple[float, ...]:
    return len(active), *layout.shape(active), atan, inverse, limit, gain


def _formula(
    grad: Tensor, grad_log_det: Tensor, kept: Tensor, unit: Tensor, *settings: Any
) -> tuple[Tensor, Tensor]:
    """Do the same in differentiable operations; u may have a gradient, the last of `settings`."""
    limit, gain, atan, inverse, parameters_dtype, grad_unit = settings
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
    """Compute u, with tanh v = (e^2v - 1) / (e^2v + 1), which takes a third of torch.tanh's time.

    `work` is overwritten. On a CPU fresh memory costs more than what is computed in it.
    """
    unit = empty_laid_out_as(work, raw.shape)
    if atan:
        return torch.mul(raw, gain, out=unit).atan_().mul_(2 / pi)
    # Above 2v = 40 tanh is 1 in float64 too, and e^2v would overflow.
    torch.mul(raw, 2 * gain, out=unit).clamp_max_(40).expm1_()
    return unit.div_(torch.add(unit, 2, out=work))


def _multiply_by_slope(
    values: Tensor, unit: Tensor, factor: float, atan: bool, work: Tensor
) -> None:
    """Multiply values by factor · du/d(gain · raw) in place; `work` is overwritten."""
    if atan:
        torch.mul(unit, pi / 2, out=work).cos_().square_()
        values.mul_(work).mul_(factor * 2 / pi)
    else:
        values.mul_(torch.sub(1, unit, out=work))
        values.mul_(torch.add(unit, 1, out=work)).mul_(factor)


def _unit_slope(unit: Tensor, factor: float, atan: bool) -> Tensor:
    """Return factor · du/d(gain · raw)."""
    if atan:
        return (unit * (pi / 2)).cos().square() * (factor * 2 / pi)
    return (1 - unit) * (1 + unit) * factor


def _fake(
    active: Tensor, parameters: Tensor, passive: Tensor | None, active_first: bool, *_: Any
) -> Kernel:
    dtype = torch.promote_types(active.dtype, parameters.dtype)
    out, _mapped = allocate_joined(active, passive, active_first, dtype)
    unit = empty_laid_out_as(out, active.shape, widened(dtype))
    return out, unit.new_empty(len(active)), unit


def _fake_backward(
    grad: Tensor, grad_log_det: Tensor, kept: Tensor, unit: Tensor, *settings: Any
) -> tuple[Tensor, Tensor]:
    shape = (len(grad), 2 * unit.shape[1], *grad.shape[2:])
    grad_parameters = empty_laid_out_as(unit, shape, settings[-1])
    return torch.empty_like(unit, dtype=kept.dtype), grad_parameters


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Kernel) -> None:
    active, parameters, passive, active_first, *settings = inputs
    y, _, unit = output
    record_halves(ctx, active, passive, active_first)
    ctx.settings, ctx.inverse = (*settings, parameters.dtype), settings[-1]
    ctx.save_for_backward(y if ctx.inverse else active, unit)


def _backward(
    ctx: Any, grad_y: Tensor | None, grad_log_det: Tensor | None, grad_unit: Tensor | None
) -> tuple[Any, ...]:
    kept, unit = ctx.saved_tensors
    if ctx.inverse:
        kept = kept.narrow(1, ctx.active_start, unit.shape[1])
    grad, grad_log_det, grad_passive = half_gradients(ctx, grad_y, grad_log_det, kept)
    arguments: tuple[Any, ...] = (grad, grad_log_det, kept, unit, *ctx.settings)
    if differentiable() or grad_unit is not None:
        grads = _formula(*arguments, grad_unit)
    else:
        grads = torch.ops.couplings.affine_couple_backward(*arguments)
    return *grads, grad_passive, None, None, None, None, None


define(
    "affine_couple",
    "(Tensor active, Tensor parameters, Tensor? passive, bool active_first, float limit, "
    "float gain, bool atan, bool inverse) -> (Tensor y, Tensor log_det, Tensor unit)",
    eager_affine,
    _fake,
    triton="triton_affine",
    compiled=compiled_affine,
    setup=_setup,
    backward=_backward,
)
define(
    "affine_couple_backward",
    "(Tensor grad, Tensor grad_log_det, Tensor kept, Tensor unit, float limit, float gain, "
    "bool atan, bool inverse, ScalarType parameters_dtype) -> (Tensor, Tensor)",
    eager_affine_backward,
    _fake_backward,
    triton="triton_affine",
    compiled=compiled_affine_backward,
)
