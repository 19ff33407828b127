"""Parts of a training: precision, Fabric, splits, untrained model, optimizer, batches."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

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
from flowclf.settings import Precision, TrainSettings
from flowclf.support.collectives import Processes
from flowclf.support.devices import pick_device
from flowclf.support.errors import UserError, first_line
from flowclf.support.seeding import generator_for
from flowclf.training.batches import Batches, row_shares

if TYPE_CHECKING:
    from lightning.fabric import Fabric

__all__ = [
    "augmentation",
    "cpu_threads",
    "fresh_model",
    "launch_fabric",
    "make_batches",
    "make_optimizer",
    "pick_precision",
    "quiet",
    "resampled",
    "splits",
]

# The longest time that one process may work alone, as the first does when it evaluates.
TIMEOUT = timedelta(minutes=30)
# In a batch, samples times dimensions, from which on bfloat16 pays: see `pick_precision`.
LEAST_NUMBERS = 20_000


def launch_fabric(
    device: str, devices: int, nodes: int, precision: Precision = "32-true"
) -> Fabric:
    """Return Fabric on the device, with all its processes started.

    Raises:
        UserError: more processes than GPUs, or four times as many as cores.
    """
    if devices * nodes > 1:
        from flowclf.support.orphans import announce, check_processes

        check_processes(devices, nodes, pick_device(device))
        announce()
    from lightning.fabric import Fabric
    from lightning.fabric.strategies.ddp import DDPStrategy
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    # Buffers are equal on all ranks without a broadcast.
    ddp = DDPStrategy(timeout=TIMEOUT, broadcast_buffers=False)
    with quiet():
        try:
            fabric = Fabric(
                accelerator=pick_device(device),
                strategy=ddp if devices * nodes > 1 else "auto",
                devices=devices,
                num_nodes=nodes,
                precision=precision,
            )
        except MisconfigurationException as error:
            raise UserError(first_line(error)) from None
        fabric.launch()
    return fabric


def pick_precision(asked: Precision | Literal["auto"], device: str, numbers: int) -> Precision:
    """Return the precision to train in, for "auto" bf16-mixed where it is faster, else 32-true.

    It is where the processor multiplies in bfloat16 and batches are large enough to make up for the
    casts of weights and features: CUDA from compute capability 8.0, CPUs with AMX or AVX512_BF16.
    Time of whole steps on one core with AVX512_BF16, without AMX, as bf16-mixed / 32-true, with the
    thousands of numbers in a batch (of AMX and GPUs there is no measurement):

        ib-inn  digits (4) 0.96, mlp (4) 1.25, mlp (50) 1.09, mnist14 (25) 0.80, mnist (100) 0.68,
                image (393) 0.68
        vae     digits (4) 1.32, image (100) 0.45;    ce  digits (4) 0.96, image (393) 0.48

    Args:
        asked: the setting train.precision.
        device: the setting auto, cpu or cuda.
        numbers: in a batch, samples times dimensions.

    Raises:
        UserError: bf16-mixed on a GPU that would emulate it.
    """
    if "bf16" not in asked and asked != "auto":
        return asked
    gpu = pick_device(device) == "cuda"
    fast = torch.cuda.is_bf16_supported(including_emulation=False) if gpu else _cpu_has_bf16()
    if asked == "auto":
        return "bf16-mixed" if fast and numbers >= LEAST_NUMBERS else "32-true"
    if gpu and not fast:
        raise UserError(
            "expected train.precision=32-true or 64-true on a GPU of compute capability below 8.0 "
            f"({torch.cuda.get_device_name()}), got {asked}, which it would emulate"
        )
    return asked


def _cpu_has_bf16() -> bool:
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Fabric's greetings, and its advice on hardware that was deliberately not chosen."""
    before = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning, module="lightning")
            # Its successor is not in all supported versions of torch.
            warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")
            yield
    finally:
        logging.disable(before)


@contextmanager
def cpu_threads(count: int | Literal["auto"] | None) -> Iterator[None]:
    """Set the number of CPU threads within the block, to begin with; None, "auto": leave it."""
    before = torch.get_num_threads()
    torch.set_num_threads(count if isinstance(count, int) else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def splits(config: RunConfig, dataset: Dataset) -> tuple[Split, Split, Split]:
    """Return the training, validation and test split that the settings describe.

    Raises:
        UserError: a class without training samples, labels that cannot be kept, or a table that
            is to be binary.
    """
    loaded = _as_loaded(config, dataset)
    if config.data.binarize == "none":
        return loaded
    parts = []
    for part, split in enumerate(loaded):
        generator = generator_for(config.seed, "binarize", part)
        x = binarize(split.x, config.data.binarize, dataset.levels, generator)
        parts.append(replace(split, x=x))
    training, validation, test = parts
    return training, validation, test


def resampled(config: RunConfig, dataset: Dataset) -> Tensor | None:
    """Return the grey levels that each step draws binary images from; None: it draws none."""
    if config.data.binarize != "resampled":
        return None
    return _as_loaded(config, dataset)[0].x


def augmentation(
    config: RunConfig, dataset: Dataset, kind: str | None = None
) -> Augmentation | None:
    """Return the augmentation of training batches, including the binary images of each step.

    `kind` stands for data.augment where it is given.

    Raises:
        UserError: an augmentation that the data do not allow.
    """
    kind = kind or config.data.augment
    augment = make_augmentation(kind, dataset.shape, dataset.levels, config.data.veil)
    if config.data.binarize == "none":
        return augment
    return ending_binary(augment, config.data.binarize, dataset.levels)


def _as_loaded(config: RunConfig, dataset: Dataset) -> tuple[Split, Split, Split]:
    """Return the three splits in the grey levels of the data."""
    data, training, size = config.data, dataset.train, config.data.train_size
    if not len(training):
        raise UserError(
            f"expected training samples in {dataset.name}, got none; its test samples can be "
            "--outliers of another run"
        )
    # A text file is subsampled when it is read.
    if size is not None and size < len(training.labelled()):
        first = data.subset == "first"
        training = subset(training, size) if first else stratified(training, size, config.seed)[0]
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


def fresh_model(
    config: RunConfig, dataset: Dataset, training: Split, backbone: nn.Module | None = None
) -> GenerativeClassifier:
    """Return the untrained model with its statistics fitted to the training split."""
    info = info_of(config, facts_of(dataset, len(training)), dataset.vocabulary)
    model = assemble(info, config.model, backbone)
    model.fit_statistics(training.x, training.y)
    balanced = config.train.class_weight == "balanced"
    if model.settings.mixture.weights == "empirical" and (balanced or training.weight is not None):
        # The weights of the classes as they are drawn.
        known = ~training.unlabelled
        y, weight = training.y[known], training.weight
        shares = row_shares(y, None if weight is None else weight[known], balanced)
        model.mixture.set_weights(y.bincount(shares, minlength=dataset.classes))
    return model


def make_optimizer(model: GenerativeClassifier, settings: TrainSettings) -> torch.optim.Optimizer:
    """Return SGD, AdamW or Muon with groups: network, means, rest of the mixture, heads.

    Only the network has weight decay, as in IB-INN's code. Muon puts the network's weights that it
    turns into a group of their own.
    """
    heads, lr = list(model.heads.parameters()), settings.lr
    named = list(model.mixture.named_parameters())
    means = [p for name, p in named if name.startswith("mean")]
    others = [p for name, p in named if not name.startswith("mean")]
    turned: list[nn.Parameter] = []
    if settings.optimizer == "muon":
        from flowclf.training.muon import Muon, normalised_weights

        turned = normalised_weights(model.encoder)
    grouped = {*means, *others, *heads, *turned}
    network = [p for p in model.parameters() if p not in grouped]
    groups = [
        _group(network, lr, settings.weight_decay, settings.momentum),
        _group(means, lr * settings.means_lr_factor, 0.0, settings.means_momentum),
        _group(others, lr * settings.mixture_lr_factor, 0.0, settings.weights_momentum),
        _group(heads, lr * settings.heads_lr_factor, 0.0, settings.momentum),
        _group(turned, lr * settings.muon_lr_factor, 0.0, settings.muon_momentum),
    ]
    groups[-1]["orthogonal"] = True
    groups = [group for group in groups if group["params"]]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups)
    for group in groups:
        group["betas"] = (group.pop("momentum"), settings.beta2)
        group["eps"] = settings.epsilon
    return Muon(groups) if turned else torch.optim.AdamW(groups, fused=True)


def _group(
    parameters: list[nn.Parameter], lr: float, weight_decay: float, momentum: float
) -> dict[str, Any]:
    trained = [p for p in parameters if p.requires_grad]
    return {
        "params": trained,
        "lr": lr,
        "initial_lr": lr,
        "weight_decay": weight_decay,
        "momentum": momentum,
    }


def make_batches(
    config: RunConfig,
    dataset: Dataset,
    training: Split,
    model: GenerativeClassifier,
    device: torch.device,
    processes: Processes,
) -> Batches:
    """Return the batches of this process, on its device.

    Raises:
        UserError: an augmentation that the data do not allow, a batch that cannot be sharded, or
            pseudo-labels where no sample lacks a label or the system has no use for them.
    """
    source, settings = resampled(config, dataset), config.train
    pseudo, unlabelled = model.settings.pseudo_labels, int(training.unlabelled.sum())
    if pseudo.asked and not unlabelled:
        raise UserError(
            "expected training samples without a label for pseudo_labels, got none; set data.labels"
        )
    if pseudo.consistency and not model.has_density:
        raise UserError(
            f"expected pseudo_labels.consistency=0 for {config.system}, which has no exact density "
            f"of x, got {pseudo.consistency}; use pseudo_labels.cross_entropy"
        )
    equal_shares = model.needs_equal_shares or pseudo.asked
    mixed = settings.labelled is None and 0 < unlabelled < len(training)
    if processes.world > 1 and equal_shares and mixed:
        raise UserError(
            "expected train.labelled, the samples with a label in each batch, for several "
            f"processes, since {unlabelled} of {len(training)} have none; set it, or use one"
        )
    return Batches(
        Split(training.x.to(device), training.y.to(device), training.weight),
        settings.batch_size,
        config.seed,
        augmentation(config, dataset),
        # A noise that is learned is drawn in the loss, by its weights of the step.
        model.perturb if model.noise.learned is None else lambda x, generator: x,
        processes.rank,
        processes.world,
        settings.labelled,
        None if source is None else source.to(device),
        settings.class_weight == "balanced",
        pseudo.asked,
        augmentation(config, dataset, config.data.augment_guess),
    )
