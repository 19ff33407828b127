"""Plan of a training, without one: how large, how long, how much memory, from a few real steps."""

from __future__ import annotations

import resource
import time
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from flowclf.config import RunConfig
from flowclf.data import Dataset
from flowclf.support.collectives import Processes
from flowclf.support.devices import pick_device
from flowclf.training.loop import train
from flowclf.training.setup import fresh_model, make_batches, splits

__all__ = ["Plan", "plan_training"]

# Steps that are not timed, since they allocate and compile; and seconds of those that are.
WARM, SECONDS, MOST = 3, 2.0, 50


@dataclass(frozen=True)
class Plan:
    """Size and cost of a training."""

    parameters: int  # trainable ones
    training: int  # samples
    validation: int
    test: int
    batch_size: int
    steps: int
    epochs: int
    flops: int  # floating-point operations of a step, forward and backward, of matrix products
    memory: int  # bytes at the peak: of the process, or on a GPU of its tensors
    seconds_per_step: float
    seconds: float  # of all steps, or train.cpu_seconds


class _EnoughError(Exception):
    """Enough steps have been timed."""


def plan_training(config: RunConfig, dataset: Dataset, device: str = "auto") -> Plan:
    """Measure the first steps of a training, which is then left; nothing is written.

    Raises:
        UserError: as `train`.
    """
    training, validation, test = splits(config, dataset)
    model = fresh_model(config, dataset, training).train()
    here = torch.device("cpu")
    batches = make_batches(config, dataset, training, model, here, Processes(0, 1, here))
    batch = batches.at(0)
    with FlopCounterMode(display=False) as counter:
        model.loss(batch.x, batch.y, index=batch.index)["total"].backward()
    times: list[float] = []
    start = time.perf_counter()

    def report(step: int, steps: int, epoch: int, terms: dict[str, Tensor]) -> None:
        nonlocal start
        now = time.perf_counter()
        if step < WARM:
            start = now
        times.append(now)
        if step >= WARM + 1 and (now - start > SECONDS or step >= WARM + MOST):
            raise _EnoughError

    # Long enough to be timed.
    least = max(WARM + MOST + 2, config.train.least_updates or 0)
    changes = {"least_updates": least, "cpu_seconds": None, "logger": ()}
    longer = config.model_copy(update={"train": config.train.model_copy(update=changes)})
    with suppress(_EnoughError):
        train(longer, dataset, device=device, report=report)
    each = (times[-1] - start) / max(1, len(times) - WARM)
    settings = config.train
    steps = max(settings.epochs * batches.per_epoch, settings.least_updates or 0)
    seconds = steps * each
    gpu = pick_device(device) == "cuda"
    peak = torch.cuda.max_memory_allocated() if gpu else _resident()
    return Plan(
        parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        training=len(training),
        validation=len(validation),
        test=len(test),
        batch_size=batches.size,
        steps=steps,
        epochs=-(-steps // batches.per_epoch),
        flops=counter.get_total_flops(),
        memory=peak,
        seconds_per_step=each,
        seconds=min(seconds, settings.cpu_seconds or seconds),
    )


def _resident() -> int:
    """Return the largest resident memory of this process until now, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
