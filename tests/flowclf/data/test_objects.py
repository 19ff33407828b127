"""Data sets of torch and Hugging Face are taken as they are."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data import Dataset as TorchDataset

from flowclf.data import as_dataset
from flowclf.support.errors import UserError

X, Y = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 2
LEVELS = torch.arange(40 * 64).remainder(251).byte().view(40, 1, 8, 8)


class Photos(TorchDataset[Any]):
    """As torchvision's: names of classes, and images as floats in 0…1."""

    classes = ("cat", "dog")

    def __len__(self) -> int:
        return 40

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        return LEVELS[row] / 255, row % 2


class Face:
    """As a data set of Hugging Face, in what is asked of it."""

    def __init__(self, columns: dict[str, Any], names: list[str] | None = None) -> None:
        self.columns_, self.column_names = columns, [*columns]
        self.features = {"label": SimpleNamespace(names=names)}

    def __len__(self) -> int:
        return len(self.columns_["label"])

    def __getitem__(self, key: int | str) -> Any:
        if isinstance(key, str):
            return self.columns_[key]
        return {name: values[key] for name, values in self.columns_.items()}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[row] for row in range(len(self)))


def test_a_torch_data_set_and_its_loader() -> None:
    data = as_dataset(TensorDataset(X, Y))
    loaded = as_dataset(DataLoader(TensorDataset(X, Y), batch_size=7))
    assert (len(data.train), len(data.test), data.name) == (32, 8, "TensorDataset")
    assert torch.equal(data.train.x, loaded.train.x)
    assert torch.equal(data.train.y, loaded.train.y)
    pair = as_dataset((TensorDataset(X[:30], Y[:30]), TensorDataset(X[30:], Y[30:])))
    assert torch.equal(pair.test.x, X[30:])


def test_floats_that_are_levels_become_levels_and_names_are_kept() -> None:
    data = as_dataset(Photos())
    assert (data.class_names, data.shape, data.levels) == (("cat", "dog"), (1, 8, 8), 256)
    found = torch.cat([data.train.x, data.test.x]).sum((1, 2, 3)).sort().values
    assert torch.equal(found, LEVELS.sum((1, 2, 3)).sort().values)


def test_data_of_hugging_face() -> None:
    pictures = [Image.fromarray(image[0].numpy()) for image in LEVELS]
    data = as_dataset(Face({"image": pictures, "label": Y.tolist()}, ["cat", "dog"]))
    assert (data.class_names, data.shape) == (("cat", "dog"), (1, 8, 8))
    table = Face({"a": X[:, 0].tolist(), "b": X[:, 1].tolist(), "label": Y.tolist()})
    both = as_dataset({"train": table, "test": table})
    assert torch.equal(both.test.x, X[:, :2])
    with pytest.raises(UserError, match="expected target=.*among: a"):
        as_dataset(Face({"a": [1.0], "label": [1]}), target="b")


def test_what_gives_no_pairs_is_refused() -> None:
    with pytest.raises(UserError, match="expected pairs"):
        as_dataset(TensorDataset(X))
    pictures = [Image.new("L", (side, side)) for side in (3, 4)]
    with pytest.raises(UserError, match="samples of one shape, got several"):
        as_dataset(Face({"image": pictures, "label": [0, 1]}))
    with pytest.raises(UserError, match="expected samples of one shape"):
        as_dataset(([np.zeros(3), np.zeros(4)], [0, 1]))
