"""The optimiser and its parameter groups, from the settings."""

from __future__ import annotations

from typing import Any

import torch

from flowclf.classifier import GenerativeClassifier
from flowclf.settings import TrainSettings

__all__ = ["make_optimizer"]


def make_optimizer(model: GenerativeClassifier, settings: TrainSettings) -> torch.optim.Optimizer:
    """Return SGD or AdamW with groups: network, means, rest of the mixture, heads.

    Only the network has weight decay, as in IB-INN's code.
    """
    heads, lr = list(model.heads.parameters()), settings.lr
    named = list(model.mixture.named_parameters())
    means = [p for name, p in named if name.startswith("mean")]
    others = [p for name, p in named if not name.startswith("mean")]
    grouped = {*means, *others, *heads}
    network = [p for p in model.parameters() if p not in grouped]
    groups = [
        _group(network, lr, settings.weight_decay, settings.momentum),
        _group(means, lr * settings.means_lr_factor, 0.0, settings.means_momentum),
        _group(others, lr * settings.mixture_lr_factor, 0.0, settings.weights_momentum),
        _group(heads, lr * settings.heads_lr_factor, 0.0, settings.momentum),
    ]
    groups = [group for group in groups if group["params"]]
    if settings.optimizer == "adamw":
        for group in groups:
            group["betas"] = (group.pop("momentum"), 0.99)
        return torch.optim.AdamW(groups, fused=True)
    return torch.optim.SGD(groups)


def _group(
    parameters: list[torch.nn.Parameter], lr: float, weight_decay: float, momentum: float
) -> dict[str, Any]:
    trained = [p for p in parameters if p.requires_grad]
    return {
        "params": trained,
        "lr": lr,
        "initial_lr": lr,
        "weight_decay": weight_decay,
        "momentum": momentum,
    }
