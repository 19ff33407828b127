"""From scikit-learn's rows of numbers to a system's samples: tables, or images of grey levels."""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from couplings.core import Shape
from flowclf.models import IMAGE_LEVELS
from flowclf.support.errors import UserError

__all__ = ["as_rows", "grey_levels", "image_shape", "to_tensor"]

MOST_CHANNELS = 4


def image_shape(X: Any, shape: Sequence[int] | None) -> Shape | None:
    """Return (C, H, W) as asked for, or of an array of images; None if X is a table.

    Raises:
        UserError: another number of sizes, or channels that do not come first.
    """
    if shape is not None:
        return _checked(tuple(int(size) for size in shape))
    if getattr(X, "ndim", 2) < 3:
        return None
    sizes = tuple(X.shape[1:])
    found = _checked((1, *sizes) if len(sizes) == 2 else sizes)
    if found[0] > MOST_CHANNELS:
        raise UserError(
            f"expected images as N×H×W or N×C×H×W with at most {MOST_CHANNELS} channels, got "
            f"{found[0]}; move them with numpy.moveaxis(X, -1, 1), or give shape"
        )
    return found


def as_rows(X: Any, shape: Shape | None) -> Any:
    """Flatten an array of images to rows (N, C·H·W); anything else is scikit-learn's to judge.

    Raises:
        UserError: images of another shape.
    """
    if shape is None or len(shape) != 3 or getattr(X, "ndim", 2) < 3:
        return X
    images = np.asarray(X)
    alike = (shape, shape[1:]) if shape[0] == 1 else (shape,)
    if images.shape[1:] not in alike:
        raise UserError(f"expected images of shape {shape}, got {images.shape[1:]}")
    return images.reshape(len(images), prod(shape))


def grey_levels(shape: Shape | None, levels: int | None) -> int | None:
    """Return the number of grey levels; None for a table.

    Raises:
        UserError: levels of a table, or a number out of range.
    """
    if shape is None and levels is not None:
        raise UserError(f"levels={levels}: expected shape=(C, H, W) beside it, got a table")
    if levels is not None and not 2 <= levels <= IMAGE_LEVELS:
        raise UserError(f"expected levels from 2 to {IMAGE_LEVELS}, got {levels}")
    return None if shape is None else int(levels or IMAGE_LEVELS)


def to_tensor(rows: npt.NDArray[np.float32], shape: Shape, levels: int | None) -> Tensor:
    """Convert rows (N, F) to float32, or with levels to uint8 images (N, C, H, W).

    Raises:
        UserError: rows of another length, or numbers that are not grey levels.
    """
    if levels is None:
        return torch.from_numpy(rows.copy(order="C"))
    if rows.shape[1] != prod(shape):
        raise UserError(
            f"expected rows of {prod(shape)} numbers for images of shape {shape}, got "
            f"{rows.shape[1]}; correct shape"
        )
    wrong = (rows < 0) | (rows >= levels) | (rows != np.floor(rows))
    if wrong.any():
        raise UserError(
            f"expected whole grey levels 0..{levels - 1}, got {rows[wrong][0]:g}; rescale and "
            "round the images, or leave out shape, for a table of real numbers"
        )
    return torch.from_numpy(rows.astype(np.uint8, order="C")).unflatten(1, shape)


def _checked(shape: Shape) -> Shape:
    if len(shape) != 3 or min(shape) < 1:
        raise UserError(f"expected shape (C, H, W) of images, got {shape}; leave it out for tables")
    return shape
