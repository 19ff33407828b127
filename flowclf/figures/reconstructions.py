"""Images and what systems make of them by encoding and decoding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from flowclf.classifier import GenerativeClassifier, evaluating
from flowclf.figures.images import block_figure
from flowclf.support.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["reconstructed", "reconstruction_figure"]


@torch.no_grad()
def reconstructed(models: Mapping[str, GenerativeClassifier], x: Tensor) -> dict[str, Tensor]:
    """x (n, *shape) itself as "x", and decoded from its noise-free latents by each model's name.

    Raises:
        UserError: a model called x, or a system that cannot decode.
    """
    if "x" in models:
        raise UserError("expected other names than x for the models, got 'x'; call it otherwise")
    found = {"x": x.cpu()}
    for name, model in models.items():
        with evaluating(model):
            found[name] = model.decode(model.encode(x.to(model.mixture.device)).z).cpu()
    return found


def reconstruction_figure(blocks: Mapping[str, Mapping[str, Tensor]], levels: int) -> Figure:
    """Blocks side by side, by the data's names; in each a row of x and one of each model.

    Test and training images beside one another show what was learned by heart. VAE-AS (Li 2019),
    Figures 4 and 5.

    Args:
        blocks: of `reconstructed`, (n, C, H, W) each, with the same models.
        levels: grey levels.

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
