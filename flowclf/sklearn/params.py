"""Parameters and labels as plain Python values, for settings and for YAML."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.utils import check_random_state

from flowclf.config import nested
from flowclf.support.errors import UserError

__all__ = ["SEEDS", "draw_seed", "plain", "plain_labels", "sections"]

SEEDS = np.iinfo(np.int32).max


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
