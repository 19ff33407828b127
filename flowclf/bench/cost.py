"""What a step of GM and VC costs beside one of CE: ResNet-18, 100 classes, CIFAR images."""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import torch

from flowclf.bench.results import append_rows
from flowclf.classifier import GenerativeClassifier
from flowclf.models import build
from flowclf.seeding import generator_for
from flowclf.settings import TrainSettings
from flowclf.training.optimizer import make_optimizer

__all__ = ["COST_COLUMNS", "run_cost"]

COST_COLUMNS = ("system", "milliseconds", "ratio", "threads", "batch", "repeats")
CLASSES, SHAPE = 100, (3, 32, 32)
# Name to system and kind of discriminators.
CASES = {
    "ce": ("ce", "affine"),
    "gm": ("gm", "affine"),
    "vc, affine": ("vc", "affine"),
    "vc, quadratic": ("vc", "quadratic"),
    "vc, mlp": ("vc", "mlp"),
}


def run_cost(repeats: int = 15, batch: int = 32, depth: int = 18) -> list[dict[str, Any]]:
    """Median milliseconds of a step of each, taken in turn, and the ratio to CE's; recorded."""
    generator = generator_for(0, "cost")
    x = torch.randint(256, (batch, *SHAPE), generator=generator, dtype=torch.uint8)
    y = torch.randint(CLASSES, (batch,), generator=generator)
    models = {name: _model(system, depth, kind) for name, (system, kind) in CASES.items()}
    optimizers = {name: make_optimizer(m, TrainSettings()) for name, m in models.items()}
    times: dict[str, list[float]] = {name: [] for name in models}
    for repeat in range(repeats + 1):
        for name, model in models.items():
            seconds = _step(model, optimizers[name], x, y, generator)
            if repeat:  # the first is to warm up
                times[name].append(1000 * seconds)
    rows = [
        {
            "system": name,
            "milliseconds": median(values),
            "ratio": median(v / ce for v, ce in zip(values, times["ce"], strict=True)),
            "threads": torch.get_num_threads(),
            "batch": batch,
            "repeats": repeats,
        }
        for name, values in times.items()
    ]
    append_rows("vc-cost.csv", rows)
    return rows


def _model(system: str, depth: int, kind: str) -> GenerativeClassifier:
    network = {"kind": "resnet", "depth": depth}
    settings: dict[str, Any] = {"network": network, "discriminator": {"kind": kind}}
    return build(system, shape=SHAPE, classes=CLASSES, **settings).train()


def _step(
    model: GenerativeClassifier,
    optimizer: torch.optim.Optimizer,
    x: torch.Tensor,
    y: torch.Tensor,
    generator: torch.Generator,
) -> float:
    start = time.perf_counter()
    optimizer.zero_grad()
    model.loss(x, y, generator)["total"].backward()
    optimizer.step()
    return time.perf_counter() - start
