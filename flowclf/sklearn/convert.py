"""Parameters, labels and rows of scikit-learn's as flowclf's settings and samples, and back."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.utils import check_random_state
from torch import Tensor

from couplings.core import Shape
from flowclf.config import nested
from flowclf.data import Split
from flowclf.data.dataset import weighted
from flowclf.models import IMAGE_LEVELS
from flowclf.support.errors import UserError

SEEDS = np.iinfo(np.int32).max
MOST_CHANNELS = 4


def draw_seed(random_state: int | np.random.RandomState | None) -> int:
    """Return an integer itself as the seed; otherwise draw it as scikit-learn's estimators do.

    Raises:
        ValueError: neither an integer from 0 to 2³² - 1, nor a RandomState, nor None.
    """
    random = check_random_state(random_state)
    if isinstance(random_state, int | np.integer):
        return int(random_state)
    return int(random.randint(SEEDS))


def plain(value: Any) -> Any:
    """Convert numpy's numbers and containers, which searches use as parameters, to Python's own."""
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(part) for part in value]
    return value.item() if isinstance(value, np.generic) else value


def sections(settings: Any) -> dict[str, Any]:
    """Turn {"train.lr": 1e-3, "network": {"blocks": 2}} into sections.

    Raises:
        UserError: not a dictionary.
    """
    if not isinstance(settings, dict | None):
        raise UserError(f"expected settings as a dictionary, got {settings!r}")
    return nested(settings or {})


def weighted_rows(
    rows: npt.NDArray[Any], y: npt.NDArray[Any], sample_weight: Any
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], Tensor | None]:
    """Return the rows of a weight above 0, their labels and their weights; None: all are equal.

    Raises:
        UserError: not one number a row, one that is negative or not finite, or zeros alone.
    """
    if sample_weight is None:
        return rows, y, None
    numbers = torch.arange(len(y))
    found = weighted(Split(numbers, numbers), np.asarray(sample_weight), "sample_weight")
    if not len(found):
        raise UserError("sample_weight: expected a weight above 0, got zeros alone")
    return rows[found.x.numpy()], y[found.x.numpy()], found.weight


def plain_labels(classes: npt.NDArray[Any]) -> list[Any]:
    """Convert labels (K,) for YAML.

    Raises:
        UserError: labels that are neither strings nor numbers.
    """
    labels: list[Any] = plain(classes.tolist())
    if classes.dtype.kind not in "biufUO" or not all(
        isinstance(label, str | int | float) for label in labels
    ):
        raise UserError(
            f"expected strings or numbers as labels to save, got {labels[0]!r} ({classes.dtype}); "
            "pickle the estimator with joblib.dump instead"
        )
    return labels


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
