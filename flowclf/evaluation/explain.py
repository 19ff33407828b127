"""Suite `explain`: explanations of single predictions that need a generative classifier.

After Mackowiak et al., "Generative classifiers as a basis for trustworthy image classification",
CVPR 2021.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from flowclf.classifier import GenerativeClassifier, evaluating
from flowclf.data import Split
from flowclf.evaluation.context import Subject
from flowclf.evaluation.counterfactuals import (
    class_change_path,
    counterfactual,
    decision_contributions,
    distances_to_means,
)
from flowclf.evaluation.statistics import log_prob_or_elbo
from flowclf.support.errors import UserError
from flowclf.support.validate import unchecked_values

__all__ = ["Explanation", "explain_rows", "explain_suite", "explanations", "least_sure"]

BATCH_SIZE = 64
POSTERIOR = 0.9
STEPS = 7


@dataclass(frozen=True, eq=False)
class Explanation:
    """Explanation of one prediction, as a figure shows it."""

    x: Tensor  # the sample (*shape), as the data have it
    label: int  # its class, -1 without one
    predicted: int  # the most probable class
    runner_up: int  # the second most probable one
    posterior: tuple[float, float]  # of these two
    # how much each number of x speaks for `predicted` and against `runner_up`, (*shape),
    # nats; see `decision_contributions`
    contributions: Tensor
    path: Tensor  # from x to a sample of `runner_up`, (steps, *shape), decoded
    path_posterior: Tensor  # of the two classes at its latents, (steps, 2)


def explain_suite(subject: Subject) -> dict[str, Any]:
    """Explain the test samples that the model is least sure of, see `explain_rows`."""
    count, log_posterior = subject.options.explained, subject.predictions.log_posterior
    return {"explain": explain_rows(subject.model, subject.test, log_posterior, count)}


def explain_rows(
    model: GenerativeClassifier, test: Split, log_posterior: Tensor, count: int
) -> list[dict[str, Any]]:
    """Explain the `count` samples of the smallest gap between the two likeliest classes.

    - `sample` (of the test split), `class`, `predicted`, `runner_up` and the posteriors of the two
    - `distance`, `runner_up_distance`: Mahalanobis, of z to their means, and `nearest_mean`, the
      class of the nearest one; None on the sphere
    - `shift`: α of the counterfactual with q(runner_up|z') = 0.9; None where no shift suffices
    - log q(x)/d or elbo(x)/d of the noise-free x and of its counterfactual, nats: whether that is
      as plausible (an autoencoder's is a mean, no sample, and not to be compared with x's)

    What the system does not have is None.

    Args:
        model: in any mode; it is put back.
        test: samples.
        log_posterior: what it says of them, (N, K).
        count: of samples, at most.

    Raises:
        UserError: a system without a decoder and without distances to means.
    """
    if not (model.can_decode or model.mixture.has_distances):
        raise UserError(
            "the suite 'explain' needs a system that can decode or has Gaussian classes, got "
            f"{type(model).__name__} with classes on a sphere (mixture.kind=vmf); leave it out, or "
            "train with mixture.kind=gaussian"
        )
    with torch.no_grad(), evaluating(model):
        return [
            row
            for index in least_sure(log_posterior, count).split(BATCH_SIZE)
            for row in _rows(model, test.take(index), log_posterior[index], index)
        ]


def least_sure(log_posterior: Tensor, count: int) -> Tensor:
    """Return rows of the smallest gaps of the two largest log-posteriors: (N, K) to (count,)."""
    first, second = log_posterior.topk(2).values.unbind(1)
    return (first - second).argsort(stable=True)[:count]


def explanations(
    model: GenerativeClassifier,
    test: Split,
    rows: Sequence[Mapping[str, Any]],
    steps: int = STEPS,
) -> list[Explanation]:
    """Compute what a figure shows of the samples in `explain_rows`.

    The path does not end at a posterior, as what convinces a model can be too little to be seen,
    but where the runner-up's training latents are on average; see `class_change_path`.

    Args:
        model: in any mode; it is put back.
        test: the same as the rows'.
        rows: of `explain_rows`.
        steps: images on the path.

    Raises:
        UserError: a system that cannot decode, or a posterior without a gradient.
    """
    with evaluating(model):
        return [
            each
            for start in range(0, len(rows), BATCH_SIZE)
            for each in _explained(model, test, rows[start : start + BATCH_SIZE], steps)
        ]


def _rows(
    model: GenerativeClassifier, split: Split, log_posterior: Tensor, index: Tensor
) -> list[dict[str, Any]]:
    """Return rows of one batch, the samples at `index` of the test split."""
    device = model.mixture.device
    log_posterior = log_posterior.to(device)
    # The two most probable classes, (B,) each; the first as `predict` has it.
    predicted = log_posterior.argmax(1)
    runner_up = log_posterior.scatter(1, predicted[:, None], -torch.inf).argmax(1)
    x, pair = split.x.to(device), (predicted, runner_up)
    posterior, other_posterior = (_at(log_posterior, k).exp() for k in pair)
    columns = {
        "sample": index,
        "class": split.y,
        "predicted": predicted,
        "runner_up": runner_up,
        "posterior": posterior,
        "runner_up_posterior": other_posterior,
        **_distances(model, x, *pair),
        **_counterfactual(model, x, *pair),
    }
    values = [_listed(each, len(index)) for each in columns.values()]
    return [dict(zip(columns, row, strict=True)) for row in zip(*values, strict=True)]


def _distances(
    model: GenerativeClassifier, x: Tensor, predicted: Tensor, runner_up: Tensor
) -> dict[str, Tensor | None]:
    names = ("distance", "runner_up_distance", "nearest_mean")
    if not model.mixture.has_distances:
        return dict.fromkeys(names)
    found = distances_to_means(model, x)
    values = _at(found, predicted), _at(found, runner_up), found.argmin(1)
    return dict(zip(names, values, strict=True))


def _counterfactual(
    model: GenerativeClassifier, x: Tensor, predicted: Tensor, runner_up: Tensor
) -> dict[str, Tensor | None]:
    kind = "log_prob" if model.has_density or not model.has_elbo else "elbo"
    names = ("shift", f"{kind}_per_dim_nats", f"counterfactual_{kind}_per_dim_nats")
    if not model.can_decode:
        return dict.fromkeys(names)
    found = counterfactual(model, x, runner_up, POSTERIOR, predicted)
    with unchecked_values():  # of a counterfactual that is a long way off
        own, other = (log_prob_or_elbo(model, each) for each in (x, found.x))
    if own is None or other is None:
        return dict(zip(names, (found.shift, None, None), strict=True))
    values = found.shift, own / model.dims, other / model.dims
    values[2].masked_fill_(found.shift.isnan(), torch.nan)
    return dict(zip(names, values, strict=True))


def _at(values: Tensor, k: Tensor) -> Tensor:
    """Gather from (B, K) the values of the classes (B,): (B,)."""
    return values.gather(1, k[:, None])[:, 0]


def _listed(values: Tensor | None, count: int) -> list[Any]:
    """Convert to numbers for JSON, which has no infinity."""
    if values is None:
        return [None] * count
    return [value if isfinite(value) else None for value in values.tolist()]


def _explained(
    model: GenerativeClassifier, test: Split, rows: Sequence[Mapping[str, Any]], steps: int
) -> list[Explanation]:
    device = model.mixture.device
    index, predicted, runner_up = (
        torch.tensor([row[name] for row in rows]) for name in ("sample", "predicted", "runner_up")
    )
    x, pair = test.x[index], torch.stack((predicted, runner_up), 1)
    at, source, target = x.to(device), predicted.to(device), runner_up.to(device)
    contributions = decision_contributions(model, at, source, target).cpu()
    path, log_posterior = class_change_path(model, at, target, steps, None, source)
    path, path_posterior = path.cpu(), log_posterior.exp().cpu()
    found = []
    for i, row in enumerate(rows):
        classes = row["class"], row["predicted"], row["runner_up"]
        posterior = row["posterior"], row["runner_up_posterior"]
        drawn = path[:, i], path_posterior[:, i, pair[i]]
        found.append(Explanation(x[i], *classes, posterior, contributions[i], *drawn))
    return found
