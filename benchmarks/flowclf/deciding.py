"""Decisions of a trained system: guarantees over splits of the test set, and outliers found."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from flowclf.data import Dataset
from flowclf.data.outliers import load_outliers
from flowclf.evaluation.conformal import class_thresholds, lac, p_values, threshold, tie_breakers
from flowclf.evaluation.detection import auroc
from flowclf.evaluation.scores import SCORES, Reference, model_scores, scores_of
from flowclf.evaluation.selective import risk_coverage
from flowclf.evaluation.statistics import statistics
from flowclf.support.seeding import generator_for
from flowclf.training import Trained

Values = dict[str, float | None]

SPLITS = 20
COVERAGE, LEVELS = 0.95, (0.01, 0.05)
KNOWN = 10_000  # training samples that scores are fitted to
SCORED = tuple(name for name in SCORES if name not in ("waic", "rate"))
GUARANTEES = (
    "coverage", "worst_class_coverage", "set_size", *(f"false_alarm_{level:g}" for level in LEVELS),
)  # fmt: skip


def names(specs: Sequence[str]) -> tuple[str, ...]:
    """Return the names of what `decisions` returns."""
    spread = (f"{name}_error" for name in GUARANTEES)
    found = (f"{score}_{spec}" for spec in specs for score in SCORED)
    return (*GUARANTEES, *spread, "aurc", *found)


def decisions(trained: Trained, specs: Sequence[str]) -> Values:
    """Return `GUARANTEES`, mean and standard error over 20 halves of the test set, and AUROCs.

    Half of the test set calibrates, the other is decided on: sets of 95 % by lac, over all classes
    (`coverage`, `set_size`) and within each (`worst_class_coverage`), and the share of test samples
    whose p-value by `auto` is at most the level. `aurc` is that of max-probability. An AUROC for
    each score of the system and each of the outliers `specs`, else None.
    """
    model, test = trained.model, trained.test
    reference = Reference.fit(model, trained.training.spread(KNOWN).x)
    told = statistics(model, test.x, discriminant=reference.discriminant)
    inside = scores_of(told, reference)
    own = lac(told["log_posterior"], tie_breakers(test.x))
    halves = [_half(own, test.y, inside["auto"], model.classes, seed) for seed in range(SPLITS)]
    values = torch.tensor(halves, dtype=torch.float64)
    error = values.std(0) / SPLITS**0.5
    right = told["log_posterior"].argmax(1) == test.y
    found: Values = {
        **dict(zip(GUARANTEES, values.mean(0).tolist(), strict=True)),
        **{f"{n}_error": v for n, v in zip(GUARANTEES, error.tolist(), strict=True)},
        "aurc": risk_coverage(inside["max-probability"], right).area,
    }
    like = Dataset("", trained.training, test, tuple(map(str, range(model.classes))), levels=256)
    for spec in specs:
        outside = model_scores(model, load_outliers(spec, like).x, reference)
        found |= {
            f"{n}_{spec}": auroc(inside[n], outside[n]).value if n in inside else None
            for n in SCORED
        }
    return found


def _half(
    own: Tensor, y: Tensor, scores: Tensor, classes: int, seed: int
) -> tuple[float, float, float, float, float]:
    """Return `GUARANTEES` of one half, calibrated on the other."""
    order = torch.randperm(len(y), generator=generator_for(seed, "halves"))
    known, new = order[: len(y) // 2], order[len(y) // 2 :]
    label = own.gather(1, y[:, None])[:, 0]
    sets = own[new] <= threshold(label[known], COVERAGE)
    each = own[new] <= class_thresholds(label[known], y[known], classes, COVERAGE)
    covered, within = (s.gather(1, y[new, None])[:, 0].double() for s in (sets, each))
    worst = min(float(within[y[new] == k].mean()) for k in range(classes))
    p = p_values(scores[known], scores[new])
    one, five = (float((p <= level).double().mean()) for level in LEVELS)
    return float(covered.mean()), worst, float(sets.sum(1).double().mean()), one, five


GREY = ("drawings", "noise:0.015", "noise:0.05", "rotated", "flipped")
OF_MNIST, OF_FASHION = ("fashion-mnist", *GREY), ("mnist", *GREY)
OF_COLOUR = ("cifar100", "rgb-rotation:0.3", "drawings", "noise:0.015", "noise:0.05")
KINDS = {
    f"decisions-{name}": (names(specs), partial(decisions, specs=specs))
    for name, specs in (("mnist", OF_MNIST), ("fashion", OF_FASHION), ("colour", OF_COLOUR))
}
