"""What a training is made of: device and processes, splits, and the untrained model."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from flowclf.classifier import GenerativeClassifier
from flowclf.config import RunConfig
from flowclf.data import (
    Augmentation,
    Dataset,
    Split,
    binarize,
    ending_binary,
    hold_out,
    keep_labels,
    make_augmentation,
    stratified,
    subset,
)
from flowclf.devices import pick_device
from flowclf.errors import UserError
from flowclf.models import assemble, info_of
from flowclf.runs import DataFacts
from flowclf.seeding import generator_for

if TYPE_CHECKING:
    from lightning.fabric import Fabric

__all__ = [
    "augmentation",
    "cpu_threads",
    "fresh_model",
    "launch_fabric",
    "resampled",
    "splits",
]


def launch_fabric(config: RunConfig, device: str, devices: int) -> Fabric:
    """Fabric on the device asked for, launched."""
    from lightning.fabric import Fabric

    strategy = "ddp" if devices > 1 else "auto"
    with warnings.catch_warnings():
        # Fabric advises on hardware that was deliberately not chosen.
        warnings.filterwarnings("ignore", category=UserWarning, module="lightning")
        fabric = Fabric(
            accelerator=pick_device(device),
            strategy=strategy,
            devices=devices,
            precision=config.train.precision,
        )
        fabric.launch()
    return fabric


@contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Compute with that many CPU threads, and as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def splits(config: RunConfig, dataset: Dataset) -> tuple[Split, Split, Split]:
    """Training, validation and test split as the settings say.

    Raises:
        UserError: a class of which no training sample is left, labels that cannot be kept, or a
            table that is to be binary.
    """
    parts = zip(range(3), _as_loaded(config, dataset), strict=True)
    training, validation, test = (_binary(config, dataset, i, split) for i, split in parts)
    return training, validation, test


def resampled(config: RunConfig, dataset: Dataset) -> Tensor | None:
    """The grey levels of the training split, where each step draws its binary images from them."""
    if config.data.binarize != "resampled":
        return None
    return _as_loaded(config, dataset)[0].x


def augmentation(config: RunConfig, dataset: Dataset) -> Augmentation | None:
    """Of training batches, with the binary images of a step as its end.

    Raises:
        UserError: one that the data do not allow.
    """
    augment = make_augmentation(config.data.augment, dataset.shape, dataset.levels)
    return ending_binary(augment, config.data.binarize, dataset.levels)


def _binary(config: RunConfig, dataset: Dataset, part: int, split: Split) -> Split:
    generator = generator_for(config.seed, "binarize", part)
    return replace(split, x=binarize(split.x, config.data.binarize, dataset.levels, generator))


def _as_loaded(config: RunConfig, dataset: Dataset) -> tuple[Split, Split, Split]:
    """The three splits in the grey levels of the data."""
    data = config.data
    training = _training(config, dataset)
    test = subset(dataset.test, data.test_size) if data.test_size else dataset.test
    training, validation = hold_out(training, data.validation, config.seed)
    missing = set(range(dataset.classes)) - set(training.y.tolist())
    if missing:
        raise UserError(
            f"expected training samples of every class, got none of {sorted(missing)} among "
            f"{len(training)}; raise data.train_size"
        )
    if data.labels is not None:
        training = keep_labels(training, data.labels, config.seed)
    return training, validation, test


def _training(config: RunConfig, dataset: Dataset) -> Split:
    size = config.data.train_size
    # Of a file of texts these rows were drawn when it was read.
    if size is None or size >= len(dataset.train.labelled()):
        return dataset.train
    if config.data.subset == "first":
        return subset(dataset.train, size)
    return stratified(dataset.train, size, config.seed)[0]


def fresh_model(
    config: RunConfig, dataset: Dataset, training: Split, backbone: nn.Module | None = None
) -> GenerativeClassifier:
    """The untrained model with its statistics fitted to the training split."""
    info = info_of(config, DataFacts.of(dataset, len(training)), dataset.vocabulary)
    model = assemble(info, config.model, backbone)
    model.fit_statistics(training.x, training.y)
    return model
