"""What a training is made of: splits, the untrained model, and its batches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

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
from flowclf.models import assemble, info_of
from flowclf.runs import facts_of
from flowclf.support.errors import UserError
from flowclf.support.seeding import generator_for
from flowclf.training.batches import Batches
from flowclf.training.distributed import Processes

__all__ = [
    "augmentation",
    "cpu_threads",
    "fresh_model",
    "make_batches",
    "resampled",
    "splits",
]


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
    info = info_of(config, facts_of(dataset, len(training)), dataset.vocabulary)
    model = assemble(info, config.model, backbone)
    model.fit_statistics(training.x, training.y)
    return model


def make_batches(
    config: RunConfig,
    dataset: Dataset,
    training: Split,
    model: GenerativeClassifier,
    device: torch.device,
    processes: Processes,
) -> Batches:
    """Those of this process, on its device.

    Raises:
        UserError: an augmentation that the data do not allow, or a batch that cannot be shared.
    """
    source, settings = resampled(config, dataset), config.train
    if processes.world > 1 and model.needs_equal_shares and settings.labelled is None:
        unlabelled = int(training.unlabelled.sum())
        if 0 < unlabelled < len(training):
            raise UserError(
                "expected train.labelled, the samples with a label in each batch, for several "
                f"processes, since {unlabelled} of {len(training)} have none; set it, or use one"
            )
    return Batches(
        Split(training.x.to(device), training.y.to(device)),
        settings.batch_size,
        config.seed,
        augmentation(config, dataset),
        model.perturb,
        processes.rank,
        processes.world,
        settings.labelled,
        None if source is None else source.to(device),
    )
