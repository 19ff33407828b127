"""Counterfactuals and contributions of pixels, of classifiers that can decode.

The idea of showing them along directions between class means is Mackowiak et al., "Generative
classifiers as a basis for trustworthy image classification", CVPR 2021.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from math import log

import torch
from torch import Tensor

from flowclf.classifier import GenerativeClassifier
from flowclf.latent.gaussian import Around, GaussianMixture
from flowclf.support.errors import UserError
from flowclf.support.validate import unchecked_values

__all__ = [
    "Counterfactual",
    "class_change_path",
    "counterfactual",
    "decision_contributions",
    "distances_to_means",
    "even_odds",
    "path_contributions",
    "pixel_contributions",
]

DOUBLINGS, HALVINGS = 12, 40


@dataclass(frozen=True)
class Counterfactual:
    """Counterfactual version of x as another class."""

    x: Tensor  # (B, *shape), in data units, decoded
    z: Tensor  # its latents (B, D)
    # α, how far along μ_target - μ_predicted it is, (B,); NaN where no shift suffices
    shift: Tensor
    log_posterior: Tensor  # log q(k|z), (B, K)


@torch.no_grad()
def counterfactual(
    model: GenerativeClassifier,
    x: Tensor,
    target: Tensor,
    posterior: float = 0.9,
    source: Tensor | None = None,
) -> Counterfactual:
    """Find the smallest shift along the line between class means with q(target|z) = `posterior`.

        z' = z + α (μ_target - μ_predicted)

    With equal covariances that is the direction that changes the odds of the two classes and
    nothing else of the latents. α is found by doubling and bisection; 0 where x is there already.

    Where not the mixture decides but a label branch, there is no such direction: then z goes
    towards the target's mean, z' = z + α (μ_target - z), in what differs between the means. Where
    all of these are the origin (a standard normal prior), the average training latents stand for
    them.

    Args:
        model: one that decodes; in eval mode.
        x: (B, *shape).
        target: classes (B,).
        posterior: in (0, 1).
        source: the class to move away from (B,); None: the most probable one at z.

    Raises:
        UserError: a posterior outside (0, 1), or a system that cannot decode.
    """
    if not 0 < posterior < 1:
        raise UserError(f"expected a posterior between 0 and 1, got {posterior}")
    z, direction = _line(model, x, target, source)

    def reached(shift: Tensor) -> Tensor:
        given = model.densities(z + shift[:, None] * direction).log_posterior
        return given.gather(1, target[:, None])[:, 0] >= log(posterior)

    shift = _least(reached, z.new_zeros(len(z)))
    end = z + shift.nan_to_num()[:, None] * direction
    with unchecked_values():  # where it takes a long way, x may not be finite
        decoded = model.decode(end)
    return Counterfactual(decoded, end, shift, model.densities(end).log_posterior)


@torch.no_grad()
def class_change_path(
    model: GenerativeClassifier,
    x: Tensor,
    target: Tensor,
    steps: int = 9,
    posterior: float | None = 0.99,
    source: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Decode a path from x to its counterfactual: (steps, B, *shape), log q(k|z) (steps, B, K).

    A flow may be convinced by changes that no eye sees. With `posterior` None the path goes on, to
    where the target's training latents are on average along the line between the averages m:

        z' = z + α d,  d = m_target - m_source,  α = (m_target - z)·d / ‖d‖²

    Args: as of `counterfactual`.

    Raises:
        UserError: as `counterfactual`, or fewer than two steps.
    """
    if steps < 2:
        raise UserError(f"expected at least 2 steps, got {steps}")
    z, direction = _line(model, x, target, source, "data")
    if posterior is None:
        end = z + _share(model.mixture.class_means(target, "data") - z, direction) * direction
    else:
        end = counterfactual(model, x, target, posterior, source).z
    weights = torch.linspace(0, 1, steps, dtype=z.dtype, device=z.device)
    path = [z.lerp(end, weight) for weight in weights]
    with unchecked_values():  # where it takes a long way, x may not be finite
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
    """Attribute the log-odds of y against `other` to the numbers of x, (B, *shape), nats.

    Integrated gradients of log q(y|x) - log q(other|x) on the straight line from the reference to
    x: they add up to what x's log-odds are above the reference's (Sundararajan et al., "Axiomatic
    attribution for deep networks", ICML 2017), up to the error of the midpoint rule. As reference
    take what speaks for neither: the decoded `even_odds`, or the counterfactual at a posterior of
    ½, which is all but x itself where x is undecided.

    Args:
        model: in eval mode.
        x, reference: (B, *shape), in data units; grey levels are taken at their middle.
        y, other: classes (B,).
        steps: of the integral.

    Raises:
        UserError: a posterior without a gradient.
    """
    x, reference = model.noise.to_points(x), model.noise.to_points(reference)
    points = (reference.lerp(x, step / steps) for step in range(steps + 1))
    return path_contributions(model, points, y, other)


@torch.no_grad()
def decision_contributions(
    model: GenerativeClassifier, x: Tensor, y: Tensor, other: Tensor, steps: int = 64
) -> Tensor:
    """Attribute the log-odds of y against `other` to the numbers of x, (B, *shape), nats.

    `path_contributions` from the decoded `even_odds` of the two classes to x: they add up to x's
    log-odds log q(y|x) - log q(other|x). Of a flow the path is the decoded straight line of
    latents, along which the log-odds change evenly (equal covariances), past images that the flow
    knows; of others the straight line of x, as their decoder does not give x back.

    Args:
        model: one that decodes; in eval mode.
        x: (B, *shape).
        y, other: classes (B,).
        steps: of the integral.

    Raises:
        UserError: a system that cannot decode, or a posterior without a gradient.
    """
    middle = even_odds(model, y, other)
    if model.encoder_kind != "invertible":
        return pixel_contributions(model, x, model.decode(middle), y, other, steps)
    z = model.encode(x).z
    points = (model.decode(middle.lerp(z, step / steps)) for step in range(steps + 1))
    return path_contributions(model, points, y, other)


@torch.no_grad()
def path_contributions(
    model: GenerativeClassifier, points: Iterable[Tensor], y: Tensor, other: Tensor
) -> Tensor:
    """Compute `pixel_contributions` along a path of points (B, *shape): (B, *shape), nats.

        Σ_s (x_s+1 - x_s) · ∇[log q(y|x) - log q(other|x)] at the middle of x_s and x_s+1

    Raises:
        UserError: a posterior without a gradient.
    """
    total = torch.zeros(())
    for start, end in pairwise(points):
        total = (end - start) * _odds_gradient(model, start.lerp(end, 0.5), y, other) + total
    return total


@unchecked_values()  # far along the line x may not be finite, nor need it be
@torch.no_grad()
def even_odds(model: GenerativeClassifier, y: Tensor, other: Tensor) -> Tensor:
    """Find z (B, D) between the classes' average latents that decodes to even odds.

        z = m_y + α (m_other - m_y),  q(y|decode(z)) = q(other|decode(z)),  α by bisection

    m_y itself where the model does not even know that for y, and where no α has even odds.

    Args:
        model: one that decodes; in eval mode.
        y, other: classes (B,).

    Raises:
        UserError: a system that cannot decode.
    """
    start, direction = _between(model.mixture, "data", y, other)

    def reached(shift: Tensor) -> Tensor:
        x = model.decode(start + shift[:, None] * direction)
        return _log_odds(model, x, y, other) <= 0

    shift = _least(reached, start.new_zeros(len(start)))
    return start + shift.nan_to_num()[:, None] * direction


@torch.no_grad()
def distances_to_means(model: GenerativeClassifier, x: Tensor) -> Tensor:
    """Compute the Mahalanobis distance of z to each class mean, (B, K).

    Where all means are the origin: to the average latents of the classes' training samples.

    Raises:
        UserError: a mixture on the sphere, which has none.
    """
    mixture, z = model.mixture, model.encode(x).z
    densities = mixture.log_prob_given_class(z)
    half_squares = mixture.half_mahalanobis(densities)
    if not bool(mixture.means.any()):
        units = mixture.std()
        return torch.linalg.vector_norm((z[:, None] - mixture.data_means) / units, dim=2)
    return (2 * half_squares).clamp_min(0).sqrt()


def _line(
    model: GenerativeClassifier,
    x: Tensor,
    target: Tensor,
    source: Tensor | None = None,
    around: Around = "means",
) -> tuple[Tensor, Tensor]:
    """Return latents, and the direction in which their class becomes the target."""
    z, mixture = model.encode(x).z, model.mixture
    if not model.posterior_is_mixture:
        centres = mixture.centres()
        return z, (centres[target] - z) * (centres != centres[0]).any(0)
    if source is None:
        source = model.densities(z).log_posterior.argmax(1)
    return z, _between(mixture, around, source, target)[1]


def _between(
    mixture: GaussianMixture, around: Around, source: Tensor, target: Tensor
) -> tuple[Tensor, Tensor]:
    """Return start and direction of the line between two means, (B, D) each."""
    start = mixture.class_means(source, around)
    return start, mixture.class_means(target, around) - start


def _share(ahead: Tensor, direction: Tensor) -> Tensor:
    """Project onto the direction, as a share of it (B, 1); 0 where there is no direction."""
    return ((ahead * direction).sum(1) / direction.square().sum(1)).nan_to_num()[:, None]


def _log_odds(model: GenerativeClassifier, x: Tensor, y: Tensor, other: Tensor) -> Tensor:
    """Compute log q(y|x) - log q(other|x), (B,), nats."""
    given = model.log_posterior(x)
    return (given.gather(1, y[:, None]) - given.gather(1, other[:, None]))[:, 0]


@torch.enable_grad()
def _odds_gradient(model: GenerativeClassifier, x: Tensor, y: Tensor, other: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    odds = _log_odds(model, x, y, other)
    if not odds.requires_grad:
        raise UserError(
            f"expected a posterior with a gradient, got {type(model).__name__}, whose classes come "
            "from neighbours or trees, which have none; train with branch.kind=network"
        )
    return torch.autograd.grad(odds.sum(), x)[0]


def _least(reached: Callable[[Tensor], Tensor], zero: Tensor) -> Tensor:
    """Find the least shift that reaches, (B,); NaN where none up to 4096 does."""
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
