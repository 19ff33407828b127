"""Classifiers in worlds whose truth is known: what their calibration is really worth.

    python -m benchmarks.flowclf.known_world --seeds 0,1,2

A class-nll flow is trained on a table (digits or wine) and taken for the truth: 2,000
rows drawn from it train each system, 20,000 others judge it, by the exact p(y|x).
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits, load_wine
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from benchmarks.results import append_rows, recorded
from flowclf.config import make_config
from flowclf.data import Dataset, Split
from flowclf.evaluation import predict_split
from flowclf.evaluation.calibration import expected_calibration_error
from flowclf.oracle import World
from flowclf.training import train

TABLES: dict[str, Callable[[], Any]] = {"digits": load_digits, "wine": load_wine}
SYSTEMS = ("ib-inn", "class-nll", "ce", "gm", "vc")
OTHERS: dict[str, Callable[[], Any]] = {
    "logistic regression": lambda: make_pipeline(
        StandardScaler(), LogisticRegression(max_iter=2000)
    ),
    "QDA": lambda: QuadraticDiscriminantAnalysis(reg_param=0.02),
    "gradient boosting": lambda: HistGradientBoostingClassifier(random_state=0),
}
TRAINED, JUDGED = 2000, 20_000


def make_world(table: str, seed: int) -> World:
    """Train the flow that is taken for the truth; its noise makes integers a density."""
    found = TABLES[table]()
    x = found.data + np.random.default_rng(seed).random(found.data.shape) * (table == "digits")
    split = Split(torch.tensor(x, dtype=torch.float32), torch.tensor(found.target))
    names = tuple(map(str, range(int(split.y.max()) + 1)))
    data = Dataset(table, split, split.take(slice(10)), names)
    overrides: list[dict[str, Any]] = [{"train": {"epochs": 40}}]
    config = make_config(
        "class-nll", table, data.shape, preset="mlp", seed=seed, overrides=overrides
    )
    return World(train(config, data, device="cpu").model)


def predictions(data: Dataset, seed: int) -> Iterator[tuple[str, Tensor]]:
    """Yield the name and log q(y|x), of the test split, of each classifier."""
    for system in SYSTEMS:
        config = make_config(system, "world", data.shape, preset="mlp", seed=seed)
        model = train(config, data, device="cpu").model
        yield system, predict_split(model, data.test).log_posterior
    x, y = data.train.x.numpy(), data.train.y.numpy()
    for name, make in OTHERS.items():
        probability = make().fit(x, y).predict_proba(data.test.x.numpy())
        yield name, torch.from_numpy(probability).clamp_min(1e-300).log()


def ece_of_few(log_posterior: Tensor, y: Tensor, count: int = 500) -> float:
    """Return the mean 15-bin ECE of blocks of so many rows: what a small test set would say."""
    blocks = zip(log_posterior.split(count), y.split(count), strict=True)
    return float(np.mean([expected_calibration_error(*block) for block in blocks]))


def main() -> None:
    """Judge all classifiers in each world; print and record a row each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", default=",".join(TABLES))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--out", type=Path, default=recorded("known-world.csv"))
    given = parser.parse_args()
    for seed in map(int, given.seeds.split(",")):
        for table in given.tables.split(","):
            world = make_world(table, seed)
            data = world.dataset(TRAINED, JUDGED, seed)
            for name, log_posterior in predictions(data, seed):
                found = world.judge(log_posterior, data.test.x, data.test.y)
                row = {"world": table, "seed": seed, "system": name, **asdict(found)}
                row["ece_of_500"] = ece_of_few(log_posterior, data.test.y)
                print({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()})
                append_rows(given.out, [row])


if __name__ == "__main__":
    main()
