"""What a training step of one system costs beside one of another: time, and memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch

from benchmarks.couplings.measure import cpu_peak_bytes
from benchmarks.flowclf.results import append_rows
from couplings.core import Shape
from flowclf.classifier import GenerativeClassifier
from flowclf.models import build
from flowclf.settings import TrainSettings
from flowclf.support.seeding import generator_for
from flowclf.training.optimizer import make_optimizer

__all__ = ["COSTS", "COST_COLUMNS", "Cost", "peak_bytes", "run_cost"]

COST_COLUMNS = (
    "system", "milliseconds", "ratio", "megabytes", "gradient_megabytes", "threads", "batch",
    "repeats",
)  # fmt: skip


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
        """The untrained model of a case, in training mode."""
        system, own = self.cases[case]
        options = {**self.settings, **own}
        model = build(
            system, shape=self.shape, classes=self.classes, samples=self.samples, **options
        )
        return model.train()


VC_COST = Cost(
    "vc-cost",
    (3, 32, 32),
    100,
    32,
    {"network": {"kind": "resnet", "depth": 18}},
    {
        "ce": ("ce", {}),
        "gm": ("gm", {}),
        "vc, affine": ("vc", {}),
        "vc, quadratic": ("vc", {"discriminator": {"kind": "quadratic"}}),
        "vc, mlp": ("vc", {"discriminator": {"kind": "mlp"}}),
    },
)
IDENTITY_COST = Cost(
    "vae-as-cost",
    (1, 28, 28),
    10,
    128,
    {
        "network": {"kind": "mlp", "hidden": [500, 500]},
        "decoder": {"kind": "mlp", "hidden": [500] * 5},
        "latent": 40,
    },
    {
        "vae": ("vae", {}),
        "4 tags of 16": ("vae-as", {"identity": {"tags": 4, "values": 16}}),
        "4 tags of 16, (1, 0.5)": (
            "vae-as",
            {"identity": {"tags": 4, "values": 16}, "objective": {"md": 0.5}},
        ),
        "55,000-way": ("vae-as", {}),
    },
    samples=55_000,
)
COSTS = {cost.name: cost for cost in (VC_COST, IDENTITY_COST)}


def run_cost(cost: Cost, repeats: int = 15) -> list[dict[str, Any]]:
    """Median milliseconds of a step of each, taken in turn, and the ratio to the first's; recorded.

    `megabytes` is the peak of loss and backward above the parameters, on the CPU; of these
    `gradient_megabytes` are what the parameters' gradients take in the end.
    """
    generator = generator_for(0, "cost")
    x = torch.randint(256, (cost.batch, *cost.shape), generator=generator, dtype=torch.uint8)
    y = torch.randint(cost.classes, (cost.batch,), generator=generator)
    index = torch.randint(cost.samples or 1, (cost.batch,), generator=generator)
    models = {case: cost.model(case) for case in cost.cases}
    steps = {
        case: partial(_backward, model, x, y, generator, index) for case, model in models.items()
    }
    optimizers = {case: make_optimizer(m, TrainSettings()) for case, m in models.items()}
    times: dict[str, list[float]] = {case: [] for case in models}
    for repeat in range(repeats + 1):
        for case, step in steps.items():
            start = time.perf_counter()
            step()
            optimizers[case].step()
            if repeat:  # the first is to warm up
                times[case].append(1000 * (time.perf_counter() - start))
    first = next(iter(times.values()))
    rows = [
        {
            "system": case,
            "milliseconds": median(values),
            "ratio": median(value / base for value, base in zip(values, first, strict=True)),
            "megabytes": peak_bytes(models[case], steps[case]) / 2**20,
            "gradient_megabytes": _gradient_bytes(models[case]) / 2**20,
            "threads": torch.get_num_threads(),
            "batch": cost.batch,
            "repeats": repeats,
        }
        for case, values in times.items()
    ]
    append_rows(f"{cost.name}.csv", rows)
    return rows


def _backward(
    model: GenerativeClassifier,
    x: torch.Tensor,
    y: torch.Tensor,
    generator: torch.Generator,
    index: torch.Tensor,
) -> None:
    """Loss and backward; gradients of the step before are gone before it."""
    model.zero_grad()
    model.loss(x, y, generator, index)["total"].backward()


def _gradient_bytes(model: GenerativeClassifier) -> int:
    return sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)


def peak_bytes(model: GenerativeClassifier, step: Callable[[], None]) -> int:
    """Of live tensors on the CPU, above those before the step, when the model has no gradients."""
    model.zero_grad()
    return cpu_peak_bytes(step)
