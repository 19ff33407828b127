"""Data sets of features: pictures or texts, read as ever, and what an extractor gives of them."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor

from flowclf.data.dataset import Dataset, Reading, Split, stratified, subset, validate
from flowclf.data.extractors import Extractor, find_extractor
from flowclf.data.features import Features, fit_features, usual_dims
from flowclf.data.load import load_dataset
from flowclf.data.streamed import Shards
from flowclf.data.text import TextOptions, read_split
from flowclf.settings import DataSettings
from flowclf.support.errors import UserError
from flowclf.support.safetensors import digest

__all__ = ["load_features", "with_features"]

Known = Features | Extractor | None
"""Features as a run has them, an extractor of the user's own, or that of the settings."""


def load_features(
    name: str,
    settings: DataSettings,
    seed: int,
    data_dir: Path | None = None,
    text: TextOptions | None = None,
    known: Known = None,
) -> Dataset:
    """Load data by name or path, and turn them into features; `text`: of a .csv file of texts.

    Pictures in folders are cropped and resized to what the extractor takes.

    Raises:
        UserError: as `load_dataset`, `find_extractor` and `with_features`.
    """
    extractor = _extractor(settings, known)
    if extractor.of == "texts":
        if text is None:
            raise UserError(f"{name}: expected a .csv file of texts for {extractor.name}")
        return _of_texts(Path(name), text, settings, extractor, known)
    if text is not None:
        raise UserError(f"{name}: expected pictures for {extractor.name}, got a .csv file")
    reading = asdict(Reading.of(settings))
    if extractor.side is not None:
        reading |= {"size": settings.size or extractor.side, "mode": "rgb"}
    data = load_dataset(name, data_dir, **reading)
    return with_features(data, settings, seed, known)


def with_features(data: Dataset, settings: DataSettings, seed: int, known: Known = None) -> Dataset:
    """Turn a data set of images into one of their features.

    The principal components are those of the training split, after `train_size`, unless `known`
    has them; no label is looked at.

    Raises:
        UserError: no images, or more of them than fit into memory.
    """
    extractor = _extractor(settings, known)
    if not data.is_image or data.levels is None or extractor.of == "texts":
        kind = "images" if data.is_image else f"rows of {data.shape[0]} numbers"
        raise UserError(f"{data.name}: expected {extractor.of} for {extractor.name}, got {kind}")
    train, test = _sized(data, settings, seed)
    if isinstance(train.x, Shards) or isinstance(test.x, Shards):
        raise UserError(f"{data.name}: expected images in memory for features, got shards")
    source = {"train.x": train.x, "train.y": train.y, "test.x": test.x, "test.y": test.y}
    start = time.perf_counter()
    features = known if isinstance(known, Features) else None
    if features is None:
        dims = _dims(settings, train.y)
        features = fit_features(extractor, train.x, dims, data.shape, data.levels)
    features = replace(features, source=digest(source), images=test.x)
    return _table(replace(data, train=train, test=test), features, (train.x, test.x), start)


def _of_texts(
    path: Path, text: TextOptions, settings: DataSettings, extractor: Extractor, known: Known
) -> Dataset:
    drawn, rest, (y, y_test), names = read_split(path, text)
    start = time.perf_counter()
    features = known if isinstance(known, Features) else None
    features = features or fit_features(extractor, drawn, _dims(settings, y))
    # As bytes, which tensors can hold.
    letters = torch.frombuffer(bytearray(json.dumps([drawn, rest]).encode()), dtype=torch.uint8)
    source = {"texts": letters, "train.y": y, "test.y": y_test}
    features = replace(features, source=digest(source))
    empty = Split(torch.empty(len(y), 0), y), Split(torch.empty(len(y_test), 0), y_test)
    return _table(Dataset(path.name, *empty, names), features, (drawn, rest), start)


def _dims(settings: DataSettings, y: Tensor) -> int:
    return settings.feature_dims or usual_dims(settings.labels or int((y >= 0).sum()))


def _table(
    data: Dataset, features: Features, inputs: Sequence[Tensor | Sequence[str]], start: float
) -> Dataset:
    """Return the data with features in place of its samples, and a notice of them."""
    train, test = (
        replace(split, x=features(x))
        for x, split in zip(inputs, (data.train, data.test), strict=True)
    )
    notice = (
        f"{features.summary}, in {time.perf_counter() - start:.1f} s: densities and bits/dim are "
        "of these numbers, not of the "
        f"{features.extractor.of}"
    )
    made = replace(
        data, train=train, test=test, levels=None, features=features,
        notices=(*data.notices, notice),
    )  # fmt: skip
    return validate(made)


def _sized(data: Dataset, settings: DataSettings, seed: int) -> tuple[Split, Split]:
    """Return the splits of train_size and test_size, so that no other features are extracted."""
    train, size = data.train, settings.train_size
    if size is not None and size < len(train.labelled()):
        first = settings.subset == "first"
        train = subset(train, size) if first else stratified(train, size, seed)[0]
    return train, subset(data.test, settings.test_size) if settings.test_size else data.test


def _extractor(settings: DataSettings, known: Known) -> Extractor:
    if known is None:
        assert settings.features is not None
        return find_extractor(settings.features)
    return known.extractor if isinstance(known, Features) else known
