"""The latent space in two dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from flowclf.figures.style import class_colors, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["latent_figure", "plane_of_means"]


def plane_of_means(means: Tensor) -> tuple[Tensor, Tensor]:
    """Centre (D,) and orthonormal basis (2, D) of the plane the means (K, D) spread in most."""
    centre = means.mean(0)
    _, _, basis = torch.linalg.svd(means - centre, full_matrices=False)
    # A single latent dimension spans no plane: its second direction is nothing.
    rows = min(2, len(basis))
    return centre, torch.nn.functional.pad(basis[:rows], (0, 0, 0, 2 - rows))


def latent_figure(z: Tensor, y: Tensor, means: Tensor, class_names: Sequence[str]) -> Figure:
    """Latents z (N, D) with labels y (N,), projected on the plane of the class means (K, D).

    A cross is a class mean, with a circle of radius 2 around it, where 86 % of a unit Gaussian's
    projection lies; the name stands at the average of the class's latents. The more the decision
    weighed, the further out these lie. IB-INN (Ardizzone et al. 2020), Figure 7.
    """
    centre, basis = plane_of_means(means)
    points, centres = ((v - centre) @ basis.T for v in (z, means))
    figure = new_figure(5.6, 4.6)
    axes = figure.add_subplot()
    for k, color in enumerate(class_colors(len(class_names))):
        own = points[y == k]
        axes.scatter(own[:, 0], own[:, 1], s=7, color=color, alpha=0.5, linewidths=0)
        _mark_mean(axes, centres[k], color)
        _write_name(axes, own.mean(0) if len(own) else centres[k], class_names[k], color)
    axes.set_aspect("equal")
    axes.set_xlabel("first direction of the class means")
    axes.set_ylabel("second direction")
    axes.set_title("test set in the plane of the class means", fontsize=9)
    return figure


def _mark_mean(axes: Axes, mean: Tensor, color: str) -> None:
    from matplotlib.patches import Circle

    x, y = mean.tolist()
    axes.scatter(x, y, marker="X", s=60, color=color, edgecolors="white", zorder=3)
    axes.add_patch(Circle((x, y), 2.0, fill=False, color=color, linewidth=0.7, alpha=0.6))


def _write_name(axes: Axes, place: Tensor, name: str, color: str) -> None:
    x, y = place.tolist()
    box = {"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": color, "alpha": 0.9}
    axes.annotate(name, (x, y), ha="center", va="center", fontsize=8, bbox=box, zorder=4)
