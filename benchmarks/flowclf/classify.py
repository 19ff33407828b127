"""Whole classifiers on fixed tasks: accuracy, calibration and density at once, with baselines.

mnist14 is the task on which peers were measured too: 14x14 (2x2 means rounded down to 256 levels),
the first 10,000 training and the first 2,000 test images, 75 CPU-seconds of training on one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.flowclf.results import append_rows
from flowclf.config import make_config
from flowclf.data import Dataset, Split, load_dataset
from flowclf.evaluation.baselines import baseline_rows
from flowclf.training import Trained, progress_bar, train

__all__ = ["COLUMNS", "TASKS", "row_of", "run_bench", "small_mnist"]

COLUMNS = ("system", "seed", "accuracy", "ece", "bits_per_dim", "seconds", "parameters")
TRAIN_SIZE, TEST_SIZE = 10_000, 2_000


def run_bench(task: str, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """A row a seed and a row a baseline, also appended to the recorded results."""
    dataset = TASKS[task]()
    trained = [_train(dataset, task, seed) for seed in seeds]
    rows = [row_of(each.summary) for each in trained]
    for row in baseline_rows(trained[0].training, trained[0].test, dataset.levels):
        rows.append({name: row.get(name) for name in COLUMNS})
    append_rows(f"{task}.csv", rows)
    return rows


def row_of(summary: dict[str, Any]) -> dict[str, Any]:
    """What is recorded of a run's summary."""
    values = summary | summary["test"]
    return {name: values[name] for name in COLUMNS}


def small_mnist() -> Dataset:
    """The data of mnist14."""
    full = load_dataset("mnist")
    train, test = _halved(full.train, TRAIN_SIZE), _halved(full.test, TEST_SIZE)
    return Dataset("mnist14", train, test, full.class_names, full.levels)


TASKS: dict[str, Callable[[], Dataset]] = {
    "mnist14": small_mnist,
    "digits": partial(load_dataset, "digits"),
    "mnist": partial(load_dataset, "mnist"),
}


def _halved(split: Split, count: int) -> Split:
    return Split(_block_means(split.x[:count]), split.y[:count])


def _block_means(x: Tensor) -> Tensor:
    return torch.nn.functional.avg_pool2d(x.float(), 2).floor().to(torch.uint8)


def _train(dataset: Dataset, preset: str, seed: int) -> Trained:
    config = make_config("ib-inn", dataset.name, dataset.shape, preset=preset, seed=seed)
    with progress_bar(f"seed {seed}") as report:
        return train(config, dataset, report=report, device="cpu")
