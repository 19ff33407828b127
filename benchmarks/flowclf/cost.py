"""The cost of a training step of one system beside that of another: time, and memory.

Each comparison is a YAML file in `costs/`.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
import yaml

from benchmarks.measure import peak_bytes, seconds_of
from benchmarks.results import append_rows
from flowclf.classifier import GenerativeClassifier
from flowclf.models import build
from flowclf.settings import TrainSettings
from flowclf.support.seeding import generator_for
from flowclf.training.setup import make_optimizer


@dataclass(frozen=True)
class Cost:
    """Steps to compare, by the shape, classes and batch that they learn from."""

    shape: tuple[int, ...]
    classes: int
    batch: int
    settings: dict[str, Any]  # of all
    cases: dict[str, dict[str, Any]]  # name to system and own settings; ratios are to the first
    samples: int | None = None  # of the training set

    def model(self, case: str) -> GenerativeClassifier:
        """Build the untrained model of a case, in training mode."""
        options = {**self.settings, **self.cases[case], "samples": self.samples}
        return build(shape=self.shape, classes=self.classes, **options).train()


FILES = sorted(Path(__file__).with_name("costs").glob("*.yaml"))
COSTS = {path.stem: Cost(**yaml.safe_load(path.read_text("utf-8"))) for path in FILES}


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
    for _ in range(repeats + 1):
        for case, model in models.items():
            step = partial(_step, optimizers[case], model, *batch)
            times[case].append(1000 * seconds_of(step, place))
    rows: list[dict[str, Any]] = []
    for case, model in models.items():
        _, *values = times[case]  # the first is to warm up
        _, *first = times[next(iter(times))]
        model.zero_grad()
        peak = peak_bytes(partial(_backward, model, *batch), place)
        gradients = sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
        ratio = median(value / base for value, base in zip(values, first, strict=True))
        row = {"system": case, "milliseconds": median(values), "ratio": ratio}
        row |= {"megabytes": peak / 2**20, "gradient_megabytes": gradients / 2**20}
        facts = {"threads": torch.get_num_threads(), "batch": cost.batch, "repeats": repeats}
        rows.append(row | facts)
    append_rows(record, rows)
    return rows


def _backward(model: GenerativeClassifier, *batch: Any) -> None:
    """Compute the loss and its gradients; those of the step before are gone before it."""
    model.zero_grad()
    model.loss(*batch)["total"].backward()


def _step(optimizer: torch.optim.Optimizer, model: GenerativeClassifier, *batch: Any) -> None:
    _backward(model, *batch)
    optimizer.step()
