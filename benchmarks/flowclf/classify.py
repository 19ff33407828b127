"""Whole classifiers on fixed tasks: accuracy, calibration and density at once, with baselines.

mnist14 is the task on which peers were measured too: 14x14 (2x2 means rounded down to 256 levels),
the first 10,000 training and the first 2,000 test images, 75 CPU-seconds of training on one thread.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import avg_pool2d

from benchmarks.results import append_rows
from flowclf.config import RunConfig, make_config
from flowclf.data import Dataset, Split, load_dataset
from flowclf.evaluation.baselines import baseline_rows
from flowclf.training import progress_bar, train

COLUMNS = ("system", "seed", "accuracy", "ece", "bits_per_dim", "seconds", "parameters")


def run_bench(
    task: str,
    seeds: Sequence[int],
    record: Path | None = None,
    device: str = "cpu",
    quick: bool = False,
) -> list[dict[str, Any]]:
    """Return a row for each seed and each baseline."""
    dataset, rows = TASKS[task](), []
    for seed in seeds:
        config = make_config("ib-inn", dataset.name, dataset.shape, preset=task, seed=seed)
        config = tiny(config) if quick else config
        with progress_bar(f"seed {seed}") as report:
            trained = train(config, dataset, report=report, device=device)
        values = {**trained.summary, **trained.summary["test"], "precision": trained.precision}
        rows.append({name: values[name] for name in (*COLUMNS, "device", "precision")})
    for row in baseline_rows(trained.training, trained.test, dataset.levels):
        rows.append({name: row.get(name) for name in COLUMNS})
    append_rows(record, rows)
    return rows


def tiny(config: RunConfig) -> RunConfig:
    """Shorten a run to an epoch of at most 400 samples."""
    data, loop = config.data, {"epochs": 1, "least_updates": None, "threads": 1}
    few = {"train_size": min(data.train_size or 400, 400), "labels": data.labels and 100}
    data = data.model_copy(update={**few, "test_size": 100})
    return config.model_copy(update={"data": data, "train": config.train.model_copy(update=loop)})


def small_mnist() -> Dataset:
    """Load the data of mnist14."""
    full = load_dataset("mnist")
    train, test = (
        halved(Split(split.x[:count], split.y[:count]))
        for split, count in ((full.train, 10_000), (full.test, 2_000))
    )
    return Dataset("mnist14", train, test, full.class_names, full.levels)


def halved(split: Split) -> Split:
    """Return the images at half of their sides: 2x2 means, rounded down to grey levels."""
    return Split(avg_pool2d(split.x.float(), 2).floor().to(torch.uint8), split.y)


TASKS: dict[str, Callable[[], Dataset]] = {
    "mnist14": small_mnist,
    "digits": partial(load_dataset, "digits"),
    "mnist": partial(load_dataset, "mnist"),
}
