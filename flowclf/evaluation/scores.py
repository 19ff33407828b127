"""Out-of-distribution scores from a model's densities, posteriors and latents.

The energy -log Σ_k w_k q(z|k) (Liu et al., NeurIPS 2020) is -log q(z) here, since the classes'
scores are normalised log-densities: it is not listed twice.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from flowclf.classifier import GenerativeClassifier, evaluating
from flowclf.evaluation.detection import typicality
from flowclf.objectives import gaussian_kl
from flowclf.support import validate
from flowclf.support.errors import UserError
from flowclf.support.seeding import generator_for

__all__ = [
    "SCORES",
    "Score",
    "Told",
    "ensemble_scores",
    "log_prob_or_elbo",
    "model_scores",
    "negative_log_prob_per_dim",
    "training_centre",
    "waic",
]

# As in `evaluate`: one draw of dequantisation noise each, so that densities are equal.
BATCH_SIZE = 512

Needs = Literal[
    "density", "posterior", "latents", "Gaussian encoder", "training statistics", "several runs"
]


@dataclass(frozen=True)
class Told:
    """Quantities that scores are computed from, of B samples, float64; None where unknown."""

    # -log q(x)/d (B,) in nats and data units; -elbo(x)/d where there is only that
    nll_per_dim: Tensor | None = None
    log_posterior: Tensor | None = None  # log q(k|x), (B, K)
    latent_nll: Tensor | None = None  # -log q(z) (B,) of the mixture, nats
    distance: Tensor | None = None  # to the nearest class mean, (B,), in standard deviations
    rate: Tensor | None = None  # KL(q(z|x) ‖ N(0, I)) (B,) of a Gaussian encoder, nats
    centre: float | None = None  # mean nll_per_dim of the training data
    runs_nll_per_dim: Tensor | None = None  # nll_per_dim of several runs, (M, B)


@dataclass(frozen=True)
class Score:
    """Out-of-distribution score (B,); the higher, the more outlying."""

    name: str  # its key in `SCORES`
    needs: Needs  # what a system must have
    uses: tuple[str, ...]  # the fields of `Told` that `of` takes, in this order
    of: Callable[..., Tensor]  # from these to the score
    formula: str  # in one line
    paper: str  # where it comes from
    # "higher" is outlying, or "both": too low is outlying, too, so that it is to be judged by
    # `two_tailed_auroc` besides
    direction: Literal["higher", "both"] = "higher"

    def __call__(self, told: Told) -> Tensor | None:
        """Return the score (B,), or None where a quantity that it needs is unknown."""
        values = [getattr(told, field) for field in self.uses]
        return None if any(value is None for value in values) else self.of(*values)


def waic(nll_per_dim: Tensor) -> Tensor:
    """Compute mean + variance over runs of -log q(x)/d: (M, B) to (B,).

    The variance divides by M, so that one run gives -log q(x)/d itself. In nats per dimension as in
    IB-INN's code; Choi et al. take nats a sample, where the variance weighs d times more.
    """
    mean = nll_per_dim.mean(0)
    # The variance of what is infinite is not a number.
    return torch.where(mean.isinf(), mean, mean + nll_per_dim.var(0, correction=0))


def _unsure(log_posterior: Tensor) -> Tensor:
    """Compute log Σ_{k≠k*} q(k|x) = log(1 - max_k q(k|x)) without rounding to log 0."""
    likeliest = log_posterior.argmax(1, keepdim=True)
    return log_posterior.scatter(1, likeliest, -torch.inf).logsumexp(1)


def _entropy(log_posterior: Tensor) -> Tensor:
    return torch.special.entr(log_posterior.exp()).sum(1)


def _itself(values: Tensor) -> Tensor:
    return values


IB_INN = "Ardizzone et al., NeurIPS 2020"

_ROWS = (
    Score(
        "negative-log-prob", "density", ("nll_per_dim",), _itself,
        "-log q(x) / d, or -elbo(x) / d", "Bishop, 1994", "both",
    ),
    Score(
        "typicality", "training statistics", ("nll_per_dim", "centre"), typicality,
        "|-log q(x) / d - its mean over training|", f"Nalisnick et al., 2019; {IB_INN}",
    ),
    Score(
        "latent-negative-log-prob", "latents", ("latent_nll",), _itself,
        "-log Σ_k w_k q(z|k), the energy of Liu et al., NeurIPS 2020", IB_INN, "both",
    ),
    Score(
        "latent-distance", "latents", ("distance",), _itself,
        "min_k sqrt((z - μ_k)ᵀ Σ_k⁻¹ (z - μ_k))", "Lee et al., NeurIPS 2018",
    ),
    Score(
        "rate", "Gaussian encoder", ("rate",), _itself,
        "KL(q(z|x) ‖ N(0, I))", f"Alemi et al., 2018; {IB_INN}", "both",
    ),
    Score(
        "max-probability", "posterior", ("log_posterior",), _unsure,
        "log(1 - max_k q(k|x))", "Hendrycks and Gimpel, ICLR 2017",
    ),
    Score(
        "entropy", "posterior", ("log_posterior",), _entropy,
        "-Σ_k q(k|x) log q(k|x)", IB_INN,
    ),
    Score(
        "waic", "several runs", ("runs_nll_per_dim",), waic,
        "mean + variance over runs of -log q(x) / d", f"Choi et al., 2018; {IB_INN}", "both",
    ),
)  # fmt: skip

SCORES: dict[str, Score] = {score.name: score for score in _ROWS}


@torch.no_grad()
def model_scores(
    model: GenerativeClassifier,
    x: Tensor,
    centre: float | None = None,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Compute all scores that one model has of x (N, *shape): by name, (N,), float64, CPU.

    Posterior and latents are those of the noise-free x, densities those of the uniformly
    dequantised one, as in `evaluate`. Deterministic, in eval mode, batch by batch.

    Args:
        model: in any mode; it is put back.
        x: samples, on any device.
        centre: `training_centre` of this model; without it there is no typicality.
        seed: of the dequantisation noise.

    Raises:
        UserError: no samples, or samples of another shape.
    """
    with evaluating(model):
        parts = [_scores(_told(model, *pair, centre)) for pair in _batches(model, x, seed)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


@torch.no_grad()
def negative_log_prob_per_dim(model: GenerativeClassifier, x: Tensor, seed: int = 0) -> Tensor:
    """Compute -log q(x)/d, or -elbo(x)/d: (N, *shape) to (N,), float64, nats.

    Args: as of `model_scores`.

    Raises:
        UserError: no samples, or a system with neither.
    """
    if not model.has_elbo:
        raise UserError(
            f"expected a system with a density or a bound of it, got {type(model).__name__}; "
            "choose a score that needs the posterior or latents alone"
        )
    with evaluating(model):
        parts = [_nll_per_dim(model, noisy) for _, noisy in _batches(model, x, seed)]
    return torch.cat([part for part in parts if part is not None])


def log_prob_or_elbo(model: GenerativeClassifier, x: Tensor) -> Tensor | None:
    """Return log q(x), or the elbo where a system has only that, (B,), nats; None without both."""
    if not model.has_elbo:
        return None
    return model.log_prob(x) if model.has_density else model.elbo(x)


def training_centre(model: GenerativeClassifier, x: Tensor, seed: int = 0) -> float:
    """Compute the mean of -log q(x)/d of training samples, nats: the centre of typicality.

    Args, errors: as of `negative_log_prob_per_dim`.
    """
    return float(negative_log_prob_per_dim(model, x, seed).mean())


def ensemble_scores(
    models: Iterable[GenerativeClassifier], x: Tensor, seed: int = 0
) -> dict[str, Tensor]:
    """Compute the scores of several runs of x (N, *shape): by name, (N,); model by model.

    Args, errors: as of `negative_log_prob_per_dim`; UserError also for no model.
    """
    rows = [negative_log_prob_per_dim(model, x, seed) for model in models]
    if not rows:
        raise UserError("expected at least one trained model, got none; name their runs")
    return _scores(Told(runs_nll_per_dim=torch.stack(rows)))


def _scores(told: Told) -> dict[str, Tensor]:
    scores = {name: score(told) for name, score in SCORES.items()}
    return {name: values for name, values in scores.items() if values is not None}


def _batches(model: GenerativeClassifier, x: Tensor, seed: int) -> Iterable[tuple[Tensor, Tensor]]:
    """Yield x and its dequantised copy on the model's device, in batches."""
    validate.samples("x", x, model.shape)
    if not len(x):
        raise UserError("expected samples to score, got none")
    device = model.mixture.device
    for start in range(0, len(x), BATCH_SIZE):
        part = x[start : start + BATCH_SIZE].to(device)
        generator = generator_for(seed, "evaluate", start, device=device)
        yield part, model.dequantize(part, generator)


def _told(model: GenerativeClassifier, x: Tensor, noisy: Tensor, centre: float | None) -> Told:
    encoding = model.encode(x)
    # A flow's posterior is that of its latents: one pass for both.
    exact = encoding.log_det is not None
    posterior = model.densities(encoding.z).log_posterior if exact else model.log_posterior(x)
    log_posterior = posterior.cpu().double()
    rate = None
    if encoding.mean is not None and encoding.log_var is not None:
        rate = gaussian_kl(encoding.mean, encoding.log_var).cpu().double()
    nll = _nll_per_dim(model, noisy)
    return Told(nll, log_posterior, *_latent(model, encoding.z), rate, centre)


def _nll_per_dim(model: GenerativeClassifier, noisy: Tensor) -> Tensor | None:
    found = log_prob_or_elbo(model, noisy)
    return None if found is None else -found.cpu().double() / model.dims


def _latent(model: GenerativeClassifier, z: Tensor) -> tuple[Tensor, Tensor | None]:
    densities = model.mixture.densities(z)
    nll = -densities.log_prob.cpu().double()
    if not model.mixture.has_distances:
        return nll, None
    half_squares = model.mixture.half_mahalanobis(densities.log_prob_given_class).min(1).values
    return nll, (2 * half_squares.cpu().double()).clamp_min(0).sqrt()
