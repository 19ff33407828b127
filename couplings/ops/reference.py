"""Definitions of the operators in plain PyTorch, with which tests and benchmarks compare."""

from math import log, pi
from typing import Any

import torch
from torch import Tensor

from couplings.ops.dispatch import full_precision, widened


def soft_clamp(raw: Tensor, limit: float, gain: float, atan: bool) -> Tensor:
    """Compute limit · u(raw) with u = tanh(gain · raw), or (2/π) · atan(gain · raw)."""
    return limit * _unit(raw, gain, atan)


def affine_couple(
    active: Tensor, parameters: Tensor, passive: Tensor | None, active_first: bool, *settings: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute y, log_det (B,) and u(raw) of an affine coupling with log-scale s = limit · u(raw).

    y_active = active · e^s + t, or (active - t) · e^-s; log_det = ±Σ s. parameters (B, 2A, ...)
    are raw, then t; `settings` are limit, gain, atan and inverse. Where a passive half is given, y
    contains both halves.
    """
    limit, gain, atan, inverse = settings
    raw, shift = parameters.chunk(2, dim=1)
    unit = _unit(raw.to(widened(raw.dtype)), gain, atan)
    log_scale = limit * unit
    if inverse:
        y, log_det = (active - shift) * (-log_scale).exp(), -log_scale.flatten(1).sum(1)
    else:
        y, log_det = active * log_scale.exp() + shift, log_scale.flatten(1).sum(1)
    y = y.to(torch.promote_types(active.dtype, parameters.dtype))
    return join(passive, y, active_first), log_det, unit


def _unit(raw: Tensor, gain: float, atan: bool) -> Tensor:
    return (2 / pi) * torch.atan(gain * raw) if atan else torch.tanh(gain * raw)


def join(passive: Tensor | None, active: Tensor, active_first: bool) -> Tensor:
    """Join halves (B, P, ...) and (B, A, ...) to (B, P + A, ...); without a passive one: active."""
    if passive is None:
        return active
    return torch.cat((active, passive) if active_first else (passive, active), dim=1)


def rotate(x: Tensor, rotation: Tensor, log_scale: Tensor, offset: Tensor, inverse: bool) -> Tensor:
    """Compute e^g · (R x) + o over the channels of x (B, C, ...), or Rᵀ ((x - o) · e^-g)."""
    rotation = rotation.to(log_scale.dtype)
    if inverse:
        weight = rotation.T * (-log_scale).exp()
        offset = -(weight @ offset)
    else:
        weight = log_scale.exp()[:, None] * rotation
    with full_precision(x):
        mixed = torch.einsum("dc,bc...->bd...", weight.to(x.dtype), x)
        return mixed + offset.to(x.dtype).view(-1, *[1] * (x.dim() - 2))


def haar(x: Tensor, factor: float, inverse: bool) -> Tensor:
    """Compute factor · Haar wavelets of x, (B, C, H, W) to (B, 4C, H/2, W/2), or back from them.

    Of a patch: average, horizontal, vertical and diagonal difference. The matrix is its own inverse
    and transpose.
    """
    bands = x.unflatten(1, (-1, 4)) if inverse else _patches(x)
    a, b, c, d = (bands * (factor / 2)).unbind(2)
    top, bottom, top_change, bottom_change = a + b, c + d, a - b, c - d
    sums = (top + bottom, top_change + bottom_change, top - bottom, top_change - bottom_change)
    out = torch.stack(sums, dim=2)
    if not inverse:
        return out.flatten(1, 2)
    return out.unflatten(2, (2, 2)).permute(0, 1, 4, 2, 5, 3).flatten(4, 5).flatten(2, 3)


def _patches(x: Tensor) -> Tensor:
    """Rearrange (B, C, H, W) to (B, C, 4, H/2, W/2)."""
    rows = x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))
    return rows.permute(0, 1, 3, 5, 2, 4).flatten(2, 3)


def mixture(
    z: Tensor, means: Tensor, log_weights: Tensor, fixed_prior: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute log N(z; μ_k, I) (B, K), log Σ_k w_k N(z; μ_k, I) (B,) and log q(k|z) (B, K).

    ‖z - μ_k‖² = ‖z‖² - 2 z·μ_k + ‖μ_k‖² about the means' centre; the posterior sees the last two
    terms only. With `fixed_prior` no gradient of the posterior reaches the weights.
    """
    with full_precision(z):
        centre = means.detach().mean(0)
        z, means = z - centre, means - centre
        scores = z @ means.T - 0.5 * means.square().sum(1)
        common = -0.5 * (z.square().sum(1) + z.shape[1] * log(2 * pi))
        log_prob = (scores + log_weights).logsumexp(1) + common
        prior = log_weights.detach() if fixed_prior else log_weights
        return scores + common[:, None], log_prob, (scores + prior).log_softmax(1)
