"""Adversarial images within an L∞ ball, and what they do to a classifier and to its density.

Strengths ε are fractions of the range of grey levels: ε = 8/255 of 256 levels is 8 levels. An
integer image is attacked at the middle of its grey levels, where the models see it, and the
attacked image stays within the range of grey levels, shifted likewise; it need not be whole.

Gradients go through the encoder and its pre-processing. Systems that average their posterior over
draws always take the same ones, so their gradients are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from flowclf.classifier import GenerativeClassifier, evaluating
from flowclf.evaluation import metrics
from flowclf.evaluation.calibration import expected_calibration_error
from flowclf.evaluation.statistics import log_prob_or_elbo
from flowclf.support.errors import UserError
from flowclf.support.seeding import generator_for

__all__ = [
    "AttackKind",
    "AttackLoss",
    "attack_curve",
    "attack_loss",
    "evading_pgd",
    "fgsm",
    "pgd",
]

AttackKind = Literal["fgsm", "pgd"]
AttackLoss = Literal["ce", "margin"]

BATCH_SIZE = 256
# Of an evading attack: sizes of step, in those of `pgd`, and weights of what is rejected.
SHARES = (1.0, 0.3, 0.1, 0.03)
WEIGHTS = (10.0, 300.0)


def attack_loss(log_posterior: Tensor, y: Tensor, loss: AttackLoss = "ce") -> Tensor:
    """Compute what an attack maximises, (B,), of log q(k|x) (B, K) and labels y (B,).

        ce:      -log q(y|x)
        margin:  max_{k≠y} log q(k|x) - log q(y|x), a difference of logits

    The gradient of ce loses digits as q(y|x) rounds to 1, and is exactly 0 where all others round
    to 0; an attack by its sign then stands still: what looks like robustness is only a large scale
    of the logits (Croce & Hein, "Reliable evaluation of adversarial robustness with an ensemble of
    diverse parameter-free attacks", ICML 2020). The margin's gradient does not vanish, and
    its sign is the same at every scale. Above 0 the sample is classified wrongly.

    Raises:
        UserError: another loss.
    """
    _check_choice("loss", loss, AttackLoss)
    right = log_posterior.gather(1, y[:, None])[:, 0]
    if loss == "ce":
        return -right
    others = log_posterior.scatter(1, y[:, None], -torch.inf)
    return others.amax(1) - right


def fgsm(
    model: GenerativeClassifier,
    x: Tensor,
    y: Tensor,
    epsilon: float,
    *,
    loss: AttackLoss = "ce",
    levels: int = 256,
) -> Tensor:
    """Return clamp(x + ε (levels - 1) sign ∇_x loss): (B, C, H, W) floating, in data units.

    Goodfellow et al., "Explaining and harnessing adversarial examples", ICLR 2015.

    Args:
        model: attacked in eval mode, and put back; no gradients stay on its parameters.
        x: images (B, C, H, W) in grey levels, integer or floating in [0, levels - 1].
        y: labels (B,).
        epsilon: L∞ bound as a fraction of the range of grey levels.
        loss: as in `attack_loss`.
        levels: grey levels of the images.

    Raises:
        UserError: no images, a negative ε, an unknown loss, or a posterior without a gradient.
    """
    ball = _Ball.around(model, x, epsilon, levels)
    with evaluating(model):
        gradient, _ = _gradient(model, ball.centre, y.to(ball.centre.device), loss)
    return ball.project(ball.centre + ball.radius * gradient.sign())


def pgd(
    model: GenerativeClassifier,
    x: Tensor,
    y: Tensor,
    epsilon: float,
    *,
    loss: AttackLoss = "ce",
    levels: int = 256,
    steps: int = 20,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return each sample's worst x' on a path of `steps` signed steps of 2.5 ε/steps.

    It starts at a uniform draw from the ball, and each step is projected back: Madry et al.,
    "Towards deep learning models resistant to adversarial attacks", ICLR 2018. The worst is that
    of the largest margin, x itself and the start among them.

    Args:
        model, x, y, epsilon, loss, levels: as of `fgsm`.
        steps: gradients taken.
        generator: of the start, on the CPU; without one it is x itself.

    Raises:
        UserError: as of `fgsm`, or fewer steps than 1.
    """
    if steps < 1:
        raise UserError(f"expected at least 1 step, got {steps}")
    ball = _Ball.around(model, x, epsilon, levels)
    y = y.to(ball.centre.device)
    with evaluating(model):
        worst = ball.centre, _margin(model, ball.centre, y)
        at = ball.draw(generator) if generator else ball.centre
        for _ in range(steps):
            gradient, margin = _gradient(model, at, y, loss)
            worst = _worse(worst, (at, margin))
            at = ball.project(at + 2.5 / steps * ball.radius * gradient.sign())
        return _worse(worst, (at, _margin(model, at, y)))[0]


def evading_pgd(
    model: GenerativeClassifier,
    x: Tensor,
    y: Tensor,
    epsilon: float,
    excess: Callable[[Tensor], Tensor],
    *,
    levels: int = 256,
    steps: int = 50,
) -> Tensor:
    """Return images that are misclassified and not rejected, where a path of steps finds any.

    An adaptive attack on a classifier that may reject: it maximises

        margin - weight · max(0, excess)

    and keeps of each sample, among the points of its paths that are not rejected, the one of the
    largest margin; x itself if there is none. There is a path for each weight, 10 and 300, and each
    size of step, 2.5 ε/steps and its 0.3, 0.1 and 0.03: a step too large leaves what is likely at
    once, and a weight too large never crosses what is unlikely.

    Args:
        model, x, y, epsilon, levels: as of `fgsm`.
        excess: of points x, (B,), with a gradient; above 0 they are rejected (`Decider.excess`).
        steps: gradients taken on each of the eight paths.

    Raises:
        UserError: as of `fgsm`.
    """
    ball = _Ball.around(model, x, epsilon, levels)
    y = y.to(ball.centre.device)
    with evaluating(model):
        worst = ball.centre, _margin(model, ball.centre, y)
        for weight, share in product(WEIGHTS, SHARES):
            at, length = ball.centre, 2.5 / steps * share * ball.radius
            for _ in range(steps):
                gradient, unseen = _evading_gradient(model, at, y, excess, weight)
                worst = _worse(worst, (at, unseen))
                at = ball.project(at + length * gradient.sign())
    return worst[0]


def _evading_gradient(
    model: GenerativeClassifier,
    x: Tensor,
    y: Tensor,
    excess: Callable[[Tensor], Tensor],
    weight: float,
) -> tuple[Tensor, Tensor]:
    """Return the gradient of `evading_pgd`'s aim, and the margins, -inf where rejected (B,)."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        margin = attack_loss(model.log_posterior(x), y, "margin")
        beyond = excess(x).to(margin)
        (gradient,) = torch.autograd.grad((margin - weight * beyond.clamp_min(0)).sum(), x)
    return gradient, torch.where(beyond > 0, -torch.inf, margin).detach()


def attack_curve(
    model: GenerativeClassifier,
    x: Tensor,
    y: Tensor,
    epsilons: Sequence[float],
    kind: AttackKind = "fgsm",
    loss: AttackLoss = "ce",
    *,
    levels: int = 256,
    steps: int = 20,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Attack at each ε: rows of `epsilon`, `accuracy`, `ece`, and detection by the density.

    - `log_prob_change_nats`: mean of log q(x') - log q(x), or of the elbo where a system has that
      instead; None where it has neither.
    - `auroc`: area under the ROC curve of telling attacked from clean images by -log q (or
      -elbo): 1/2 is chance, and below it attacked images seem more likely than clean ones. The
      attacks do not try to hide, and any noise of that strength may be noticed as well.

    Args:
        model, x, y, loss, levels: as of `fgsm`; x (N, C, H, W) on any device, batch by batch.
        epsilons: as fractions of the range of grey levels; 0 is the clean images.
        kind: `fgsm` or `pgd`.
        steps: of pgd.
        seed: of pgd's starts.

    Raises:
        UserError: as of `pgd`, an unknown kind, or no samples.
    """
    _check_choice("kind", kind, AttackKind)
    if len(x) == 0:
        raise UserError("expected at least one sample to attack, got none")

    def attacked(epsilon: float, start: int) -> Tensor:
        part, own = x[start : start + BATCH_SIZE], y[start : start + BATCH_SIZE]
        if kind == "fgsm":
            return fgsm(model, part, own, epsilon, loss=loss, levels=levels)
        draw = generator_for(seed, "pgd", start)
        return pgd(model, part, own, epsilon, loss=loss, levels=levels, steps=steps, generator=draw)

    clean = _Seen.of(model, (_points(model, part) for part in x.split(BATCH_SIZE)))
    starts = range(0, len(x), BATCH_SIZE)
    return [
        _row(epsilon, y.cpu(), clean, _Seen.of(model, (attacked(epsilon, s) for s in starts)))
        for epsilon in epsilons
    ]


@dataclass(frozen=True)
class _Ball:
    """L∞ ball of images x' with |x' - centre| ≤ radius in every dimension; data units."""

    centre: Tensor
    radius: float
    low: Tensor
    high: Tensor

    @classmethod
    def around(cls, model: GenerativeClassifier, x: Tensor, epsilon: float, levels: int) -> _Ball:
        if len(model.shape) != 3 or not 0 <= epsilon <= 1:
            raise UserError(
                f"expected images and an epsilon from 0 to 1 (a fraction of the range of grey "
                f"levels), got samples of shape {model.shape} and {epsilon}"
            )
        centre, radius = _points(model, x), epsilon * (levels - 1)
        least = 0.0 if x.is_floating_point() else model.noise.level_middle
        low = (centre - radius).clamp_min(least)
        high = (centre + radius).clamp_max(least + levels - 1)
        return cls(centre, radius, low, high)

    def project(self, x: Tensor) -> Tensor:
        return x.clamp(self.low, self.high)

    def draw(self, generator: torch.Generator) -> Tensor:
        """Draw uniformly, on the CPU: the same on every device."""
        uniform = torch.rand(self.centre.shape, generator=generator).to(self.centre)
        return self.project(self.centre + self.radius * (2 * uniform - 1))


@dataclass(frozen=True)
class _Seen:
    """Posteriors (N, K), and log q(x) or elbo (N,) or None."""

    log_posterior: Tensor
    density: Tensor | None

    @classmethod
    @torch.no_grad()
    def of(cls, model: GenerativeClassifier, batches: Iterable[Tensor]) -> _Seen:
        posteriors, densities = [], []
        for x in batches:
            with evaluating(model):
                posteriors.append(model.log_posterior(x).cpu())
                density = log_prob_or_elbo(model, x)
            if density is not None:
                densities.append(density.cpu())
        return cls(torch.cat(posteriors), torch.cat(densities) if densities else None)


def _row(epsilon: float, y: Tensor, clean: _Seen, attacked: _Seen) -> dict[str, Any]:
    change = auroc = None
    if clean.density is not None and attacked.density is not None:
        change = float((attacked.density - clean.density).double().mean())
        # What is not finite ranks as attacked.
        most = torch.finfo(torch.float64).max
        scores = -torch.cat((clean.density, attacked.density)).double()
        truth = torch.arange(2).repeat_interleave(len(y))
        auroc = metrics.area_under_roc(scores.nan_to_num(nan=most, posinf=most), truth)
    return {
        "epsilon": float(epsilon),
        "accuracy": metrics.accuracy(attacked.log_posterior, y),
        "ece": expected_calibration_error(attacked.log_posterior, y),
        "log_prob_change_nats": change,
        "auroc": auroc,
    }


def _gradient(
    model: GenerativeClassifier, x: Tensor, y: Tensor, loss: AttackLoss
) -> tuple[Tensor, Tensor]:
    """Return ∇_x loss (B, C, H, W) of each sample, and its margin (B,)."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        log_posterior = model.log_posterior(x)
        total = attack_loss(log_posterior, y, loss).sum()
        gradient = None
        if total.requires_grad:
            (gradient,) = torch.autograd.grad(total, x, allow_unused=True)
    if gradient is None:
        raise UserError(
            f"expected a posterior with a gradient, got {type(model).__name__}, whose classes come "
            "from neighbours or trees, which have none; attack another system"
        )
    return gradient, attack_loss(log_posterior.detach(), y, "margin")


@torch.no_grad()
def _margin(model: GenerativeClassifier, x: Tensor, y: Tensor) -> Tensor:
    return attack_loss(model.log_posterior(x), y, "margin")


def _worse(known: tuple[Tensor, Tensor], found: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Keep the sample of the larger margin of two batches."""
    larger = found[1] > known[1]
    x = torch.where(larger[:, None, None, None], found[0], known[0])
    return x, torch.where(larger, found[1], known[1])


def _points(model: GenerativeClassifier, x: Tensor) -> Tensor:
    """Return x as the model sees it, on its device."""
    return model.noise.to_points(x.to(model.mixture.device))


def _check_choice(name: str, value: str, choices: Any) -> None:
    known = get_args(choices)
    if value not in known:
        raise UserError(f"expected {name} out of {', '.join(known)}, got {value!r}")
