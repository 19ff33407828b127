"""Latents in two dimensions: the plane of the class means, and principal components."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import degrees
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.patches import Ellipse
from torch import Tensor

from flowclf.classifier import GenerativeClassifier, latents
from flowclf.data import Split
from flowclf.figures.style import Figure, class_colors, new_figure, place_labels
from flowclf.support.errors import UserError

__all__ = [
    "Latents",
    "embedded_latents",
    "latent_figure",
    "latent_panels",
    "plane_of_means",
    "principal_figure",
    "principal_plane",
    "projected_ellipse",
    "scatter_classes",
]

MOST_POINTS = 2000
# Shares of a class's samples that its contours enclose.
SHARES = (0.5, 0.9)
GRID, LEAST_SAMPLES = 90, 5
GAUSSIANS = "×: mean of a class; ellipse: two standard deviations, which hold 86 % of its Gaussian"


@dataclass(frozen=True, eq=False)
class Latents:
    """Samples in latent space, and the mixture's classes."""

    z: Tensor  # latents (N, D), where the mixture's densities are defined
    y: Tensor  # labels (N,)
    means: Tensor  # of the mixture's classes, (K, D)
    std: Tensor  # likewise


@torch.no_grad()
def embedded_latents(model: GenerativeClassifier, split: Split, most: int = MOST_POINTS) -> Latents:
    """Encode the first labelled samples of a split without noise; the result is on the CPU."""
    split = split.labelled().take(slice(most))
    mixture = model.mixture
    z, means = mixture.embed(latents(model, split.x)), mixture.embed(mixture.centres())
    return Latents(z.cpu(), split.y, means.detach().cpu(), mixture.std().cpu())


def plane_of_means(means: Tensor) -> tuple[Tensor, Tensor]:
    """Return centre (D,) and orthonormal basis (2, D) of the principal plane of means (K, D)."""
    centre, _, basis = _singular(means)
    return centre, basis[:2]


def _singular(points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return centre (D,), singular values and right singular vectors, at least 2 (0 if missing)."""
    centre = points.mean(0)
    _, sizes, basis = torch.linalg.svd(points - centre, full_matrices=False)
    missing = max(0, 2 - len(basis))
    pad = torch.nn.functional.pad
    return centre, pad(sizes, (0, missing)), pad(basis, (0, 0, 0, missing))


def projected_ellipse(basis: Tensor, std: Tensor) -> Tensor:
    """Return two standard deviations (D,) of a Gaussian in the plane of a basis (2, D).

    They are the half width and half height of an ellipse, and its angle in radians: (3,), on the
    CPU.
    """
    variances, directions = torch.linalg.eigh(((basis * std.square()) @ basis.T).cpu())
    sizes = 2 * variances.clamp_min(0).sqrt()
    return torch.stack((*sizes, torch.atan2(directions[1, 0], directions[0, 0])))


def latent_figure(
    z: Tensor, y: Tensor, means: Tensor, std: Tensor, class_names: Sequence[str]
) -> Figure:
    """Project latents z (N, D) with labels y (N,) on the plane of the class means (K, D).

    A cross is a class mean, its name beside it, with an ellipse around it of two standard
    deviations (K, D), where 86 % of the Gaussian's projection lies. The larger the weight of the
    cross-entropy, the further from their cross the latents lie. IB-INN (Ardizzone et al. 2020),
    Figure 7.
    """
    figure = new_figure(5.6, 4.9)
    axes = figure.add_subplot()
    _draw_gaussians(axes, z, y, means, std, class_names)
    axes.set(xlabel="first direction of the class means, latent units", ylabel="second direction")
    axes.set_title(f"where the test set lies in latent space\n{GAUSSIANS}", fontsize=9)
    place_labels(figure)
    return figure


def latent_panels(
    panels: Sequence[tuple[str, Tensor, Tensor, Tensor, Tensor]], class_names: Sequence[str]
) -> Figure:
    """Draw several systems side by side, each as (title, z, y, means, std) of `latent_figure`.

    Dhuliawala et al. 2023, Figure 1: do the latents fill the Gaussians that stand for them?
    """
    figure = new_figure(3.4 * len(panels), 3.5)
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, z, y, means, std) in zip(grid, panels, strict=True):
        _draw_gaussians(axes, z, y, means, std, class_names)
        axes.set_title(title, fontsize=9)
    figure.suptitle(GAUSSIANS, fontsize=8)
    place_labels(figure)
    return figure


def _draw_gaussians(
    axes: Axes, z: Tensor, y: Tensor, means: Tensor, std: Tensor, class_names: Sequence[str]
) -> None:
    centre, basis = plane_of_means(means)
    points, centres = ((v - centre) @ basis.T for v in (z, means))
    for k, color in enumerate(class_colors(len(class_names))):
        own = points[y == k]
        axes.scatter(own[:, 0], own[:, 1], s=7, color=color, alpha=0.5, linewidths=0)
        # A cross, and the ellipse of two standard deviations.
        *half, radians = projected_ellipse(basis, std[k]).tolist()
        across, up = centres[k].tolist()
        axes.scatter(across, up, marker="X", s=60, color=color, edgecolors="white", zorder=3)
        style = {"fill": False, "color": color, "linewidth": 0.6, "alpha": 0.7}
        axes.add_patch(
            Ellipse((across, up), 2 * half[0], 2 * half[1], angle=degrees(radians), **style)
        )
        _write_name(axes, centres[k], class_names[k], color)
    axes.set_aspect("equal", adjustable="datalim")  # a single dimension has no height


def _write_name(axes: Axes, place: Tensor, name: str, color: str) -> None:
    """Write a name in a box of its class's colour, for `place_labels` to move beside (2,)."""
    box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": color, "alpha": 0.85}
    look: dict[str, Any] = {"fontsize": 7.5, "bbox": box, "zorder": 4}
    x, y = place.tolist()
    axes.annotate(name, (x, y), (0, 0), textcoords="offset points", **look)


def principal_plane(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return centre (D,), principal components (2, D), shares of the variance (2,), float64.

    The largest number of each component is positive, so that the same z gives the same picture. The
    second component of a single latent dimension is 0.

    Raises:
        UserError: fewer than two latents, or not (N, D).
    """
    if z.ndim != 2 or len(z) < 2:
        raise UserError(f"expected at least 2 latents (N, D), got shape {tuple(z.shape)}")
    centre, sizes, basis = _singular(z.double())
    shares = sizes.square() / sizes.square().sum().clamp_min(torch.finfo(sizes.dtype).tiny)
    signs = basis.gather(1, basis.abs().argmax(1, keepdim=True)).sign()
    return centre, basis[:2] * signs[:2], shares[:2]


def principal_figure(panels: Mapping[str, Latents], class_names: Sequence[str]) -> Figure:
    """Draw each system's latents by its name on their first two principal components.

    Contours hold 50 % and 90 % of a class's samples (highest density, by a Gaussian kernel); a
    cross is where the model has the class's mean, so that contours away from their cross are
    latents that do not fill their Gaussian. IB-INN (Ardizzone et al. 2020), Figure 7; Variational
    Classification (Dhuliawala et al. 2023), Figure 1.

    Raises:
        UserError: no system, or fewer than two latents.
    """
    if not panels:
        raise UserError("expected the latents of one system or more, got none")
    figure = new_figure(0.4 + 3.5 * len(panels), 3.7)
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (name, found) in zip(grid, panels.items(), strict=True):
        centre, basis, shares = principal_plane(found.z)
        points, means = ((v.double() - centre) @ basis.T for v in (found.z, found.means))
        _draw_densities(axes, points, found.y, means, class_names)
        axes.set_title(name, fontsize=9)
        first, second = (f"{100 * share:.0f} % of the variance" for share in shares.tolist())
        axes.set_xlabel(f"first component ({first})", fontsize=8)
        axes.set_ylabel(f"second component ({second})", fontsize=8)
        axes.tick_params(labelsize=7)
    figure.supxlabel("contours hold 50 % and 90 % of a class; a cross is its mean", fontsize=8)
    place_labels(figure)
    return figure


def _draw_densities(
    axes: Axes, points: Tensor, y: Tensor, means: Tensor, class_names: Sequence[str]
) -> None:
    scatter_classes(axes, points, y, means, class_names, size=4, alpha=0.25, s=45, zorder=3)
    colors = class_colors(len(class_names))
    for k, color in enumerate(colors):
        own = points[y == k]
        if len(own) >= LEAST_SAMPLES and bool(torch.linalg.det(own.T.cov()) > 0):
            _draw_contours(axes, own, color)
    for k, color in enumerate(colors):
        _write_name(axes, means[k], class_names[k], color)


def scatter_classes(
    axes: Axes,
    points: Tensor,
    y: Tensor,
    means: Tensor,
    class_names: Sequence[str],
    size: float,
    alpha: float,
    **mark: Any,
) -> None:
    """Draw points (N, 2) in the colours of their classes, and a labelled cross for each mean."""
    for k, color in enumerate(class_colors(len(class_names))):
        own = points[y == k]
        axes.scatter(own[:, 0], own[:, 1], s=size, color=color, alpha=alpha, linewidths=0)
        across, up = means[k].tolist()
        look: dict[str, Any] = {"marker": "X", "edgecolors": "white", "label": class_names[k]}
        axes.scatter(across, up, color=color, **look, **mark)
    axes.set_aspect("equal", adjustable="datalim")


def _draw_contours(axes: Axes, points: Tensor, color: str) -> None:
    spread = points.std(0)
    low, high = points.min(0).values - spread, points.max(0).values + spread
    x, y = (torch.linspace(float(a), float(b), GRID) for a, b in zip(low, high, strict=True))
    grid = torch.cartesian_prod(x, y).double()
    density = _kernel_density(grid, points).view(GRID, GRID).T
    levels = _kernel_density(points, points).quantile(1 - torch.tensor(SHARES).double())
    axes.contour(
        x.numpy(), y.numpy(), density.numpy(), sorted(set(levels.tolist())),
        colors=color, linewidths=(0.8, 1.4),
    )  # fmt: skip


def _kernel_density(places: Tensor, samples: Tensor) -> Tensor:
    """Estimate the density of samples (n, 2) at (m, 2), up to a factor; Scott's bandwidth."""
    factor = torch.linalg.cholesky(samples.T.cov() * len(samples) ** (-1 / 3))
    whitened = (
        torch.linalg.solve_triangular(factor, v.T, upper=False).T for v in (places, samples)
    )
    return torch.cdist(*whitened).square().mul(-0.5).exp().mean(1)
