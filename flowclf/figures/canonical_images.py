"""Images that one-hot labels decode to where some classes were never labelled."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from matplotlib.axes import Axes
from torch import Tensor

from flowclf.classifier import evaluating
from flowclf.evaluation.extraction import (
    ImageClassifier,
    assign_by_competition,
    canonical_images,
    class_probabilities,
)
from flowclf.figures.images import draw_images, frame_image
from flowclf.figures.style import BLUE, RED, Figure, new_figure
from flowclf.support.errors import UserError
from flowclf.systems.autoencoder import LatentVariableModel

__all__ = ["Extracted", "extracted_digits", "extraction_figure"]

INCHES, LETTER = 0.6, 0.065


@dataclass(frozen=True, eq=False)
class Extracted:
    """Images and classes of the K one-hot labels of one model."""

    images: Tensor  # decoded at one z, (K, C, H, W)
    assigned: Tensor  # the class of each label, a permutation (K,)
    read: Tensor  # the class that a classifier of images predicts for each, (K,)


@torch.no_grad()
def extracted_digits(
    model: LatentVariableModel, z: Tensor, reader: ImageClassifier, known: int
) -> Extracted:
    """Decode the one-hot labels at z (D,), and assign classes to them.

    The first `known` labels keep their classes, the others compete for the rest
    (`assign_by_competition`, by p(class|image) of the image in black and white). For example with
    z of `average_latent` and a reader of `fit_image_classifier`; the model may be in any mode.

    Raises:
        UserError: fewer classes than known ones.
    """
    if not 0 <= known <= model.classes:
        raise UserError(f"expected 0 to {model.classes} known classes, got {known}")
    p = class_probabilities(reader, canonical_images(model, z), model.likelihood.top)
    free = known + assign_by_competition(p[known:, known:])
    eye = torch.eye(model.classes, dtype=z.dtype, device=z.device)
    with evaluating(model):
        images = model.decode(torch.cat((eye, z.expand(model.classes, -1)), 1))
    return Extracted(images.cpu(), torch.cat((torch.arange(known), free)), p.argmax(1))


def extraction_figure(
    rows: Mapping[str, Extracted], class_names: Sequence[str], levels: int, known: int
) -> Figure:
    """Draw the decoded one-hots of each model, a row by its name, and beneath them their classes.

    Framed are images predicted as the class assigned; another predicted class stands in brackets. A
    line divides the known labels from the others. Gemp, Parente, Mahadevan 2017 (Untapped),
    Figure 2.

    Raises:
        UserError: no row, or one with another number of images than of names.
    """
    wrong = [name for name, row in rows.items() if len(row.images) != len(class_names)]
    if wrong or not rows:
        raise UserError(
            f"expected {len(class_names)} images, one a class name, for one model or more, got "
            f"{', '.join(wrong) or 'none'}"
        )
    _, _, height, width = next(iter(rows.values())).images.shape
    side = 0.4 + LETTER * max(map(len, rows)) + len(class_names) * INCHES * width / height
    figure = new_figure(side, 0.35 + len(rows) * (INCHES + 0.36))
    for axes, (name, row) in zip(
        figure.subplots(len(rows), 1, squeeze=False)[:, 0], rows.items(), strict=True
    ):
        _draw_row(axes, name, row, class_names, levels, known)
    figure.supxlabel("class assigned to each one-hot label (and what the image shows)", fontsize=8)
    return figure


def _draw_row(
    axes: Axes, name: str, row: Extracted, class_names: Sequence[str], levels: int, known: int
) -> None:
    images = row.images[None]
    draw_images(axes, images, levels, [name])
    right = (row.assigned == row.read).tolist()
    pitch = images.shape[-1] + 1
    names = [
        class_names[a] if a == r else f"{class_names[a]} ({class_names[r]})"
        for a, r in zip(row.assigned.tolist(), row.read.tolist(), strict=True)
    ]
    axes.set_xticks([pitch * k + (pitch - 2) / 2 for k in range(len(names))], names, fontsize=8)
    for k, (label, found) in enumerate(zip(axes.get_xticklabels(), right, strict=True)):
        label.set_color(BLUE if found else RED)
        if found:
            frame_image(axes, images, 0, k, edgecolor=BLUE)
    if 0 < known < len(names):
        axes.axvline(pitch * known - 1, color="black", linewidth=1.5, clip_on=False)
