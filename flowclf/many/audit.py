"""Audit of a data set: rows that are likely mislabelled, odd, or there twice.

Each row is judged by a model that was not trained on it: the data are cut into folds, and a system
is trained on all but one, for each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from flowclf.config import RunConfig
from flowclf.data import Dataset, Split
from flowclf.evaluation.conformal import p_values
from flowclf.evaluation.context import MOST_TRAINING
from flowclf.evaluation.scores import SCORES, Reference
from flowclf.evaluation.statistics import statistics
from flowclf.support import validate
from flowclf.support.errors import UserError
from flowclf.support.seeding import generator_for
from flowclf.training.loop import train

__all__ = ["Audit", "Finding", "audit"]

Finding = Literal["label", "odd", "duplicate"]

# A label is doubted from here on, nats: 19 to 1.
DOUBT = float(np.log(19))
# Neighbours in latent space that are asked for their labels, and how much their answer counts.
NEIGHBOURS, TRUST = 10, 2.0
ODD = 0.001  # p-value
NEAR = 0.1  # distance to the nearest neighbour, in medians of it
# Latents are compared in so many random directions; the nearest candidates then as they are.
DIRECTIONS, CANDIDATES = 64, 4


@dataclass(frozen=True)
class Audit:
    """Judgement of N labelled rows of a training split; tensors (N,)."""

    label: Tensor  # as it is in the data
    log_posterior: Tensor  # log q(k|x), (N, K), of a model that was not trained on the row
    agreement: Tensor  # share of the 10 nearest rows of the same fold that have the same label
    p_value: Tensor  # share of the rows that are as odd; by the outlier score `auto`
    twin: Tensor  # row of the nearest neighbour in latent space
    distance: Tensor  # to it, in medians over all rows

    @property
    def suggested(self) -> Tensor:
        """The most probable class but the label, (N,)."""
        return self._others.argmax(1)

    @property
    def log_odds(self) -> Tensor:
        """Log-odds of the suggested class against the label, nats, (N,)."""
        return self._others.max(1).values - self.log_posterior.gather(1, self.label[:, None])[:, 0]

    @property
    def _others(self) -> Tensor:
        return self.log_posterior.scatter(1, self.label[:, None], -torch.inf)

    @property
    def doubt(self) -> Tensor:
        """Doubt of the label (N,), nats: log-odds - 2 log((10 · agreement + 1) / 12).

        A posterior looks at the row alone, its neighbours at what others were called.
        """
        share = (NEIGHBOURS * self.agreement + 1) / (NEIGHBOURS + 2)
        return self.log_odds - TRUST * share.log()

    @property
    def findings(self) -> dict[Finding, Tensor]:
        """Rows with each finding, worst first."""
        measures = {
            "label": (-self.doubt, -DOUBT),
            "odd": (self.p_value, ODD),
            "duplicate": (self.distance, NEAR),
        }
        found: dict[Finding, Tensor] = {}
        for name in get_args(Finding):
            values, most = measures[name]
            order = values.argsort(stable=True)
            found[name] = order[values[order] <= most]
        return found

    def rows(self, class_names: tuple[str, ...]) -> Iterator[dict[str, Any]]:
        """Yield a dictionary for each row with a finding, worst first of each kind."""
        kinds: dict[int, list[str]] = {}
        doubt, log_odds, suggested = self.doubt, self.log_odds, self.suggested
        for name, order in self.findings.items():
            for row in order.tolist():
                kinds.setdefault(row, []).append(name)
        for row, names in kinds.items():
            yield {
                "row": row,
                "findings": names,
                "label": class_names[int(self.label[row])],
                "suggested": class_names[int(suggested[row])],
                "doubt_nats": float(doubt[row]),
                "log_odds_nats": float(log_odds[row]),
                "agreement": float(self.agreement[row]),
                "p_value": float(self.p_value[row]),
                "twin": int(self.twin[row]),
                "distance": float(self.distance[row]),
            }


def audit(
    config: RunConfig,
    data: Dataset,
    folds: int = 3,
    device: str = "auto",
    report: Callable[[str], None] = lambda _: None,
) -> Audit:
    """Audit the labelled rows of the training split.

    Args:
        config: of the trainings, one for each fold.
        data: its test split is not looked at.
        folds: how many parts the rows are cut into, by class.
        device: auto, cpu or cuda.
        report: called with a line of progress.

    Raises:
        UserError: fewer than two folds, or a class with fewer rows than folds.
    """
    validate.at_least("folds", folds, 2)
    split = data.train.labelled()
    least = int(split.y.bincount(minlength=data.classes).min())
    if least < folds:
        raise UserError(
            f"expected at least {folds} rows of each class for {folds} folds, got {least} of one; "
            "audit with fewer folds"
        )
    log_posterior = torch.empty(len(split), data.classes, dtype=torch.float64)
    scores, agreement = torch.empty(2, len(split), dtype=torch.float64)
    for fold, (rest, own) in enumerate(_folds(split, folds, config.seed), 1):
        report(f"fold {fold} of {folds}")
        known, judged = split.take(rest), split.take(own)
        # The loop ends with an evaluation, of which nothing is kept.
        parts = replace(data, train=known, test=judged.take(slice(1)))
        model = train(config, parts, device=device).model
        wanted = SCORES["auto"].uses
        reference = Reference.fit(model, known.spread(MOST_TRAINING).x, names=wanted)
        names = {"log_posterior", "latents", *wanted}
        told = statistics(model, judged.x, names, reference.discriminant)
        score = SCORES["auto"](told, reference.statistics)
        assert score is not None
        log_posterior[own] = told["log_posterior"]
        scores[own] = score
        labels = judged.y[neighbours(told["latents"].float(), NEIGHBOURS)]
        agreement[own] = (labels == judged.y[:, None]).double().mean(1)
    report("near duplicates")
    latents = statistics(model, split.x, ("latents",))["latents"].float()
    # Of n rows each is compared with the n - 1 others.
    p_value = (p_values(scores, scores) * (len(scores) + 1) - 1) / len(scores)
    return Audit(split.y, log_posterior, agreement, p_value, *nearest(latents))


def nearest(z: Tensor) -> tuple[Tensor, Tensor]:
    """Return the nearest other row of each (N,), and its distance in medians (N,): of z (N, D)."""
    candidates = neighbours(z, CANDIDATES)
    apart = torch.stack([(z - z[column]).norm(dim=1) for column in candidates.T], 1)
    distance, place = apart.min(1)
    twin = candidates.gather(1, place[:, None])[:, 0]
    return twin, (distance / distance.median().clamp_min(1e-12)).double()


def neighbours(z: Tensor, count: int) -> Tensor:
    """Return the `count` nearest other rows of each, (N, count), of z (N, D).

    Nearest in 64 random directions where D is more.
    """
    from sklearn.neighbors import NearestNeighbors

    plane = z
    if z.shape[1] > DIRECTIONS:
        generator = generator_for(0, "neighbours")
        plane = z @ torch.randn(z.shape[1], DIRECTIONS, generator=generator)
    found = NearestNeighbors(n_neighbors=min(count, len(z) - 1), algorithm="brute")
    return torch.from_numpy(found.fit(plane.numpy()).kneighbors(return_distance=False))


def _folds(split: Split, folds: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield rows to train on and rows to judge, of each fold."""
    from sklearn.model_selection import StratifiedKFold

    cut = StratifiedKFold(folds, shuffle=True, random_state=seed)
    for rest, own in cut.split(np.zeros(len(split)), split.y.numpy()):
        yield torch.from_numpy(rest), torch.from_numpy(own)
