"""The path of one image through latent space as it is changed step by step."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from torch import Tensor

from flowclf.classifier import GenerativeClassifier, latents
from flowclf.data.outliers import rgb_rotation
from flowclf.figures.images import image_grid
from flowclf.figures.latent import Latents, plane_of_means, scatter_classes
from flowclf.figures.style import Figure, new_figure
from flowclf.support.errors import UserError

__all__ = ["ALPHAS", "Trajectory", "image_trajectory", "rotation_trajectory", "trajectory_figure"]

ALPHAS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35)
WIDTH = 6.4
# Beyond so many classes their names are left out; least distance of two numbers over the width.
MOST_NAMES, NUMBERS_APART = 20, 0.03


@dataclass(frozen=True, eq=False)
class Trajectory:
    """One image in S steps."""

    images: Tensor  # (S, C, H, W)
    z: Tensor  # their latents, where the mixture's densities are defined, (S, D)
    latent_nll: Tensor  # -log q(z), (S,), nats
    labels: tuple[str, ...]  # the change, S of them


@torch.no_grad()
def image_trajectory(
    model: GenerativeClassifier, images: Tensor, labels: Sequence[str]
) -> Trajectory:
    """Encode versions (S, C, H, W) of one image, the unchanged one first.

    Raises:
        UserError: fewer than two, or another number of labels.
    """
    if len(images) < 2 or len(labels) != len(images):
        raise UserError(
            f"expected at least 2 versions of an image and a label each, got {len(images)} and "
            f"{len(labels)} labels"
        )
    z = latents(model, images)
    nll = -model.mixture.log_prob(z)
    return Trajectory(images, model.mixture.embed(z).cpu(), nll.cpu(), tuple(labels))


def rotation_trajectory(
    model: GenerativeClassifier, x: Tensor, levels: int, alphas: Sequence[float] = ALPHAS
) -> Trajectory:
    """Encode one RGB image x (3, H, W), its colours rotated further and further by α.

    Raises:
        UserError: an image that is not RGB, or fewer than two α.
    """
    versions = [rgb_rotation(x[None], levels, alpha) for alpha in alphas]
    images = torch.cat(versions) if versions else x[None][:0]
    return image_trajectory(model, images, [f"α = {alpha:g}" for alpha in alphas])


def trajectory_figure(
    trajectory: Trajectory, background: Latents, class_names: Sequence[str], levels: int
) -> Figure:
    """Draw the path in the plane of the class means, over the test set; beneath its images.

    The numbers on the path are those of the images; under each stands the change and -log q(z),
    which also measures what leaves the plane. `background` is of `embedded_latents` on the test
    set. IB-INN (Ardizzone et al. 2020), Figure 11.
    """
    steps = len(trajectory.images)
    per_line = min(steps, 8)
    lines = -(-steps // per_line)
    figure = new_figure(WIDTH, 4.4 + 1.3 * lines)
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=[4.4, 1.3 * lines])[:, 0]
    axes = upper.add_subplot()
    centre, basis = plane_of_means(background.means)
    points, means, path = (
        (v - centre) @ basis.T for v in (background.z, background.means, trajectory.z)
    )
    look = {"s": 40, "linewidths": 0.6}
    scatter_classes(axes, points, background.y, means, class_names, size=6, alpha=0.4, **look)
    if len(class_names) <= MOST_NAMES:
        upper.legend(loc="outside right center", fontsize=8, frameon=False, markerscale=1.2)
    # Dark to light.
    colors = [to_hex(colormaps["plasma"](0.9 * k / max(1, steps - 1))) for k in range(steps)]
    _draw_path(axes, path, colors)
    axes.set(xlabel="first direction of the class means", ylabel="second direction")
    axes.set_title("one image's way through the plane of the class means", fontsize=9)
    grid = lower.subplots(lines, per_line, squeeze=False).flatten()
    for k, thumbnail in enumerate(grid):
        if k < steps:
            _draw_thumbnail(thumbnail, trajectory, k, levels, colors[k])
        else:
            thumbnail.remove()
    return figure


def _draw_path(axes: Axes, path: Tensor, colors: Sequence[str]) -> None:
    """Draw arrows from step to step and a disc at each, numbered where it can be read."""
    for start, end in zip(path[:-1].tolist(), path[1:].tolist(), strict=True):
        arrow = {"arrowstyle": "-|>", "color": "black", "linewidth": 1.2}
        axes.annotate("", end, start, arrowprops=arrow | {"shrinkA": 5, "shrinkB": 6}, zorder=5)
    left, right = axes.get_xlim()
    numbered = _numbered(path, NUMBERS_APART * (right - left))
    for k, (place, color) in enumerate(zip(path.tolist(), colors, strict=True)):
        if k not in numbered:
            axes.plot(*place, "o", color=color, markeredgecolor="black", markersize=5, zorder=5.5)
            continue
        axes.scatter(
            place[0], place[1], s=85, color=color, edgecolors="black", linewidths=0.8, zorder=6
        )
        axes.annotate(
            str(k), place, ha="center", va="center_baseline", fontsize=6.5, zorder=7,
            color="white" if k < 0.6 * len(colors) else "black",
        )  # fmt: skip


def _numbered(path: Tensor, apart: float) -> set[int]:
    """Return the last step, and then of the others those far enough from all numbered ones."""
    kept = [len(path) - 1]
    for k in [0, *range(len(path) - 2, 0, -1)]:
        if bool(((path[kept] - path[k]).norm(dim=1) >= apart).all()):
            kept.append(k)
    return set(kept)


def _draw_thumbnail(axes: Axes, trajectory: Trajectory, k: int, levels: int, color: str) -> None:
    axes.imshow(image_grid(trajectory.images[None, k : k + 1], levels).numpy())
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(color=color, linewidth=2.5)
    axes.set_title(str(k), fontsize=8)
    axes.set_xlabel(f"{trajectory.labels[k]}\n{trajectory.latent_nll[k]:.0f} nats", fontsize=7)
