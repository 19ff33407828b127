"""Losses of a latent z over the plane through two class means and a third point."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from flowclf.classifier import GenerativeClassifier, evaluating
from flowclf.figures.style import Figure, new_figure
from flowclf.support.errors import UserError

__all__ = ["Landscape", "landscape_figure", "loss_landscape", "plane_through"]

# Low is light; in steps that every common colour blindness tells apart.
SCALE = "Blues"
LEVELS, ARROWS = 14, 9
CHUNK = 4096


@dataclass(frozen=True, eq=False)
class Landscape:
    """Losses on a grid of a plane in latent space."""

    y: str  # name of the sample's class
    across: Tensor  # coordinates in latent units, (G,)
    up: Tensor  # likewise
    losses: Mapping[str, Tensor]  # by name (G, G), nats, row i at up[i]
    marks: Mapping[str, tuple[float, float]]  # places (2,) in these coordinates by name


def plane_through(first: Tensor, second: Tensor, third: Tensor) -> tuple[Tensor, Tensor]:
    """Return the plane's origin (D,), midway between the first two points, and basis (2, D).

    The basis is orthonormal; its first direction is that from the first to the second point, and
    the third point is above.

    Raises:
        UserError: three points on one line.
    """
    origin, along = (first + second) / 2, second - first
    along = along / along.norm().clamp_min(torch.finfo(along.dtype).tiny)
    rest = third - origin
    above = rest - (rest @ along) * along
    if not (along.norm() > 0 and above.norm() > 1e-6 * rest.norm()):
        raise UserError(
            "expected three points that are not on one line to lay a plane through, got means or a "
            "third point that coincide; choose other classes or give third=…"
        )
    return origin, torch.stack((along, above / above.norm()))


@torch.no_grad()
def loss_landscape(
    model: GenerativeClassifier,
    y: int,
    other: int,
    class_names: Sequence[str],
    third: Tensor | None = None,
    beta: float | None = None,
    points: int = 121,
) -> Landscape:
    """Compute the losses of a sample of class y by its latent z, in the plane through two means.

        L_X = -log q(z),  L_Y = -log q(y|z),  class-NLL = -log q(z|y),  L_X/D + β̃ L_Y

    Each above its least value on the grid, in nats.

    Args:
        model: in any mode; it is put back.
        y, other: the sample's class, and another one.
        class_names: K names.
        third: a latent (D,) in the plane; None: the mean of the class nearest to these two.
        beta: of the last loss; None: without it.
        points: of the grid in each direction.

    Raises:
        UserError: a class out of range or the same twice, no third class and no third point, or
            points on one line.
    """
    means = model.mixture.centres().detach().double()
    classes = len(means)
    if not (0 <= y < classes and 0 <= other < classes) or y == other:
        raise UserError(f"expected two classes from 0 to {classes - 1}, got {y} and {other}")
    if third is None:
        nearest = _nearest_class(means, y, other)
        corner, name = means[nearest], class_names[nearest]
    else:
        corner, name = third.to(means), "z"
    origin, basis = plane_through(means[y], means[other], corner)
    places = (torch.stack((means[y], means[other], corner)) - origin) @ basis.T
    low, high = places.min(0).values, places.max(0).values
    half = 0.9 * float((high - low).max())
    steps = torch.linspace(-half, half, points, dtype=torch.float64, device=places.device)
    across, up = (middle + steps for middle in (low + high) / 2)
    plane = origin + torch.cartesian_prod(up, across).flip(1).to(basis) @ basis
    names = [class_names[y], class_names[other], name]
    marks = {name: (x, h) for name, (x, h) in zip(names, places.tolist(), strict=True)}
    with evaluating(model):
        losses = _losses(model, plane, y, beta)
    grids = {name: (v - v.min()).view(points, points) for name, v in losses.items()}
    return Landscape(class_names[y], across.cpu(), up.cpu(), grids, marks)


def landscape_figure(landscape: Landscape) -> Figure:
    """Draw contours of each loss side by side; arrows point downhill, the longer the steeper.

    L_X draws z to the nearest mean of whichever class, L_Y off the other class and without end,
    class-NLL to the own mean alone. IB-INN (Ardizzone et al. 2020), Figure 4.
    """
    count = len(landscape.losses)
    columns = count if count <= 3 else 2
    lines = -(-count // columns)
    figure = new_figure(0.5 + 3.0 * columns, 0.35 + 2.75 * lines)
    grid = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    for axes in grid.flat[count:]:
        axes.remove()
    for axes, (name, values) in zip(grid.flat, landscape.losses.items(), strict=False):
        _draw_loss(figure, axes, landscape, values)
        axes.set_title(name, fontsize=9)
    for axes in grid[-1]:
        axes.set_xlabel("along the line of the means")
    for axes in grid[:, 0]:
        axes.set_ylabel("across it")
    figure.suptitle(f"losses of a sample of class {landscape.y} by its latent z", fontsize=10)
    return figure


def _nearest_class(means: Tensor, y: int, other: int) -> int:
    if len(means) < 3:
        raise UserError("expected a third class for the plane, got two in all; give third=…, a z")
    distances = (means - means[y]).norm(dim=1) + (means - means[other]).norm(dim=1)
    distances[[y, other]] = torch.inf
    return int(distances.argmin())


def _losses(
    model: GenerativeClassifier, plane: Tensor, y: int, beta: float | None
) -> dict[str, Tensor]:
    """Compute the losses of latents (G², D), each (G²,), float64, on the CPU."""
    parts = [model.densities(z.to(model.mixture.coordinates)) for z in plane.split(CHUNK)]
    rate = -torch.cat([part.log_prob for part in parts]).cpu().double()
    cross_entropy = -torch.cat([part.log_posterior[:, y] for part in parts]).cpu().double()
    class_nll = -torch.cat([part.log_prob_given_class[:, y] for part in parts]).cpu().double()
    losses = {
        r"$L_X$ = −log q(z)": rate,
        r"$L_Y$ = −log q(y|z)": cross_entropy,
        "class-NLL = −log q(z|y)": class_nll,
    }
    if beta is not None:
        name = rf"$L_X/D + \tilde{{\beta}} L_Y$,  $\tilde{{\beta}}$ = {beta:g}"
        losses[name] = rate / plane.shape[1] + beta * cross_entropy
    return losses


def _draw_loss(figure: Figure, axes: Axes, landscape: Landscape, values: Tensor) -> None:
    across, up = landscape.across.numpy(), landscape.up.numpy()
    levels = MaxNLocator(LEVELS).tick_values(0, float(values.max().clamp_min(1e-3)))
    drawn = axes.contourf(across, up, values.numpy(), levels, cmap=SCALE)
    # Not the lowest level: where a loss is all but 0 its contour is that of rounding errors.
    lines: dict[str, Any] = {"colors": "black", "linewidths": 0.3, "alpha": 0.5}
    axes.contour(across, up, values.numpy(), levels[1:], **lines)
    _draw_arrows(axes, landscape, values)
    for name, (x, h) in landscape.marks.items():
        axes.scatter(x, h, marker="X", s=55, color="white", edgecolors="black", zorder=3)
        box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "alpha": 0.85, "linewidth": 0}
        axes.annotate(
            name, (x, h), (0, 11), textcoords="offset points", ha="center", va="center",
            fontsize=8, bbox=box, zorder=4,
        )  # fmt: skip
    axes.set_aspect("equal")
    bar = figure.colorbar(drawn, ax=axes, shrink=0.8, pad=0.02)
    bar.set_label("nats above the least", fontsize=7)
    bar.ax.tick_params(labelsize=6)
    axes.tick_params(labelsize=7)


def _draw_arrows(axes: Axes, landscape: Landscape, values: Tensor) -> None:
    """Draw -∇ at some points, its length as the root of the gradient's."""
    spacing = float(landscape.across[1] - landscape.across[0])
    up, across = torch.gradient(values, spacing=spacing)
    step = max(1, len(landscape.across) // ARROWS)
    some = slice(step // 2, None, step)
    size = (across.square() + up.square()).sqrt()
    shrink = size.clamp_min(1e-12).sqrt() * size.max().clamp_min(1e-12).sqrt()
    across, up = (-(v / shrink)[some, some] for v in (across, up))
    axes.quiver(
        landscape.across[some].numpy(), landscape.up[some].numpy(), across.numpy(), up.numpy(),
        color="black", alpha=0.75, scale=1.3 * ARROWS, width=0.005, pivot="mid",
    )  # fmt: skip
