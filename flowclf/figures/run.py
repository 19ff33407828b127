"""Figures that every run gets."""

from collections.abc import Sequence
from pathlib import Path

import torch

from flowclf.classifier import GenerativeClassifier
from flowclf.data import Dataset, Split
from flowclf.figures.images import sample_figure
from flowclf.figures.latent import embedded_latents, latent_figure
from flowclf.figures.style import Figure, save_figures
from flowclf.latent.gaussian import Around
from flowclf.support.seeding import generator_for

__all__ = ["class_samples", "draw_latents", "draw_samples", "run_figures"]

PER_CLASS = 10
TEMPERATURE = 0.7


def run_figures(
    model: GenerativeClassifier, test: Split, dataset: Dataset, folder: Path
) -> list[Path]:
    """Write latent.png and, of systems that can draw images, samples.png; return their paths."""
    names = dataset.class_names
    figures = {"latent": draw_latents(model, test, names)}
    if dataset.levels and model.can_sample:
        figures = {"samples": draw_samples(model, names, dataset.levels)} | figures
    return save_figures(figures, folder)


def draw_samples(model: GenerativeClassifier, class_names: Sequence[str], levels: int) -> Figure:
    """Draw samples of every class, the same ones each time."""
    drawn = class_samples(model, PER_CLASS, TEMPERATURE, seed=0)
    return sample_figure(drawn, class_names, levels, TEMPERATURE)


def draw_latents(model: GenerativeClassifier, test: Split, class_names: Sequence[str]) -> Figure:
    """Draw latents of the test split in the plane of the class means."""
    found = embedded_latents(model, test)
    return latent_figure(found.z, found.y, found.means, found.std, class_names)


def class_samples(
    model: GenerativeClassifier,
    per_class: int,
    temperature: float,
    seed: int,
    around: Around = "data",
) -> torch.Tensor:
    """Draw samples of every class, (K, per_class, *shape)."""
    device = model.mixture.device
    y = torch.arange(model.classes, device=device).repeat_interleave(per_class)
    generator = generator_for(seed, "sample", device=device)
    samples = model.sample(y, temperature, generator, around)
    return samples.unflatten(0, (model.classes, per_class))
