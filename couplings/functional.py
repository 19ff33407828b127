"""The maps as pure functions of tensors. They choose between an operator and its definition.

Eager mode runs the custom operators of `couplings.ops`; under torch.compile, torch.export and
torch.func the plain formulas of `couplings.ops.reference` run instead (see `ops.dispatch`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from couplings.ops import affine as _affine_op  # noqa: F401
from couplings.ops import haar as _haar_op  # noqa: F401
from couplings.ops import mixture as _mixture_op  # noqa: F401
from couplings.ops import reference, reference_spline
from couplings.ops import rotation as _rotation_op  # noqa: F401
from couplings.ops import spline as _spline_op  # noqa: F401
from couplings.ops.dispatch import needs_reference, widened
from couplings.ops.reference import join

__all__ = [
    "MixtureDensities",
    "SoftClamp",
    "affine_couple",
    "affine_uncouple",
    "haar",
    "join",
    "mixture_log_prob",
    "rotate",
    "spline_couple",
    "spline_uncouple",
    "unhaar",
    "unrotate",
]


@dataclass(frozen=True)
class SoftClamp:
    """Keeps a log-scale within (-limit, limit), smoothly.

        tanh:  s = limit · tanh(gain · raw)
        atan:  s = limit · (2/π) · atan(gain · raw)

    IB-INN's code uses tanh with limit 0.7 and gain 0.1 (convolutional blocks) or 0.2
    (downsampling), and the atan form of FrEIA with limit 2 and gain 1/2 (fully connected);
    FrEIA rounds 2/π to 0.636.
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
        """Log-scale of the same shape as `raw`."""
        return reference.soft_clamp(raw, *self.arguments)

    @property
    def arguments(self) -> tuple[float, float, bool]:
        """(limit, gain, whether atan), as the operators take them."""
        return self.limit, self.gain, self.form == "atan"


def affine_couple(
    active: Tensor,
    parameters: Tensor,
    clamp: SoftClamp,
    passive: Tensor | None = None,
    active_first: bool = False,
) -> tuple[Tensor, Tensor]:
    """y_active = active · exp(s) + t with s = clamp(raw); log_det = Σ s over all but the batch.

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
    return _affine(active, parameters, passive, active_first, *clamp.arguments, False)


def affine_uncouple(
    active: Tensor,
    parameters: Tensor,
    clamp: SoftClamp,
    passive: Tensor | None = None,
    active_first: bool = False,
) -> tuple[Tensor, Tensor]:
    """x_active = (active - t) · exp(-s), log_det = -Σ s: the inverse of `affine_couple`."""
    return _affine(active, parameters, passive, active_first, *clamp.arguments, True)


def _affine(*arguments: Any) -> tuple[Tensor, Tensor]:
    plain = needs_reference()
    operator = reference.affine_couple if plain else torch.ops.couplings.affine_couple
    y, log_det, _ = operator(*arguments)
    return y, log_det


def spline_couple(
    active: Tensor,
    parameters: Tensor,
    bins: int,
    bound: float,
    passive: Tensor | None = None,
    active_first: bool = False,
) -> tuple[Tensor, Tensor]:
    """A monotone rational-quadratic spline of each active number on [-bound, bound].

    Outside of it, and for parameters of zero, the map is the identity. Widths and heights of the
    bins are 2·bound (0.001 + (1 - 0.001 K) softmax(raw)), inner slopes 0.001 + softplus(raw + c)
    with c such that raw zeros are slopes of 1; slopes at the bounds are 1. Twice differentiable.
    Under autocast y has the wider dtype of the two inputs; log_det is float32 or wider. NaN and raw
    numbers of +inf that take part give NaN; -inf is their limit, a bin of the least size.

    Durkan et al., "Neural Spline Flows", NeurIPS 2019, Sec. 3; the formulas: `ops.spline`.

    Args:
        active: (B, A, ...).
        parameters: (B, (3K-1) A, ...): K raw widths of all A numbers (bin by bin), K raw heights,
            K-1 raw inner slopes.
        bins: K, at most 999.
        bound: half the width of the interval.
        passive, active_first: as for `affine_couple`.

    Returns:
        y (B, A + P, ...) and log_det (B,), nats.
    """
    return _spline(active, parameters, passive, active_first, bins, bound, False)


def spline_uncouple(
    active: Tensor,
    parameters: Tensor,
    bins: int,
    bound: float,
    passive: Tensor | None = None,
    active_first: bool = False,
) -> tuple[Tensor, Tensor]:
    """The inverse of `spline_couple`, in closed form; log_det is that of the inverse."""
    return _spline(active, parameters, passive, active_first, bins, bound, True)


def rotate(x: Tensor, rotation: Tensor, log_scale: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """z = e^g · (R x) + o over the channels; log_det = positions · Σ_c g_c. One matrix product.

    Twice differentiable, but not in R. Under autocast x keeps its dtype and is not rounded.

    Args:
        x: (B, C, ...).
        rotation: R (C, C), orthogonal, fixed.
        log_scale: g (C,).
        offset: o (C,).

    Returns:
        z (B, C, ...) and log_det (B,), nats.
    """
    return _rotate(x, rotation, log_scale, offset, False)


def unrotate(
    z: Tensor, rotation: Tensor, log_scale: Tensor, offset: Tensor
) -> tuple[Tensor, Tensor]:
    """x = Rᵀ ((z - o) · e^-g), log_det = -positions · Σ_c g_c: the inverse of `rotate`."""
    return _rotate(z, rotation, log_scale, offset, True)


def haar(x: Tensor, scale: float = 1.0) -> Tensor:
    """scale · the orthonormal Haar wavelets of 2 x 2 patches; log_det = numbers · log(scale).

    Args:
        x: (B, C, H, W), H and W even.
        scale: positive.

    Returns:
        (B, 4C, H/2, W/2): of each channel average, horizontal, vertical and diagonal difference.
    """
    return _haar(x, scale, False)


def unhaar(z: Tensor, scale: float = 1.0) -> Tensor:
    """The inverse of `haar` with this scale."""
    return _haar(z, 1 / scale, True)


class MixtureDensities(NamedTuple):
    """What a Gaussian mixture says of latents (B, D), in nats.

    Attributes:
        log_prob_given_class: log N(z; μ_k, I), (B, K).
        log_prob: log Σ_k w_k N(z; μ_k, I), (B,).
        log_posterior: log q(k|z), (B, K).
    """

    log_prob_given_class: Tensor
    log_prob: Tensor
    log_posterior: Tensor


def mixture_log_prob(
    z: Tensor, means: Tensor, log_weights: Tensor, *, fixed_prior: bool = False
) -> MixtureDensities:
    """Densities and posterior of a mixture of unit Gaussians, without a (B, K, D) tensor.

    ‖z - μ_k‖² is expanded about the means' centre; what all classes share never enters the
    posterior, which so stays exact in float32 where ‖z‖² is 10⁴ and the classes differ by 1.
    Twice differentiable. bfloat16 and float16 latents are widened first.

    Args:
        z: (B, D).
        means: μ (K, D).
        log_weights: log w (K,), normalised.
        fixed_prior: keep the posterior's gradients from the weights, as IB-INN does.
    """
    wide = torch.promote_types(widened(z.dtype), means.dtype)
    arguments = (z.to(wide), means.to(wide), log_weights.to(wide), fixed_prior)
    operator = reference.mixture if needs_reference() else torch.ops.couplings.mixture
    return MixtureDensities(*operator(*arguments))


def _spline(*arguments: Any) -> tuple[Tensor, Tensor]:
    if needs_reference():
        return reference_spline.spline_couple(*arguments)
    y, log_det, _ = torch.ops.couplings.spline_couple(*arguments)
    return y, log_det


def _haar(x: Tensor, factor: float, inverse: bool) -> Tensor:
    operator = reference.haar if needs_reference() else torch.ops.couplings.haar
    transformed: Tensor = operator(x, factor, inverse)
    return transformed


def _rotate(x: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    operator = reference.rotate if needs_reference() else torch.ops.couplings.rotate
    _, log_scale, _, inverse = arguments
    positions = x.shape[1:].numel() // x.shape[1]
    total = log_scale.sum(dtype=widened(x.dtype)) * (-positions if inverse else positions)
    return operator(x, *arguments), total.expand(x.shape[0])
