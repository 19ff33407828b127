"""The cost of a training step of one system beside that of another: time, and memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import Clock, peak_bytes
from benchmarks.results import append_rows
from couplings.core import Shape
from flowclf.classifier import GenerativeClassifier
from flowclf.models import build
from flowclf.settings import TrainSettings
from flowclf.support.seeding import generator_for
from flowclf.training.optimizer import make_optimizer


@dataclass(frozen=True)
class Cost:
    """Steps to compare.

    Attributes:
        name: of the CSV.
        shape, classes, batch: of what they learn from.
        settings: of all.
        cases: name to system and its own settings; ratios are to the first.
        samples: of the training set.
    """

    name: str
    shape: Shape
    classes: int
    batch: int
    settings: dict[str, Any]
    cases: dict[str, tuple[str, dict[str, Any]]]
    samples: int | None = None

    def model(self, case: str) -> GenerativeClassifier:
        """Build the untrained model of a case, in training mode."""
        system, own = self.cases[case]
        options = {**self.settings, **own, "samples": self.samples}
        return build(system, shape=self.shape, classes=self.classes, **options).train()


COSTS = {
    "vc-cost": Cost(
        "vc-cost",
        shape=(3, 32, 32),
        classes=100,
        batch=32,
        settings={"network": {"kind": "resnet", "depth": 18}},
        cases={
            "ce": ("ce", {}),
            "gm": ("gm", {}),
            "vc, affine": ("vc", {}),
            "vc, quadratic": ("vc", {"discriminator": {"kind": "quadratic"}}),
            "vc, mlp": ("vc", {"discriminator": {"kind": "mlp"}}),
        },
    ),
    "vae-as-cost": Cost(
        "vae-as-cost",
        shape=(1, 28, 28),
        classes=10,
        batch=128,
        settings={
            "network": {"kind": "mlp", "hidden": [500, 500]},
            "decoder": {"kind": "mlp", "hidden": [500] * 5},
            "latent": 40,
        },
        cases={
            "vae": ("vae", {}),
            "4 tags of 16": ("vae-as", {"identity": {"tags": 4, "values": 16}}),
            "4 tags of 16, (1, 0.5)": (
                "vae-as",
                {"identity": {"tags": 4, "values": 16}, "objective": {"md": 0.5}},
            ),
            "55,000-way": ("vae-as", {}),
        },
        samples=55_000,
    ),
}


def tiny(cost: Cost) -> Cost:
    """Return the same comparison with batches of 4."""
    return replace(cost, batch=4)


def run_cost(
    cost: Cost, record: Path | None = None, repeats: int = 15, device: str = "cpu"
) -> list[dict[str, Any]]:
    """Return median milliseconds of a step of each, taken in turn, and the ratio to the first's.

    `megabytes` is the peak of loss and backward above the parameters; of these
    `gradient_megabytes` are what the parameters' gradients take in the end.
    """
    place = torch.device(device)
    generator = generator_for(0, "cost")
    x = torch.randint(256, (cost.batch, *cost.shape), generator=generator, dtype=torch.uint8)
    y = torch.randint(cost.classes, (cost.batch,), generator=generator)
    index = torch.randint(cost.samples or 1, (cost.batch,), generator=generator)
    noise = generator if device == "cpu" else generator_for(0, "cost", device=place)
    batch = x.to(place), y.to(place), noise, index.to(place)
    models = {case: cost.model(case).to(place) for case in cost.cases}
    optimizers = {case: make_optimizer(m, TrainSettings()) for case, m in models.items()}
    times: dict[str, list[float]] = {case: [] for case in models}
    for repeat in range(repeats + 1):
        for case, model in models.items():
            with Clock(place) as clock:
                _backward(model, *batch)
                optimizers[case].step()
            if repeat:  # the first is to warm up
                times[case].append(1000 * clock.seconds)
    first = next(iter(times.values()))
    rows = []
    for case, values in times.items():
        models[case].zero_grad()
        peak = peak_bytes(partial(_backward, models[case], *batch), place)
        gradients = [p.grad.nbytes for p in models[case].parameters() if p.grad is not None]
        row = {
            "system": case,
            "milliseconds": median(values),
            "ratio": median(value / base for value, base in zip(values, first, strict=True)),
            "megabytes": peak / 2**20,
            "gradient_megabytes": sum(gradients) / 2**20,
            "threads": torch.get_num_threads(),
            "batch": cost.batch,
            "repeats": repeats,
        }
        rows.append(row)
    append_rows(record, rows)
    return rows


def _backward(
    model: GenerativeClassifier, x: Tensor, y: Tensor, generator: torch.Generator, index: Tensor
) -> None:
    """Compute the loss and its gradients; those of the step before are gone before it."""
    model.zero_grad()
    model.loss(x, y, generator, index)["total"].backward()
