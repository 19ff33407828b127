"""Error of an inverse before and after training.

    python -m benchmarks.flowclf.trained_exactness [SYSTEM/PRESET[:"KEY=VALUE …"] …]

Every preset of the systems with an inverse takes 500 steps at its own learning rate, held constant
(no warm-up, no decay: harder than its own schedule). A row has the errors of 256 test samples, see
`flowclf.evaluation.exactness`, of the untrained model and of the trained one. To save time batches
are of 32 at most, of the paper's networks of 16, which is harder, too; paper-cifar100 differs from
paper-cifar10 in nothing but its data. Rows go to results/exactness.csv.
"""

import sys
from collections.abc import Callable
from functools import partial
from math import ceil
from typing import Any

import torch
from sklearn.datasets import load_breast_cancer

from benchmarks.flowclf.classify import small_mnist
from benchmarks.results import append_rows, recorded
from flowclf.config import RunConfig, make_config, parse_assignments
from flowclf.data import Dataset, Split, load_dataset
from flowclf.evaluation import Subject, evaluate_subject
from flowclf.training import train
from flowclf.training.setup import fresh_model

STEPS, MOST_STEPS_AN_EPOCH = 500, 100
SYSTEMS = ("ib-inn", "class-nll", "i-revnet")
MOST_BATCH, MOST_BATCH_PAPER = 32, 16


def table() -> Dataset:
    """Load 569 tumours by 30 features, two classes."""
    x, y = (torch.from_numpy(values) for values in load_breast_cancer(return_X_y=True))
    train, test = (Split(x.float()[rows], y[rows]) for rows in (slice(400), slice(400, None)))
    return Dataset("breast-cancer", train, test, ("malignant", "benign"), None)


# Preset to its data: one that the package knows, or a function that loads them.
DATA: dict[str, str | Callable[[], Dataset]] = {
    "mlp": table, "digits": "digits", "image": "fashion-mnist", "mnist": "mnist",
    "mnist14": small_mnist, "paper-mnist": "mnist", "paper-cifar10": "cifar10",
}  # fmt: skip


def measure_preset(
    system: str, preset: str, setting: str = "", steps: int = STEPS
) -> dict[str, Any]:
    """Train one preset, with settings KEY=VALUE changed, and return its row."""
    data = DATA[preset]
    dataset = load_dataset(data) if isinstance(data, str) else data()
    config = _config(system, preset, setting, dataset, steps)
    settings = config.train
    untrained = fresh_model(config, dataset, dataset.train)
    before = evaluate_subject(Subject(untrained, dataset.test), ["exactness"])
    trained = train(config, dataset, device="cpu")
    after = evaluate_subject(Subject(trained.model, dataset.test), ["exactness"])
    batch, seconds = settings.batch_size, round(trained.summary["seconds"], 1)
    steps = settings.epochs * (len(trained.training) // batch)
    names = {"system": system, "preset": preset, "setting": setting, "data": dataset.name}
    facts = {"steps": steps, "batch": batch, "optimizer": settings.optimizer, "lr": settings.lr}
    earlier = {f"{name}_before": value for name, value in before.items()}
    row = {**names, **facts, **earlier, **after, "seconds": seconds}
    return row | {"precision": trained.precision}


def _config(system: str, preset: str, setting: str, dataset: Dataset, steps: int) -> RunConfig:
    make = partial(make_config, system, dataset.name, dataset.shape, preset=preset)
    most = MOST_BATCH_PAPER if preset.startswith("paper") else MOST_BATCH
    batch = min(most, make().train.batch_size)
    size = min(MOST_STEPS_AN_EPOCH, len(dataset.train) // batch) * batch
    loop = {"batch_size": batch, "epochs": ceil(steps / (size // batch)), "schedule": "constant"}
    loop |= {"cpu_seconds": None, "threads": 1}
    changed = parse_assignments(setting.split())
    sizes = {"train_size": size, "test_size": 256}
    return make(overrides=[{"train": loop, "data": sizes}, changed])


if __name__ == "__main__":
    every = [f"{system}/{preset}" for preset in DATA for system in SYSTEMS]
    for name in sys.argv[1:] or every:
        preset, _, setting = name.partition(":")
        system, preset = preset.split("/")
        row = measure_preset(system, preset, setting)
        append_rows(recorded("exactness.csv"), [row])
        names = "inverse_error_before", "inverse_error", "log_det_error"
        before, after, log_det = (f"{row[key]:.1e}" for key in names)
        print(f"{name:24} inverse error {before} -> {after}, log_det error {log_det}", flush=True)
