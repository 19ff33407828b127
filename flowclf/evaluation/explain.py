"""What a classifier that can decode says of its decisions: another class's version of x, pixels.

The idea of showing them along directions between class means is Mackowiak et al., "Generative
classifiers as a basis for trustworthy image classification", CVPR 2021.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import log

import torch
from torch import Tensor

from flowclf.classifier import GenerativeClassifier
from flowclf.errors import UserError

__all__ = [
    "Counterfactual",
    "class_change_path",
    "counterfactual",
    "distances_to_means",
    "pixel_contributions",
]

DOUBLINGS, HALVINGS = 12, 40


@dataclass(frozen=True)
class Counterfactual:
    """x as another class.

    Attributes:
        x: (B, *shape), in data units, decoded.
        z: its latents (B, D).
        shift: α, how far along μ_target - μ_predicted it is, (B,); NaN where no shift suffices.
        log_posterior: log q(k|z), (B, K).
    """

    x: Tensor
    z: Tensor
    shift: Tensor
    log_posterior: Tensor


@torch.no_grad()
def counterfactual(
    model: GenerativeClassifier, x: Tensor, target: Tensor, posterior: float = 0.9
) -> Counterfactual:
    """The smallest shift along the line between class means that makes q(target|z) = `posterior`.

        z' = z + α (μ_target - μ_predicted)

    With equal covariances that is the direction that changes the odds of the two classes and
    nothing else of the latents. α is found by doubling and bisection; 0 where x is there already.

    Args:
        model: one that decodes; in eval mode.
        x: (B, *shape).
        target: classes (B,).
        posterior: in (0, 1).

    Raises:
        UserError: a posterior outside (0, 1), or a system that cannot decode.
    """
    if not 0 < posterior < 1:
        raise UserError(f"expected a posterior between 0 and 1, got {posterior}")
    z, direction = _line(model, x, target)

    def reached(shift: Tensor) -> Tensor:
        given = model.densities(z + shift[:, None] * direction).log_posterior
        return given.gather(1, target[:, None])[:, 0] >= log(posterior)

    shift = _least(reached, z.new_zeros(len(z)))
    end = z + shift.nan_to_num()[:, None] * direction
    return Counterfactual(model.decode(end), end, shift, model.densities(end).log_posterior)


@torch.no_grad()
def class_change_path(
    model: GenerativeClassifier, x: Tensor, target: Tensor, steps: int = 9, posterior: float = 0.99
) -> tuple[Tensor, Tensor]:
    """From x to its counterfactual: images (steps, B, *shape) and log q(k|z) (steps, B, K).

    Raises:
        UserError: as `counterfactual`, or fewer than two steps.
    """
    if steps < 2:
        raise UserError(f"expected at least 2 steps, got {steps}")
    end, (z, _) = counterfactual(model, x, target, posterior), _line(model, x, target)
    weights = torch.linspace(0, 1, steps, dtype=z.dtype, device=z.device)
    path = [z.lerp(end.z, weight) for weight in weights]
    images = torch.stack([model.decode(point) for point in path])
    return images, torch.stack([model.densities(point).log_posterior for point in path])


def pixel_contributions(
    model: GenerativeClassifier,
    x: Tensor,
    reference: Tensor,
    y: Tensor,
    other: Tensor,
    steps: int = 64,
) -> Tensor:
    """How much each number of x speaks for class y and against `other`, (B, *shape), nats.

    Integrated gradients of log q(y|x) - log q(other|x) on the line from the reference to x: they
    add up to what x's log-odds are above the reference's (Sundararajan et al., "Axiomatic
    attribution for deep networks", ICML 2017), up to the error of the midpoint rule. As reference
    take the counterfactual at a posterior of ½, where nothing speaks for either.

    Args:
        model: in eval mode.
        x, reference: (B, *shape), in data units.
        y, other: classes (B,).
        steps: of the integral.
    """
    x, reference = x.to(model.mixture.means.dtype), reference.to(model.mixture.means.dtype)
    total = torch.zeros_like(x)
    for step in range(steps):
        point = reference.lerp(x, (step + 0.5) / steps).requires_grad_()
        given = model.log_posterior(point)
        odds = given.gather(1, y[:, None]) - given.gather(1, other[:, None])
        (gradient,) = torch.autograd.grad(odds.sum(), point)
        total += gradient
    return (x - reference) * total / steps


@torch.no_grad()
def distances_to_means(model: GenerativeClassifier, x: Tensor) -> Tensor:
    """Mahalanobis distance of z to each class mean, (B, K)."""
    given = model.mixture.log_prob_given_class(model.encode(x).z)
    return (2 * model.mixture.half_mahalanobis(given)).clamp_min(0).sqrt()


def _line(model: GenerativeClassifier, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Latents, and the direction in which their class becomes the target."""
    z = model.encode(x).z
    means = model.mixture.means if bool(model.mixture.means.any()) else model.mixture.data_means
    return z, means[target] - means[model.densities(z).log_posterior.argmax(1)]


def _least(reached: Callable[[Tensor], Tensor], zero: Tensor) -> Tensor:
    """The least shift that reaches, (B,); NaN where none up to 4096 does."""
    low, high = zero.clone(), zero + 1
    for _ in range(DOUBLINGS):
        high = torch.where(reached(high), high, 2 * high)
    never = ~reached(high)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        there = reached(middle)
        low, high = torch.where(there, low, middle), torch.where(there, middle, high)
    high = torch.where(reached(zero), zero, high)
    return high.masked_fill(never, torch.nan)
