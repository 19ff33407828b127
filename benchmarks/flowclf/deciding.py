"""Decisions of a trained system: guarantees over splits of the test set, and outliers found.

For images there are the studies deciding-mnist, deciding-fashion and deciding-cifar10, for tables
`benchmarks.flowclf.deciding_tables`.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from flowclf.classifier import GenerativeClassifier
from flowclf.data import Dataset, Split
from flowclf.data.outliers import load_outliers
from flowclf.evaluation.conformal import class_thresholds, lac, p_values, threshold
from flowclf.evaluation.context import MOST_TRAINING
from flowclf.evaluation.detection import auroc
from flowclf.evaluation.scores import SCORES, Reference, model_scores, scores_of
from flowclf.evaluation.selective import risk_coverage
from flowclf.evaluation.statistics import STATISTICS, statistics
from flowclf.support.seeding import generator_for, hashed_uniform
from flowclf.training import Trained

Values = dict[str, float | None]

SPLITS = 20
COVERAGE, LEVELS = 0.95, (0.01, 0.05)
BY_DERIVATIVES = ("layer-gradients", "local-dimension")
# Of several models, of systems that are not here, of backward passes, and parts: not recorded.
OTHERS = ("waic", "rate", "ratio", "across-beta", "doubt", "latent-typicality", *BY_DERIVATIVES)
SCORED = tuple(name for name in SCORES if name not in OTHERS)
GUARANTEES = ("coverage", "set_size", *(f"false_alarm_{level:g}" for level in LEVELS))


def value_names(specs: Sequence[str], scored: Sequence[str] = SCORED) -> tuple[str, ...]:
    """Return the names of what `measured` returns."""
    spread = (f"{name}_error" for name in GUARANTEES)
    found = (f"{score}_{spec}" for spec in specs for score in scored)
    return (*GUARANTEES, *spread, "worst_class_coverage", "aurc", *found)


def decisions(trained: Trained, specs: Sequence[str]) -> Values:
    """Return what `measured` finds of a trained system with outliers `specs`: `value_names`."""
    model, training, test = trained.model, trained.training, trained.test
    like = Dataset("", training, test, tuple(map(str, range(model.classes))), levels=256)
    outside = {spec: load_outliers(spec, like).x for spec in specs}
    found = measured(model, training, test, outside, SCORED)
    return {name: found[name] for name in value_names(specs)}


def measured(
    model: GenerativeClassifier,
    training: Split,
    test: Split,
    outliers: Mapping[str, Tensor],
    scored: Sequence[str],
    names: Sequence[str] = STATISTICS,
) -> Values:
    """Return `GUARANTEES`, mean and standard error over 20 halves of the test set, and AUROCs.

    Half of the test set calibrates, the other is decided on: sets of 95 % by lac, and the share of
    test samples whose p-value by `auto` is at most the level. `worst_class_coverage` is the least,
    over classes, of the mean coverage of sets calibrated within each; `aurc` that of
    max-probability, `aurc_doubt` that of the score doubt. An AUROC for each of the scores
    `scored`, made of the statistics `names`, and each set of outliers by its name, or None where
    the system has not that score.
    """
    reference = Reference.fit(model, training.spread(MOST_TRAINING).x, names=names)
    told = statistics(model, test.x, names, reference.discriminant)
    inside = scores_of(told, reference)
    own = lac(told["log_posterior"], hashed_uniform(test.x))
    halves = [_half(own, test.y, inside["auto"], seed) for seed in range(SPLITS)]
    values, within = (torch.stack(each) for each in zip(*halves, strict=True))
    error = values.std(0) / SPLITS**0.5
    right = told["log_posterior"].argmax(1) == test.y
    found: Values = {
        "aurc_doubt": risk_coverage(inside["doubt"], right).area,
        **dict(zip(GUARANTEES, values.mean(0).tolist(), strict=True)),
        **{f"{n}_error": v for n, v in zip(GUARANTEES, error.tolist(), strict=True)},
        "worst_class_coverage": float(within.mean(0).min()),
        "aurc": risk_coverage(inside["max-probability"], right).area,
    }
    for spec, x in outliers.items():
        outside = model_scores(model, x, reference, names)
        found |= {
            f"{n}_{spec}": auroc(inside[n], outside[n]).value if n in inside else None
            for n in scored
        }
    return found


def _half(own: Tensor, y: Tensor, scores: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Return `GUARANTEES` of one half, calibrated on the other, and each class's coverage."""
    classes = own.shape[1]
    order = torch.randperm(len(y), generator=generator_for(seed, "halves"))
    known, new = order[: len(y) // 2], order[len(y) // 2 :]
    label = own.gather(1, y[:, None])[:, 0]
    sets = own[new] <= threshold(label[known], COVERAGE)
    each = own[new] <= class_thresholds(label[known], y[known], classes, COVERAGE)
    covered, within = (s.gather(1, y[new, None])[:, 0].double() for s in (sets, each))
    p = p_values(scores[known], scores[new])
    alarms = [(p <= level).double().mean() for level in LEVELS]
    guarantees = torch.stack([covered.mean(), sets.sum(1).double().mean(), *alarms])
    return guarantees, torch.stack([within[y[new] == k].mean() for k in range(classes)])


GREY = ("drawings", "noise:0.015", "noise:0.05", "rotated", "flipped")
OF_MNIST, OF_FASHION = ("fashion-mnist", *GREY), ("mnist", *GREY)
OF_COLOUR = ("cifar100", "rgb-rotation:0.3", "drawings", "noise:0.015", "noise:0.05")
KINDS = {
    f"decisions-{name}": (value_names(specs), partial(decisions, specs=specs))
    for name, specs in (("mnist", OF_MNIST), ("fashion", OF_FASHION), ("colour", OF_COLOUR))
}
