"""The figures that every run gets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from flowclf.classifier import GenerativeClassifier
from flowclf.data import Dataset, Split
from flowclf.errors import UserError
from flowclf.figures.images import sample_figure
from flowclf.figures.latent import latent_figure
from flowclf.figures.style import save_figure
from flowclf.seeding import generator_for

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["class_samples", "interpolation_strips", "run_figures"]

PER_CLASS = 10
TEMPERATURE = 0.7
MOST_POINTS = 2000


def run_figures(
    model: GenerativeClassifier, test: Split, dataset: Dataset, folder: Path
) -> list[Path]:
    """Write samples.png (images only) and latent.png; their paths."""
    paths = [folder / "latent.png"]
    save_figure(_latent(model, test, dataset), paths[0])
    if dataset.levels:
        images = class_samples(model, PER_CLASS, TEMPERATURE, seed=0)
        paths.insert(0, folder / "samples.png")
        save_figure(sample_figure(images, dataset.class_names, dataset.levels), paths[0])
    return paths


def class_samples(
    model: GenerativeClassifier, per_class: int, temperature: float, seed: int
) -> torch.Tensor:
    """(K, per_class, *shape): draws of every class."""
    device = model.mixture.means.device
    y = torch.arange(model.classes, device=device).repeat_interleave(per_class)
    samples = model.sample(y, temperature, generator_for(seed, "sample", device=device))
    return samples.unflatten(0, (model.classes, per_class))


@torch.no_grad()
def _latent(model: GenerativeClassifier, test: Split, dataset: Dataset) -> Figure:
    device = model.mixture.means.device
    z = model.encode(test.x[:MOST_POINTS].to(device)).z.cpu()
    return latent_figure(z, test.y[:MOST_POINTS], model.mixture.means.cpu(), dataset.class_names)


def interpolation_strips(
    model: GenerativeClassifier, test: Split, pairs: int, steps: int, seed: int
) -> torch.Tensor:
    """(pairs, steps, *shape): lines between randomly chosen test samples of different classes.

    Raises:
        UserError: fewer test samples than two a pair.
    """
    if len(test) < 2 * pairs:
        raise UserError(f"expected at most {len(test) // 2} pairs of test samples, got {pairs}")
    order = torch.randperm(len(test), generator=generator_for(seed, "interpolate"))
    first = order[:pairs]
    # The nearest later sample of another class, so that something changes on the way.
    second = [next((j for j in order[pairs:] if test.y[j] != test.y[i]), order[-1]) for i in first]
    device = model.mixture.means.device
    x0, x1 = (test.x[rows].to(device) for rows in (first, torch.stack(second)))
    return model.interpolate(x0, x1, steps).transpose(0, 1)
