"""The latent space in two dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from flowclf.figures.style import class_colors, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.patches import Circle

__all__ = ["latent_figure", "plane_of_means"]


def plane_of_means(means: Tensor) -> tuple[Tensor, Tensor]:
    """Centre (D,) and orthonormal basis (2, D) of the plane the means (K, D) spread in most."""
    centre = means.mean(0)
    _, _, basis = torch.linalg.svd(means - centre, full_matrices=False)
    return centre, basis[:2]


def latent_figure(z: Tensor, y: Tensor, means: Tensor, class_names: Sequence[str]) -> Figure:
    """Latents z (N, D) with labels y (N,), projected on the plane of the class means (K, D).

    The circle around each mean has radius 2, where 86 % of a unit Gaussian's projection lies.
    IB-INN (Ardizzone et al. 2020), Figure 7.
    """
    centre, basis = plane_of_means(means)
    points, centres = ((v - centre) @ basis.T for v in (z, means))
    figure = new_figure(5.6, 4.6)
    axes = figure.add_subplot()
    for k, color in enumerate(class_colors(len(class_names))):
        own = points[y == k]
        axes.scatter(own[:, 0], own[:, 1], s=7, color=color, alpha=0.6, linewidths=0)
        axes.add_patch(_circle(centres[k], color))
        x, y_ = centres[k].tolist()
        axes.scatter(x, y_, marker="X", s=60, color=color, edgecolors="white", zorder=3)
        axes.annotate(class_names[k], (x, y_), xytext=(5, 5), textcoords="offset points")
    axes.set_aspect("equal")
    axes.set_xlabel("first direction of the class means")
    axes.set_ylabel("second direction")
    axes.set_title("test set in the plane of the class means", fontsize=9)
    return figure


def _circle(centre: Tensor, color: str) -> Circle:
    from matplotlib.patches import Circle

    return Circle(tuple(centre.tolist()), 2.0, fill=False, color=color, linewidth=1)
