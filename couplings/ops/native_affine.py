"""Affine couplings by the compiled CPU kernels; the formulas stand in `affine`."""

from typing import Any

import torch
from torch import Tensor

from couplings.ops.affine import Kernel, eager_affine, eager_affine_backward
from couplings.ops.dispatch import allocate_halves, empty_laid_out_as, is_channels_last, widened
from couplings.ops.native import Layout, call, per_sample, readable

MAP = "5q2d"  # struct Affine of csrc/affine.h


def affine_couple(
    active: Tensor, parameters: Tensor, passive: Tensor | None, active_first: bool, *settings: Any
) -> Kernel:
    """Compute what `eager_affine` does, in one pass."""
    inputs = (active, parameters) if passive is None else (active, parameters, passive)
    shape = (len(active), 2 * active.shape[1], *active.shape[2:])
    joinable = passive is None or _without_channels(passive) == _without_channels(active)
    if not (readable(*inputs) and parameters.shape == shape and joinable):
        return eager_affine(active, parameters, passive, active_first, *settings)
    dtype = torch.promote_types(active.dtype, parameters.dtype)
    wide, layout = widened(dtype), Layout(is_channels_last(parameters))
    out, mapped, rest = allocate_halves(active, passive, active_first, dtype)
    unit = empty_laid_out_as(out, active.shape, wide)
    log_det = active.new_empty(len(active), dtype=wide)
    raw, shift = parameters.chunk(2, dim=1)
    call(
        *("affine_forward", wide, MAP + "42q"),
        *_map(layout, active, *settings),
        *((0, 0) if passive is None else layout.shape(passive)),
        *layout.views(active, raw, shift, passive, mapped, rest),
        *per_sample(log_det),
        *layout.views(unit),
    )
    return out, log_det, unit


def affine_couple_backward(
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
        *("affine_backward", unit.dtype, MAP + "35q"),
        *_map(layout, unit, *clamp),
        *layout.views(grad),
        *per_sample(grad_log_det),
        *layout.views(kept, unit, *results),
    )
    return grad_active, grad_parameters


def _map(
    layout: Layout, active: Tensor, limit: float, gain: float, atan: bool, inverse: bool
) -> tuple[float, ...]:
    return len(active), *layout.shape(active), atan, inverse, limit, gain


def _without_channels(x: Tensor) -> tuple[int, ...]:
    return len(x), *x.shape[2:]
