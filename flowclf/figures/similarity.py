"""Similarity of the classes: distances of their means in latent space."""

from collections.abc import Sequence

import torch
from torch import Tensor

from flowclf.evaluation.clustering import class_distances
from flowclf.figures.style import Figure, new_figure

__all__ = ["similarity_figure"]

# Beyond so many classes numbers would not be read.
MOST_NUMBERS = 12


def similarity_figure(means: Tensor, std: Tensor, class_names: Sequence[str]) -> Figure:
    """Draw the distances of class means (K, D) in standard deviations (K, D) as a matrix.

    The nearer two means, the more similar the classes are to the model. IB-INN (Ardizzone et al.
    2020), Figure 10, finds cats by dogs and cars by trucks.
    """
    distances = class_distances(means, std)
    classes = len(distances)
    figure = new_figure(5.6, 4.8)
    axes = figure.add_subplot()
    apart = distances.masked_fill(torch.eye(classes, dtype=torch.bool), torch.nan)
    image = axes.imshow(apart.numpy(), cmap="viridis_r")
    ticks = range(classes)
    axes.set_xticks(ticks, class_names, rotation=45, ha="right", fontsize=8)
    axes.set_yticks(ticks, class_names, fontsize=8)
    middle = float(distances.max() + distances[distances > 0].min()) / 2 if classes > 1 else 0.0
    for i in ticks if classes <= MOST_NUMBERS else ():
        for j in ticks:
            if i != j:
                value = float(distances[i, j])
                color = "white" if value > middle else "black"
                axes.text(j, i, f"{value:.1f}", ha="center", va="center", fontsize=7, color=color)
    figure.colorbar(image, ax=axes, label="distance of the means, standard deviations")
    return figure
