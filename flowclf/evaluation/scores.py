"""Out-of-distribution scores from a model's densities, posteriors and latents.

The energy -log Σ_k w_k q(z|k) (Liu et al., NeurIPS 2020) is -log q(z) here, since the classes'
scores are normalised log-densities: it is not listed twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from math import log
from typing import Literal, Self

import torch
from torch import Tensor

from flowclf.classifier import GenerativeClassifier
from flowclf.evaluation.conformal import log_doubt
from flowclf.evaluation.detection import typicality
from flowclf.evaluation.discriminant import Discriminant
from flowclf.evaluation.statistics import STATISTICS, Statistics, statistics
from flowclf.support.errors import UserError
from flowclf.support.seeding import generator_for

__all__ = [
    "SCORES",
    "Reference",
    "Score",
    "ensemble_scores",
    "joint_moments",
    "model_scores",
    "negative_log_prob_per_dim",
    "scores_of",
    "waic",
]

Needs = Literal[
    "density", "posterior", "latents", "Gaussian encoder", "training samples",
    "one model for all β̃", "another model", "several runs",
]  # fmt: skip


@dataclass(frozen=True)
class Reference:
    """Training samples that scores are fitted to: never any outlier."""

    statistics: Statistics  # of samples that the discriminant was not fitted to
    discriminant: Discriminant | None  # None where latents are too wide, or one class is predicted

    @classmethod
    def fit(
        cls,
        model: GenerativeClassifier,
        x: Tensor,
        seed: int = 0,
        names: Iterable[str] = STATISTICS,
    ) -> Self:
        """Fit to training samples x (N, *shape), a few thousand: two of three to the discriminant.

        Classes are those that the model predicts, so that no labels are needed. `seed` is of the
        choice of these two thirds, `names` are the statistics that scores will want.

        Raises:
            UserError: fewer than three samples, or of another shape.
        """
        if len(x) < 3:
            raise UserError(
                f"expected at least 3 training samples to fit scores to, got {len(x)}; give a few "
                "thousand"
            )
        order = torch.randperm(len(x), generator=generator_for(seed, "reference"))
        fitted, kept = x[order[: 2 * len(x) // 3]], x[order[2 * len(x) // 3 :]]
        known = statistics(model, fitted, ("latents", "log_posterior"))
        found = Discriminant.fit(known["latents"], known["log_posterior"].argmax(1))
        return cls(statistics(model, kept, names, found), found)

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by name: what `from_tensors` takes."""
        plane = self.discriminant
        parts = {field.name: getattr(plane, field.name) for field in fields(plane)} if plane else {}
        return {f"statistics.{name}": value for name, value in self.statistics.items()} | {
            f"discriminant.{name}": value for name, value in parts.items()
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """Return the reference of `tensors`; others are left alone."""
        own: dict[str, dict[str, Tensor]] = {"statistics": {}, "discriminant": {}}
        for name, value in tensors.items():
            part, _, key = name.partition(".")
            if part in own:
                own[part][key] = value
        found = own["discriminant"]
        return cls(own["statistics"], Discriminant(**found) if found else None)


@dataclass(frozen=True)
class Score:
    """Out-of-distribution score (B,); the higher, the more outlying."""

    name: str  # its key in `SCORES`
    needs: Needs  # what a system must have
    uses: tuple[str, ...]  # the statistics that `of` takes, in this order
    # from these to the score; where `fitted`, the same of the reference go before them
    of: Callable[..., Tensor]
    formula: str  # in one line
    paper: str  # where it comes from
    # "higher" is outlying, or "both": too low is outlying, too, so that it is to be judged by
    # `two_tailed_auroc` besides
    direction: Literal["higher", "both"] = "higher"
    fitted: bool = False

    def __call__(self, told: Statistics, reference: Statistics | None = None) -> Tensor | None:
        """Return the score (B,), or None where something that it needs is unknown."""
        sources = [reference, told] if self.fitted else [told]
        values = [None if each is None else each.get(n) for each in sources for n in self.uses]
        return None if any(value is None for value in values) else self.of(*values)


def waic(nll_per_dim: Tensor) -> Tensor:
    """Compute mean + variance over runs of -log q(x)/d: (M, B) to (B,).

    The variance divides by M, so that one run gives -log q(x)/d itself. In nats per dimension as in
    IB-INN's code; Choi et al. take nats a sample, where the variance weighs d times more.
    """
    mean = nll_per_dim.mean(0)
    # The variance of what is infinite is not a number.
    return torch.where(mean.isinf(), mean, mean + nll_per_dim.var(0, correction=0))


def density_of_states(*values: Tensor) -> Tensor:
    """Compute -Σ_j log KDE_j(t_j): M reference statistics (n,) and then M of the samples (B,).

    A Gaussian kernel density each, its bandwidth by Scott's rule.
    """
    count = len(values) // 2
    return sum(
        (_negative_log_kde(*pair) for pair in zip(values[:count], values[count:], strict=True)),
        start=torch.zeros_like(values[-1]),
    )


def joint_distance(*values: Tensor) -> Tensor:
    """Compute the squared Mahalanobis distance from the reference of M statistics: (B,)."""
    count = len(values) // 2
    mean, std, precision = joint_moments(values[:count])
    new = (_columns(values[count:]) - mean) / std
    squares = ((new @ precision) * new).sum(1)
    return torch.where(new.isfinite().all(1), squares, torch.inf)


def joint_moments(known: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Compute mean (M,), std (M,) and precision (M, M) of the standardised statistics (n,) each."""
    columns = _columns(known)
    mean, std = columns.mean(0), columns.std(0).clamp_min(1e-12)
    columns = (columns - mean) / std
    covariance = columns.T @ columns / max(len(columns) - 1, 1)
    return mean, std, torch.linalg.inv(covariance + 1e-6 * torch.eye(len(covariance)))


def surprise(reference: Tensor, scores: Tensor) -> Tensor:
    """Compute -log of the share of the reference (n,) that is not below, of scores (B,): (B,).

    Beyond the 98th percentile the share falls off exponentially, by the mean excess of the
    reference over it, so that far outliers are still ordered. The gradient is that of the tail,
    everywhere, as ranks have none.
    """
    ordered, n = reference.sort().values, len(reference)
    tail = max(n // 50, min(n, 10))
    start = ordered[n - tail]
    excess = (ordered[n - tail :] - start).mean().clamp_min(1e-12)
    above = n - torch.searchsorted(ordered, scores.detach().contiguous())
    inside = log(n + 1) - (above + 1).double().log()
    beyond = log(n + 1) - log(tail + 1) + (scores - start) / excess
    return torch.where(scores > start, beyond, inside + (scores - scores.detach()) / excess)


def signal_in_noise(*values: Tensor) -> Tensor:
    """Compute the larger of two ranks among the reference: of `normality` and of `flatness`."""
    pairs = zip(values[:2], values[2:], strict=True)
    return torch.stack([surprise(known, new) for known, new in pairs]).amax(0)


def _negative_log_kde(known: Tensor, new: Tensor) -> Tensor:
    from scipy.stats import gaussian_kde

    if float(known.std()) < 1e-12 or len(known) < 2:
        return torch.zeros_like(new)
    shown = new.clamp(-1e12, 1e12)
    return torch.from_numpy(-gaussian_kde(known.numpy()).logpdf(shown.numpy()))


def _columns(values: Iterable[Tensor]) -> Tensor:
    """Join statistics (B,) and (B, S) to (B, M)."""
    return torch.cat([value[:, None] if value.ndim == 1 else value for value in values], 1)


def _entropy(log_posterior: Tensor) -> Tensor:
    return torch.special.entr(log_posterior.exp()).sum(1)


def _itself(values: Tensor) -> Tensor:
    return values


def _beyond_png(nll_per_dim: Tensor, complexity: Tensor) -> Tensor:
    return nll_per_dim / log(2) - complexity


IB_INN = "Ardizzone et al., NeurIPS 2020"

_ROWS = (
    Score(
        "negative-log-prob", "density", ("nll_per_dim",), _itself,
        "-log q(x) / d, or -elbo(x) / d", "Bishop, 1994", "both",
    ),
    Score(
        "typicality", "training samples", ("nll_per_dim",),
        lambda known, new: typicality(new, known.mean()),
        "|-log q(x) / d - its mean over training|", f"Nalisnick et al., 2019; {IB_INN}",
        fitted=True,
    ),
    Score(
        "parts-of-density", "training samples", ("nll_per_dim", "log_det_per_dim"), joint_distance,
        "Mahalanobis distance of (log q(z), log|det J|) from those of training", "flowclf",
        fitted=True,
    ),
    Score(
        "density-and-complexity", "training samples",
        ("nll_per_dim", "log_det_per_dim", "complexity"), joint_distance,
        "the same of these two and the bits/dim of x as a PNG file", "flowclf", fitted=True,
    ),
    Score(
        "stages", "training samples", ("nll_per_dim", "stage_log_dets_per_dim"), joint_distance,
        "the same of log q(x) and log|det J| of each stage", "flowclf", fitted=True,
    ),
    Score(
        "across-beta", "one model for all β̃", ("beta_nll_per_dim",), joint_distance,
        "the same of log q(x) at five β̃", "flowclf", fitted=True,
    ),
    Score(
        "layer-gradients", "training samples", ("layer_gradients",), joint_distance,
        "the same of log ‖∇_W log q(x)‖ of each layer", "Dauncey et al., 2024", fitted=True,
    ),
    Score(
        "local-dimension", "training samples", ("nll_per_dim", "local_dimension"), joint_distance,
        "the same of log q(x) and #{i : σ_i(dx/dz) >= 0.1 σ_1(dx/dz)}", "Kamkari et al., ICML 2024",
        fitted=True,
    ),
    Score(
        "density-of-states", "training samples", ("nll_per_dim", "latent_nll", "log_det_per_dim"),
        density_of_states, "-Σ log KDE of log q(x), log q(z), log|det J|",
        "Morningstar et al., AISTATS 2021", fitted=True,
    ),
    Score(
        "signal-in-noise", "training samples", ("normality", "flatness"), signal_in_noise,
        "rank of Anderson-Darling or of the spectrum's std/mean, of (z - μ_k) / σ_k",
        "SITN, 2026", fitted=True,
    ),
    Score(
        "complexity", "density", ("nll_per_dim", "complexity"), _beyond_png,
        "-log₂ q(x) / d - bits/dim as a PNG file", "Serrà et al., ICLR 2020",
    ),
    Score(
        "latent-negative-log-prob", "latents", ("latent_nll",), _itself,
        "-log Σ_k w_k q(z|k), the energy of Liu et al., NeurIPS 2020", IB_INN, "both",
    ),
    Score(
        "latent-typicality", "training samples", ("latent_nll",),
        lambda known, new: typicality(new, known.median()),
        "|-log q(z) - its median over training|", "flowclf", fitted=True,
    ),
    Score(
        "latent-distance", "latents", ("distance",), _itself,
        "min_k sqrt((z - μ_k)ᵀ Σ_k⁻¹ (z - μ_k))", "Lee et al., NeurIPS 2018",
    ),
    Score(
        "relative-distance", "training samples", ("relative_distance",), _itself,
        "min_k Mahalanobis(z, class k) - Mahalanobis(z, all), of training latents",
        "Ren et al., 2021",
    ),
    Score(
        "rate", "Gaussian encoder", ("rate",), _itself,
        "KL(q(z|x) ‖ N(0, I))", f"Alemi et al., 2018; {IB_INN}", "both",
    ),
    Score(
        "max-probability", "posterior", ("log_posterior",), log_doubt,
        "log(1 - max_k q(k|x))", "Hendrycks and Gimpel, ICLR 2017",
    ),
    Score(
        "entropy", "posterior", ("log_posterior",), _entropy,
        "-Σ_k q(k|x) log q(k|x)", IB_INN,
    ),
    Score(
        "ratio", "another model", ("nll_per_dim", "general_nll_per_dim"),
        lambda own, general: own - general,
        "-(log q(x) - log of a general model's q(x)) / d", "Schirrmeister et al., NeurIPS 2020",
    ),
    Score(
        "waic", "several runs", ("runs_nll_per_dim",), waic,
        "mean + variance over runs of -log q(x) / d", f"Choi et al., 2018; {IB_INN}", "both",
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Combined(Score):
    """Weighted sum of other scores' `surprise`; of equal weights Fisher's sum of -log p."""

    # scores and their weight; of a system that has not all of them the next alternative is taken,
    # and where there is no other, the part is left out
    parts: tuple[tuple[float, tuple[tuple[str, ...], ...]], ...] = ()

    def __call__(self, told: Statistics, reference: Statistics | None = None) -> Tensor | None:
        """Return the score (B,), or None without a reference."""
        if reference is None:
            return None
        found = []
        for weight, alternatives in self.parts:
            for name, known in _first_known(alternatives, reference).items():
                new = SCORES[name](told, reference)
                if new is None:  # other samples than the reference's: no part may be left out
                    return None
                found.append(weight * surprise(known, new))
        return torch.stack(found).sum(0)


def _first_known(
    alternatives: Iterable[tuple[str, ...]], reference: Statistics
) -> dict[str, Tensor]:
    """Return the reference's own scores of the first alternative that it has whole, or none."""
    for names in alternatives:
        scores = {name: SCORES[name](reference, reference) for name in names}
        known = {name: score for name, score in scores.items() if score is not None}
        if len(known) == len(names):
            return known
    return {}


def _uses(names: Iterable[str]) -> tuple[str, ...]:
    """Return the statistics of these scores, each once."""
    return tuple({use: 0 for row in _ROWS if row.name in names for use in row.uses})


# Of the density; without one, of q(z) on both sides: outliers of a feed-forward network may be
# nearer to the origin than its data, or far away.
FIRST = (
    ("density-and-complexity",),
    ("parts-of-density",),
    ("typicality",),
    ("max-probability", "latent-typicality"),
)
DOUBT_WEIGHT = 0.3
PARTS = (*(name for names in FIRST for name in names), "relative-distance")
AUTO = Combined(
    "auto", "training samples", _uses(PARTS), _itself,
    "Σ -log p, p by rank among training samples, of relative-distance and of the first that there "
    f"is of {', '.join(map(' with '.join, FIRST))}", "flowclf; Fisher, 1925", fitted=True,
    parts=((1.0, FIRST), (1.0, (("relative-distance",),))),
)  # fmt: skip
DOUBT = Combined(
    "doubt", "training samples", _uses(PARTS), _itself,
    f"-log p of max-probability - {DOUBT_WEIGHT:g} log p of auto", "flowclf", fitted=True,
    parts=((1.0, (("max-probability",),)), (DOUBT_WEIGHT, (("auto",),))),
)  # fmt: skip

SCORES: dict[str, Score] = {score.name: score for score in (AUTO, DOUBT, *_ROWS)}


def model_scores(
    model: GenerativeClassifier,
    x: Tensor,
    reference: Reference | None = None,
    names: Iterable[str] = STATISTICS,
    general: GenerativeClassifier | None = None,
) -> dict[str, Tensor]:
    """Compute all scores that one model has of x (N, *shape): by name, (N,), float64, CPU.

    Deterministic, in eval mode, batch by batch.

    Args:
        model, x: as for `statistics`.
        reference: of this model and of these statistics; without it there is none of the scores
            that are fitted.
        names: the statistics that scores are made of; of `COSTLY` none by default.
        general: trained on much more than the model's own data, for `ratio`.

    Raises:
        UserError: no samples, or samples of another shape.
    """
    plane = None if reference is None else reference.discriminant
    told = statistics(model, x, names, plane)
    if general is not None:
        told = {**told, "general_nll_per_dim": negative_log_prob_per_dim(general, x)}
    return scores_of(told, reference)


def scores_of(told: Statistics, reference: Reference | None = None) -> dict[str, Tensor]:
    """Compute all scores that these statistics are enough for: by name, (N,)."""
    known = None if reference is None else reference.statistics
    scores = {name: score(told, known) for name, score in SCORES.items()}
    return {name: values for name, values in scores.items() if values is not None}


def negative_log_prob_per_dim(model: GenerativeClassifier, x: Tensor) -> Tensor:
    """Compute -log q(x)/d, or -elbo(x)/d: (N, *shape) to (N,), float64, nats.

    Raises:
        UserError: no samples, or a system with neither.
    """
    if not model.has_elbo:
        raise UserError(
            f"expected a system with a density or a bound of it, got {type(model).__name__}; "
            "choose a score that needs the posterior or latents alone"
        )
    return statistics(model, x, ("nll_per_dim",))["nll_per_dim"]


def ensemble_scores(models: Iterable[GenerativeClassifier], x: Tensor) -> dict[str, Tensor]:
    """Compute the scores of several runs of x (N, *shape): by name, (N,); model by model.

    Raises:
        UserError: no model, or as `negative_log_prob_per_dim`.
    """
    rows = [negative_log_prob_per_dim(model, x) for model in models]
    if not rows:
        raise UserError("expected at least one trained model, got none; name their runs")
    return scores_of({"runs_nll_per_dim": torch.stack(rows)})
