"""Labels that were flipped, found again: flowclf's audit beside cleanlab, on the same predictions.

    python -m benchmarks.flowclf.label_errors mnist --epochs 2

Five in a hundred training labels become another class, drawn evenly. AUROC of the doubt against
cleanlab's scores of the audit's own cross-validated posteriors, and the difference to the best of
them with the 95 % interval of 200 bootstraps.
"""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.results import append_rows, recorded
from flowclf.config import make_config
from flowclf.data import Split, load_dataset
from flowclf.evaluation.detection import auroc
from flowclf.many import Audit, audit
from flowclf.training.setup import pick_precision

SHARE, BOOTSTRAPS = 0.05, 200
THEIRS = ("self_confidence", "normalized_margin", "confidence_weighted_entropy")


def flipped(split: Split, classes: int, seed: int) -> tuple[Split, Tensor]:
    """Return the split with flipped labels, and which they are, (N,) bool."""
    generator = torch.Generator().manual_seed(seed)
    wrong = torch.rand(len(split), generator=generator) < SHARE
    shift = torch.randint(1, classes, (len(split),), generator=generator)
    return Split(split.x, torch.where(wrong, (split.y + shift) % classes, split.y)), wrong


def scores_of(found: Audit) -> dict[str, Tensor]:
    """Return our doubt, the log-odds alone, and cleanlab's scores, all higher for worse."""
    from cleanlab.rank import get_label_quality_scores

    probabilities, y = found.log_posterior.exp().numpy(), found.label.numpy()
    theirs = {
        f"cleanlab, {method}": -torch.from_numpy(
            get_label_quality_scores(y, probabilities, method=method)
        )
        for method in THEIRS
    }
    return {"doubt": found.doubt, "log-odds": found.log_odds, **theirs}


def compare(scores: Mapping[str, Tensor], wrong: Tensor, seed: int = 0) -> dict[str, float]:
    """Return the AUROC of each, and `gain` over the best of cleanlab's with its interval."""
    areas = {name: auroc(v[~wrong], v[wrong]).value for name, v in scores.items()}
    best = max((name for name in areas if "cleanlab" in name), key=areas.__getitem__)
    rng, bad, good = np.random.default_rng(seed), scores["doubt"][wrong], scores["doubt"][~wrong]
    pairs = (good, bad), (scores[best][~wrong], scores[best][wrong])
    gains = []
    for _ in range(BOOTSTRAPS):
        rows = [torch.from_numpy(rng.integers(len(part), size=len(part))) for part in (good, bad)]
        ours, theirs = (auroc(a[rows[0]], b[rows[1]]).value for a, b in pairs)
        gains.append(ours - theirs)
    low, high = np.quantile(gains, [0.025, 0.975]).tolist()
    return {**areas, "gain": areas["doubt"] - areas[best], "gain_low": low, "gain_high": high}


def main() -> None:
    """Audit a data set with flipped labels; print and record one row a seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help="a known data set of images")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--folds", type=int, default=2)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--out", type=Path, default=recorded("label-errors.csv"))
    given = parser.parse_args()
    data = load_dataset(given.data)
    for seed in map(int, given.seeds.split(",")):
        train, wrong = flipped(data.train, data.classes, seed)
        overrides: list[dict[str, Any]] = [{"train": {"epochs": given.epochs}}]
        config = make_config("ib-inn", given.data, data.shape, seed=seed, overrides=overrides)
        found = audit(config, replace(data, train=train), given.folds, "cpu", report=print)
        row = {"data": given.data, "seed": seed, "folds": given.folds, "epochs": given.epochs}
        row |= compare(scores_of(found), wrong)
        print(row)
        batch = config.train.batch_size * prod(data.shape)
        append_rows(given.out, [row], pick_precision(config.train.precision, "cpu", batch))


if __name__ == "__main__":
    main()
