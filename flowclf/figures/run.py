"""The figures that every run gets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from flowclf.classifier import GenerativeClassifier
from flowclf.data import Dataset, Split
from flowclf.figures.images import sample_figure
from flowclf.figures.latent import latent_figure
from flowclf.figures.style import save_figure
from flowclf.latent.gaussian import Around
from flowclf.support.errors import UserError
from flowclf.support.seeding import generator_for

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["class_samples", "interpolation_strips", "run_figures"]

PER_CLASS = 10
TEMPERATURE = 0.7
MOST_POINTS = 2000


def run_figures(
    model: GenerativeClassifier, test: Split, dataset: Dataset, folder: Path
) -> list[Path]:
    """Write latent.png and, of systems that can draw images, samples.png; their paths."""
    paths = [folder / "latent.png"]
    save_figure(_latent(model, test, dataset), paths[0])
    if dataset.levels and model.can_sample:
        images = class_samples(model, PER_CLASS, TEMPERATURE, seed=0)
        paths.insert(0, folder / "samples.png")
        save_figure(sample_figure(images, dataset.class_names, dataset.levels), paths[0])
    return paths


def class_samples(
    model: GenerativeClassifier,
    per_class: int,
    temperature: float,
    seed: int,
    around: Around = "data",
) -> torch.Tensor:
    """(K, per_class, *shape): draws of every class."""
    device = model.mixture.device
    y = torch.arange(model.classes, device=device).repeat_interleave(per_class)
    generator = generator_for(seed, "sample", device=device)
    samples = model.sample(y, temperature, generator, around)
    return samples.unflatten(0, (model.classes, per_class))


@torch.no_grad()
def _latent(model: GenerativeClassifier, test: Split, dataset: Dataset) -> Figure:
    device = model.mixture.device
    mixture, y = model.mixture, test.y[:MOST_POINTS]
    z = mixture.embed(model.encode(test.x[:MOST_POINTS].to(device)).z).cpu()
    means, std = mixture.embed(mixture.centres()).cpu(), mixture.std().cpu()
    return latent_figure(z, y, means, std, dataset.class_names)


def interpolation_strips(
    model: GenerativeClassifier, test: Split, pairs: int, steps: int, seed: int
) -> torch.Tensor:
    """(pairs, steps, *shape): lines between randomly chosen test samples of different classes.

    Raises:
        UserError: fewer test samples than two a pair.
    """
    if len(test) < 2 * pairs:
        raise UserError(f"expected at most {len(test) // 2} pairs of test samples, got {pairs}")
    first, second = _pairs(test.y, pairs, generator_for(seed, "interpolate"))
    device = model.mixture.device
    x0, x1 = (test.x[rows].to(device) for rows in (first, second))
    return model.interpolate(x0, x1, steps).transpose(0, 1)


def _pairs(
    y: torch.Tensor, pairs: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Two tensors of row numbers, each row once, of different classes wherever that is possible."""
    first, *rest = torch.randperm(len(y), generator=generator).split([pairs, len(y) - pairs])
    free = rest[0].tolist()
    second = []
    for row in first.tolist():
        other = next((r for r in free if y[r] != y[row]), free[0])
        free.remove(other)
        second.append(other)
    return first, torch.tensor(second)
