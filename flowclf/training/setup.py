"""What a training is made of: device and processes, splits, and the untrained model."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

from flowclf.classifier import GenerativeClassifier
from flowclf.config import RunConfig
from flowclf.data import Dataset, Split, hold_out, stratified, subset
from flowclf.devices import pick_device
from flowclf.errors import UserError
from flowclf.systems import Blueprint, find_system

if TYPE_CHECKING:
    from lightning.fabric import Fabric

__all__ = ["cpu_threads", "fresh_model", "launch_fabric", "splits"]


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
        UserError: a class of which no training sample is left.
    """
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
    blueprint = Blueprint(dataset.shape, dataset.classes, dataset.levels, config.seed, backbone)
    model = find_system(config.system).build(blueprint, config.model)
    model.fit_statistics(training.x, training.y)
    return model
