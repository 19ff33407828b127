"""Images in rows: samples of each class, interpolations and reconstructions."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor

from flowclf.classifier import GenerativeClassifier, evaluating
from flowclf.figures.style import FORMULA, Figure, new_figure
from flowclf.support.errors import UserError

__all__ = [
    "block_figure",
    "draw_images",
    "frame_image",
    "image_grid",
    "interpolation_figure",
    "reconstructed",
    "reconstruction_figure",
    "sample_figure",
    "temperature_figure",
]

INCHES = 0.55
GAP = 1
# Widths in inches: of a page's text, of a letter of a label, and between two blocks.
PAGE, LETTER, BETWEEN = 7.2, 0.065, 0.15


def image_grid(images: Tensor, levels: int) -> Tensor:
    """Tile images (R, C, channels, H, W) in grey levels to one image (H', W', 3) in [0, 1].

    Values outside the levels are clipped: samples of a density can lie a little beyond them.
    """
    scaled = (images.floor().clamp(0, levels - 1) / (levels - 1)).cpu()
    padded = torch.nn.functional.pad(scaled, (0, GAP, 0, GAP), value=1.0)
    rows, columns, channels, height, width = padded.shape
    grid = padded.permute(0, 3, 1, 4, 2).reshape(rows * height, columns * width, channels)
    grid = grid[:-GAP, :-GAP]
    return grid if channels == 3 else grid[:, :, :1].expand(-1, -1, 3)


def sample_figure(
    images: Tensor, class_names: Sequence[str], levels: int, temperature: float | None = None
) -> Figure:
    """Draw samples (K, n, channels, H, W): a row a class, its name beside it."""
    at = "" if temperature is None else f" at temperature {temperature:g}"
    return _rows_figure(
        images, levels, class_names, f"images that the model drew of each class{at}"
    )


def interpolation_figure(strips: Tensor, levels: int, labels: Sequence[str] = ()) -> Figure:
    """Draw strips (P, steps, channels, H, W): a row a pair, from one image to the other.

    `labels` stand beside the rows, as `pair_labels` has them.
    """
    title = "straight lines in latent space from one test image (left) to another (right)"
    return _rows_figure(strips, levels, labels, title)


def temperature_figure(
    blocks: Mapping[float, Tensor], class_names: Sequence[str], levels: int
) -> Figure:
    """Draw samples (K, n, channels, H, W) at several temperatures side by side, a row a class.

    With one seed for all they differ in their distance from the class's centre alone.

    Raises:
        UserError: no temperature, or another number of classes than of names.
    """
    titled = {f"temperature {value:g}": images for value, images in blocks.items()}
    return block_figure(titled, class_names, levels)


def block_figure(
    blocks: Mapping[str, Tensor], labels: Sequence[str], levels: int, columns: int | None = None
) -> Figure:
    """Draw titled blocks of images (R, n, channels, H, W), so many columns of blocks in a line.

    Each line of blocks has R row labels; without `columns` all blocks stand in one line.

    Raises:
        UserError: no block, or one with another number of rows than labels.
    """
    if not blocks:
        raise UserError("expected at least one block of images, got none; name a model or a value")
    for name, images in blocks.items():
        if images.ndim != 5 or len(images) != len(labels):
            raise UserError(
                f"expected {len(labels)} rows of images (R, n, C, H, W) with a label each, got "
                f"shape {tuple(images.shape)} for {name!r}; give as many labels as rows"
            )
    columns = min(columns or len(blocks), len(blocks))
    lines = -(-len(blocks) // columns)
    # Of a row of images in heights of one.
    sizes = [(len(images[0]), *images.shape[-2:]) for images in blocks.values()]
    widths = [(count * (w + GAP) - GAP) / (h + GAP) for count, h, w in sizes]
    # A formula counts as one letter.
    letters = max(len(FORMULA.sub("x", label)) for label in labels)
    margin = 0.25 + LETTER * letters
    inches = min(INCHES, (PAGE - margin - BETWEEN * (columns - 1)) / (columns * max(widths)))
    title = 0.36 if any(blocks) else 0.1
    figure = new_figure(
        margin + columns * (inches * max(widths) + BETWEEN), lines * (title + inches * len(labels))
    )
    grid = figure.subplots(lines, columns, squeeze=False, width_ratios=widths[:columns])
    for axes in grid.flat[len(blocks) :]:
        axes.remove()
    for k, (axes, (name, images)) in enumerate(zip(grid.flat, blocks.items(), strict=False)):
        draw_images(axes, images, levels, () if k % columns else labels)
        axes.set_title(name, fontsize=9)
    return figure


def draw_images(axes: Axes, images: Tensor, levels: int, labels: Sequence[str] = ()) -> None:
    """Draw images (R, n, channels, H, W) as `image_grid` has them, and beside each row its label.

    In the axes' units a pixel is 1, and the first image begins at -0.5.
    """
    height, width = images.shape[-2:]
    grid = image_grid(images, levels)
    # The gaps show the page, be it light or dark.
    down, across = (torch.arange(n) for n in grid.shape[:2])
    inside = torch.outer(down % (height + GAP) < height, across % (width + GAP) < width)
    shown = torch.cat((grid, inside[..., None].to(grid)), 2)
    axes.imshow(shown.numpy(), interpolation="nearest")
    axes.set_xticks([])
    axes.spines[:].set_visible(False)
    centres = [(height + GAP) * row + (height - 1) / 2 for row in range(len(labels))]
    axes.set_yticks(centres, labels=labels, fontsize=8)
    axes.tick_params(length=0)


def frame_image(axes: Axes, images: Tensor, row: int, column: int, **style: Any) -> None:
    """Frame one of the images (R, n, channels, H, W) that `draw_images` drew."""
    height, width = images.shape[-2:]
    corner = (width + GAP) * column - 1, (height + GAP) * row - 1
    common = {"fill": False, "linewidth": 1.4, "clip_on": False}
    axes.add_patch(Rectangle(corner, width + 1, height + 1, **common | style))


@torch.no_grad()
def reconstructed(models: Mapping[str, GenerativeClassifier], x: Tensor) -> dict[str, Tensor]:
    """Return x (n, *shape) as "x", and as decoded from its noise-free latents by each model.

    Raises:
        UserError: a model called x, or a system without a decoder.
    """
    if "x" in models:
        raise UserError("expected other names than x for the models, got 'x'; call it otherwise")
    found = {"x": x.cpu()}
    for name, model in models.items():
        with evaluating(model):
            found[name] = model.decode(model.encode(x.to(model.mixture.device)).z).cpu()
    return found


def reconstruction_figure(blocks: Mapping[str, Mapping[str, Tensor]], levels: int) -> Figure:
    """Draw blocks side by side, by the data's names; in each a row of x and one of each model.

    Blocks are of `reconstructed`, rows (n, C, H, W). Training images that look better than test
    images were memorized. VAE-AS (Li 2019), Figures 4 and 5.

    Raises:
        UserError: no block, blocks of different models, or rows of different shapes.
    """
    labels = {tuple(rows) for rows in blocks.values()}
    shapes = {tuple(images.shape) for rows in blocks.values() for images in rows.values()}
    if len(labels) != 1 or len(shapes) != 1:
        raise UserError(
            f"expected blocks of the same models with as many images each, got models "
            f"{sorted(labels)} and shapes {sorted(shapes)}; take each from `reconstructed`"
        )
    stacked = {
        name: torch.stack([images.float() for images in rows.values()])
        for name, rows in blocks.items()
    }
    return block_figure(stacked, labels.pop(), levels)


def _rows_figure(images: Tensor, levels: int, labels: Sequence[str], title: str) -> Figure:
    rows, columns, _, height, width = images.shape
    margin = 0.5 + LETTER * max(map(len, labels), default=0)
    side = margin + INCHES * columns * width / height
    figure = new_figure(max(side, LETTER * len(title)), 0.5 + INCHES * rows)
    axes = figure.add_subplot()
    draw_images(axes, images, levels, labels)
    figure.suptitle(title, fontsize=9)
    return figure
