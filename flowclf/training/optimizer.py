"""Optimiser, parameter groups and learning-rate schedule, from the settings."""

from __future__ import annotations

from math import cos, pi
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from flowclf.classifier import GenerativeClassifier
from flowclf.settings import TrainSettings

__all__ = ["clip_gradients", "make_optimizer", "schedule_factor", "set_learning_rates"]

FINAL_FACTOR = 1e-3
WARMUP_FACTOR = 0.05


def make_optimizer(model: GenerativeClassifier, settings: TrainSettings) -> torch.optim.Optimizer:
    """SGD or AdamW with groups: the network, the means, the rest of the mixture, the heads.

    Weight decay is the network's alone, as in IB-INN's code.
    """
    heads, lr = list(model.heads.parameters()), settings.lr
    named = list(model.mixture.named_parameters())
    means = [p for name, p in named if name.startswith("mean")]
    others = [p for name, p in named if not name.startswith("mean")]
    elsewhere = {*means, *others, *heads}
    network = [p for p in model.parameters() if p not in elsewhere]
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


def clip_gradients(model: GenerativeClassifier, max_norm: float) -> Tensor:
    """Clip each head's gradients, and those of all else, to a norm of `max_norm`; the whole norm.

    A head that looks on (a probe, the identities' softmax of VAE-AS) then has no part in the steps
    of the network it looks at: VAE-AS at (1, 1) stays the VAE. A norm that is not finite leaves its
    gradients as they are, so that the culprit can be found.
    """
    heads = [list(head.parameters()) for head in model.heads.values()]
    own = {p for head in heads for p in head}
    others = [p for p in model.parameters() if p not in own]
    norms = [_clip(part, max_norm) for part in (others, *heads) if part]
    return torch.stack(norms).norm()


def _clip(parameters: list[torch.nn.Parameter], max_norm: float) -> Tensor:
    norm = get_total_norm(p.grad for p in parameters if p.grad is not None)
    # A norm of 0 is clipped to no other.
    clip_grads_with_norm_(parameters, max_norm, norm.nan_to_num(0, 0))
    return norm


def schedule_factor(settings: TrainSettings, progress: float) -> float:
    """Factor on the learning rate at a share of the run, 0 <= progress < 1.

    cosine, one-cycle: linear warm-up, then half a cosine down to 1/1000 (cosine: without
    warm-up); milestones: 0.1 to the number of milestones passed; constant: 1.
    """
    if settings.schedule == "constant":
        return 1.0
    if settings.schedule == "milestones":
        return 0.1 ** sum(progress >= milestone for milestone in settings.milestones)
    warmup = settings.warmup if settings.schedule == "one-cycle" else 0.0
    if progress < warmup:
        return WARMUP_FACTOR + (1 - WARMUP_FACTOR) * progress / warmup
    phase = (progress - warmup) / (1 - warmup)
    return FINAL_FACTOR + (1 - FINAL_FACTOR) * 0.5 * (1 + cos(pi * phase))


def set_learning_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Each group's initial rate times the factor."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor


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
