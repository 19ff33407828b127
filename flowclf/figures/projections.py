"""Latents in the plane of their first two principal components, with contours of the classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from flowclf.classifier import GenerativeClassifier, latents
from flowclf.data import Split
from flowclf.figures.latent import write_name
from flowclf.figures.style import class_colors, new_figure
from flowclf.support.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Latents", "embedded_latents", "principal_figure", "principal_plane", "spread_out"]

MOST_POINTS = 2000
# Shares of a class's samples that its contours enclose.
SHARES = (0.5, 0.9)
GRID, LEAST_SAMPLES = 90, 5
# Of the larger range of the points: how far apart names are written, moved in so many rounds.
NAMES_APART, ROUNDS = 0.07, 50


@dataclass(frozen=True, eq=False)
class Latents:
    """Samples in latent space, and where the model has their classes.

    Attributes:
        z: latents (N, D), where the mixture's densities are defined.
        y: labels (N,).
        means, std: of the mixture's classes, (K, D) each.
    """

    z: Tensor
    y: Tensor
    means: Tensor
    std: Tensor


@torch.no_grad()
def embedded_latents(model: GenerativeClassifier, split: Split, most: int = MOST_POINTS) -> Latents:
    """Noise-free latents of the first labelled samples of a split, on the CPU."""
    split = split.labelled().take(slice(most))
    mixture = model.mixture
    z, means = mixture.embed(latents(model, split.x)), mixture.embed(mixture.centres())
    return Latents(z.cpu(), split.y, means.detach().cpu(), mixture.std().cpu())


def principal_plane(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Centre (D,), principal components (2, D) and their shares of the variance (2,), float64.

    The largest number of each component is positive, so that the same z gives the same picture. A
    single latent dimension has nothing as its second component.

    Raises:
        UserError: fewer than two latents, or not (N, D).
    """
    if z.ndim != 2 or len(z) < 2:
        raise UserError(f"expected at least 2 latents (N, D), got shape {tuple(z.shape)}")
    z = z.double()
    centre = z.mean(0)
    _, sizes, basis = torch.linalg.svd(z - centre, full_matrices=False)
    shares = sizes.square() / sizes.square().sum().clamp_min(torch.finfo(z.dtype).tiny)
    rows = min(2, len(basis))
    basis = basis[:rows]
    signs = basis.gather(1, basis.abs().argmax(1, keepdim=True)).sign()
    missing = 2 - rows
    pad = torch.nn.functional.pad
    return centre, pad(basis * signs, (0, 0, 0, missing)), pad(shares[:rows], (0, missing))


def principal_figure(panels: Mapping[str, Latents], class_names: Sequence[str]) -> Figure:
    """Latents of each system by its name, side by side, on their first two principal components.

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
        _draw_classes(axes, points, found.y, means, class_names)
        axes.set_title(name, fontsize=9)
        for write, which, share in zip(
            (axes.set_xlabel, axes.set_ylabel), ("first", "second"), shares.tolist(), strict=True
        ):
            write(f"{which} component ({100 * share:.0f} % of the variance)", fontsize=8)
        axes.tick_params(labelsize=7)
    figure.supxlabel("contours hold 50 % and 90 % of a class; a cross is its mean", fontsize=8)
    return figure


def _draw_classes(
    axes: Axes, points: Tensor, y: Tensor, means: Tensor, class_names: Sequence[str]
) -> None:
    colors = class_colors(len(class_names))
    for k, color in enumerate(colors):
        own = points[y == k]
        axes.scatter(own[:, 0], own[:, 1], s=4, color=color, alpha=0.25, linewidths=0)
        across, up = means[k].tolist()
        axes.scatter(across, up, marker="X", s=45, color=color, edgecolors="white", zorder=3)
    axes.set_aspect("equal", adjustable="datalim")
    for k, color in enumerate(colors):
        own = points[y == k]
        if _has_area(own):
            _draw_contours(axes, own, color)
    averages = [
        points[y == k].mean(0) if bool((y == k).any()) else means[k] for k in range(len(means))
    ]
    apart = NAMES_APART * float((points.max(0).values - points.min(0).values).max())
    for place, name, color in zip(spread_out(averages, apart), class_names, colors, strict=True):
        write_name(axes, place, name, color)


def spread_out(places: Sequence[Tensor], apart: float) -> Tensor:
    """Places (K, 2) moved until any two are that far apart, or nearly so."""
    moved = torch.stack(list(places)).clone()
    # Two at the very same place have no direction to be moved in.
    angles = torch.arange(len(moved), dtype=moved.dtype)
    moved += 1e-3 * apart * torch.stack((angles.cos(), angles.sin()), 1)
    for _ in range(ROUNDS):
        away = moved[:, None] - moved
        distance = away.norm(dim=2).fill_diagonal_(torch.inf)
        push = (apart - distance).clamp_min(0) / 2
        moved += (push / distance)[..., None].mul(away).sum(1)
    return moved


def _has_area(points: Tensor) -> bool:
    return len(points) >= LEAST_SAMPLES and bool(torch.linalg.det(points.T.cov()) > 0)


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
    """Of samples (n, 2) at places (m, 2), (m,), up to a factor; Scott's bandwidth."""
    factor = torch.linalg.cholesky(samples.T.cov() * len(samples) ** (-1 / 3))
    whitened = (
        torch.linalg.solve_triangular(factor, v.T, upper=False).T for v in (places, samples)
    )
    return torch.cdist(*whitened).square().mul(-0.5).exp().mean(1)
