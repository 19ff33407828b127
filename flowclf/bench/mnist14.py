"""Small MNIST on a small budget: the task on which peers were measured too.

14x14 (2x2 means rounded down to 256 levels), the first 10,000 training and the first 2,000 test
images, 75 CPU-seconds of training on one thread; accuracy, ECE (15 bins), and true bits/dim of the
marginal p(x).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flowclf.bench.results import append_rows
from flowclf.config import make_config
from flowclf.data import Dataset, Split, load_dataset
from flowclf.training import progress_bar, train

__all__ = ["COLUMNS", "run_bench", "small_mnist"]

COLUMNS = ("seed", "accuracy", "ECE", "bits/dim", "CPU-seconds")
TRAIN_SIZE, TEST_SIZE = 10_000, 2_000
RESULTS = "mnist14.csv"


def run_bench(seeds: Sequence[int]) -> list[dict[str, Any]]:
    """One row a seed, also appended to the recorded results."""
    dataset = small_mnist()
    rows = [_run(dataset, seed) for seed in seeds]
    append_rows(RESULTS, rows)
    return rows


def small_mnist() -> Dataset:
    """The data of the task."""
    full = load_dataset("mnist")
    return Dataset(
        "mnist14",
        _halved(full.train, TRAIN_SIZE),
        _halved(full.test, TEST_SIZE),
        full.class_names,
        full.levels,
    )


def _halved(split: Split, count: int) -> Split:
    return Split(_block_means(split.x[:count]), split.y[:count])


def _block_means(x: Tensor) -> Tensor:
    return torch.nn.functional.avg_pool2d(x.float(), 2).floor().to(torch.uint8)


def _run(dataset: Dataset, seed: int) -> dict[str, Any]:
    config = make_config("ib-inn", "mnist14", dataset.shape, preset="mnist14", seed=seed)
    with progress_bar(f"seed {seed}") as report:
        trained = train(config, dataset, report=report, device="cpu")
    test = trained.summary["test"]
    return {
        "seed": seed,
        **{name: test[name] for name in ("accuracy", "ece", "bits_per_dim")},
        "cpu_seconds": config.train.cpu_seconds,
        "seconds": trained.summary["seconds"],
        "parameters": trained.summary["parameters"],
    }
