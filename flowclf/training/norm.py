"""BatchNorm statistics of the final weights, as averages over the training set."""

from __future__ import annotations

import torch
from torch import nn

from flowclf.classifier import GenerativeClassifier
from flowclf.training.batches import Batches

__all__ = ["batch_norms", "reestimate_batch_norm"]


def batch_norms(model: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """All BatchNorm layers of a model."""
    return [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


@torch.no_grad()
def reestimate_batch_norm(
    model: GenerativeClassifier, batches: Batches, first_step: int, passes: int
) -> None:
    """Replace running statistics by cumulative averages over `passes` epochs of noisy batches.

    IB-INN's code does the same (5 passes): its momentum of 0.999 keeps only the last batch.

    Args:
        model: left in training mode.
        batches: where the data come from.
        first_step: the position from which on batches are drawn.
        passes: epochs.
    """
    norms = batch_norms(model)
    if not norms or not passes:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    model.train()
    for step in range(first_step, first_step + passes * batches.per_epoch):
        model.encode(batches.at(step).x)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
