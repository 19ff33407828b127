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

__all__ = ["latent_figure", "latent_panels", "plane_of_means", "write_name"]


def plane_of_means(means: Tensor) -> tuple[Tensor, Tensor]:
    """Centre (D,) and orthonormal basis (2, D) of the plane the means (K, D) spread in most."""
    centre = means.mean(0)
    _, _, basis = torch.linalg.svd(means - centre, full_matrices=False)
    # A single latent dimension spans no plane: its second direction is nothing.
    rows = min(2, len(basis))
    return centre, torch.nn.functional.pad(basis[:rows], (0, 0, 0, 2 - rows))


def latent_figure(
    z: Tensor, y: Tensor, means: Tensor, std: Tensor, class_names: Sequence[str]
) -> Figure:
    """Latents z (N, D) with labels y (N,), projected on the plane of the class means (K, D).

    A cross is a class mean, with an ellipse around it of two standard deviations (K, D), where 86 %
    of the Gaussian's projection lies; the name stands at the average of the class's latents. The
    more the decision weighed, the further out these lie. IB-INN (Ardizzone et al. 2020), Figure 7.
    """
    figure = new_figure(5.6, 4.6)
    axes = figure.add_subplot()
    _draw_classes(axes, z, y, means, std, class_names)
    axes.set_xlabel("first direction of the class means")
    axes.set_ylabel("second direction")
    axes.set_title("test set in the plane of the class means", fontsize=9)
    return figure


def latent_panels(
    panels: Sequence[tuple[str, Tensor, Tensor, Tensor, Tensor]], class_names: Sequence[str]
) -> Figure:
    """Several systems side by side, each as (title, z, y, means, std) of `latent_figure`.

    Dhuliawala et al. 2023, Figure 1: do the latents fill the Gaussians that stand for them?
    """
    figure = new_figure(3.4 * len(panels), 3.5)
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, z, y, means, std) in zip(grid, panels, strict=True):
        _draw_classes(axes, z, y, means, std, class_names)
        axes.set_title(title, fontsize=9)
    return figure


def _draw_classes(
    axes: Axes, z: Tensor, y: Tensor, means: Tensor, std: Tensor, class_names: Sequence[str]
) -> None:
    centre, basis = plane_of_means(means)
    points, centres = ((v - centre) @ basis.T for v in (z, means))
    for k, color in enumerate(class_colors(len(class_names))):
        own = points[y == k]
        axes.scatter(own[:, 0], own[:, 1], s=7, color=color, alpha=0.5, linewidths=0)
        _mark_mean(axes, centres[k], (basis * std[k].square()) @ basis.T, color)
        write_name(axes, own.mean(0) if len(own) else centres[k], class_names[k], color)
    axes.set_aspect("equal")


def _mark_mean(axes: Axes, mean: Tensor, covariance: Tensor, color: str) -> None:
    """A cross, and the ellipse of two standard deviations of a covariance (2, 2)."""
    from matplotlib.patches import Ellipse

    variances, directions = torch.linalg.eigh(covariance)
    width, height = (4 * variances.clamp_min(0).sqrt()).tolist()
    angle = float(torch.atan2(directions[1, 0], directions[0, 0]).rad2deg())
    x, y = mean.tolist()
    axes.scatter(x, y, marker="X", s=60, color=color, edgecolors="white", zorder=3)
    style = {"fill": False, "color": color, "linewidth": 0.9, "alpha": 0.8}
    axes.add_patch(Ellipse((x, y), width, height, angle=angle, **style))


def write_name(axes: Axes, place: Tensor, name: str, color: str) -> None:
    """A name in a box of its class's colour, centred at a place (2,)."""
    x, y = place.tolist()
    box = {"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": color, "alpha": 0.9}
    axes.annotate(name, (x, y), ha="center", va="center", fontsize=8, bbox=box, zorder=4)
