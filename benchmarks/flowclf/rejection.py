"""Attacks on a classifier that may reject: what is right, what is rejected, what slips through.

    python -m benchmarks.flowclf.rejection RUN [--samples 500] [--epsilons 0 0.02 0.1 0.3]

A `Decider` (1 % false alarms, calibrated on half of the test images) decides on attacked images of
the other half: FGSM by the margin, which does not try to hide, and `evading_pgd`, which knows the
decider's score and limit, after one step and after fifty. Scores: -log q(x)/d and `auto`; each is
attacked by itself.
"""

import argparse
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.results import append_rows, recorded
from flowclf import Decider
from flowclf.evaluation.attacks import evading_pgd, fgsm
from flowclf.evaluation.context import MOST_TRAINING
from flowclf.runs import Run
from flowclf.training.task import load_task

EPSILONS = (0.0, 0.02, 0.1, 0.3)
ATTACKS = ("fgsm", "evading-step", "evading")
SCORES = ("negative-log-prob", "auto")
BATCH_SIZE = 250


def shares(decider: Decider, x: Tensor, y: Tensor) -> dict[str, float]:
    """Return the shares of images that are right, rejected, and either."""
    found = decider(x)
    right = found.label == y
    rejected = found.p_value <= decider.false_alarm
    return {
        "right": float(right.double().mean()),
        "rejected": float(rejected.double().mean()),
        "right_or_rejected": float((right | rejected).double().mean()),
    }


def main() -> None:
    """Attack a run's first test images at each ε; print and record the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--epsilons", type=float, nargs="+", default=EPSILONS)
    parser.add_argument("--attacks", nargs="+", choices=ATTACKS, default=ATTACKS)
    parser.add_argument("--out", type=Path, default=recorded("rejection.csv"))
    given = parser.parse_args()
    task = load_task(given.run)
    model, half = task.model, len(task.test) // 2
    known, new = task.test.take(slice(half, None)), task.test.take(slice(given.samples))
    train = task.training.spread(MOST_TRAINING).x
    deciders = {s: Decider(model, score=s).fit(known.x, known.y, train) for s in SCORES}
    for epsilon, attack, (score, decider) in product(
        given.epsilons, given.attacks, deciders.items()
    ):
        parts = zip(new.x.split(BATCH_SIZE), new.y.split(BATCH_SIZE), strict=True)
        attacked = torch.cat([_attacked(attack, decider, x, y, epsilon) for x, y in parts])
        row = {"data": task.config.dataset, "seed": task.config.seed}
        row |= {"sigma": model.noise.sigma, "draws": model.noise.draws, "attack": attack}
        row |= {"target": "" if attack == "fgsm" else score, "epsilon": epsilon}
        row |= {"score": score, "samples": len(new)}
        row |= shares(decider, attacked, new.y)
        print({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
        append_rows(given.out, [row], Run(given.run).read_precision())


def _attacked(attack: str, decider: Decider, x: Tensor, y: Tensor, epsilon: float) -> Tensor:
    if attack == "fgsm":
        return fgsm(decider.model, x, y, epsilon, loss="margin")
    steps = 2 if attack == "evading-step" else 50  # where a path ends is not looked at
    return evading_pgd(decider.model, x, y, epsilon, decider.excess, steps=steps)


if __name__ == "__main__":
    main()
