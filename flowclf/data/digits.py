"""scikit-learn's digits: small, on every machine, no download."""

from importlib.util import find_spec
from pathlib import Path

import torch

from flowclf.data.dataset import Dataset, Split, hold_out, validate
from flowclf.data.source import DataSource

__all__ = ["find_digits", "load_digits"]

# The split belongs to the data set, not to a run: every run is tested on the same images.
_SPLIT_SEED = 1797


def load_digits(source: DataSource) -> Dataset:
    """Load 1,797 handwritten digits (1, 8, 8) of 17 grey levels, 75 % of each class for training.

    The data come with scikit-learn, so that `source` is not asked.
    """
    from sklearn.datasets import load_digits as read

    pixels, labels = read(return_X_y=True)
    x = torch.from_numpy(pixels).to(torch.uint8).reshape(-1, 1, 8, 8)
    y = torch.from_numpy(labels).to(torch.int64)
    train, test = hold_out(Split(x, y), fraction=0.25, seed=_SPLIT_SEED)
    return validate(Dataset("digits", train, test, tuple("0123456789"), levels=17))


def find_digits(source: DataSource) -> Path | None:
    """Return scikit-learn's folder of data, without importing scikit-learn."""
    spec = find_spec("sklearn")
    return Path(spec.origin).parent / "datasets" / "data" if spec and spec.origin else None
