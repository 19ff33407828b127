"""The arithmetic of the maps as pure functions of tensors: the definition every op must meet."""

from __future__ import annotations

from dataclasses import dataclass
from math import pi
from typing import Literal

import torch
from torch import Tensor

from couplings.core import sum_log_det

__all__ = ["SoftClamp", "affine_couple", "affine_uncouple"]


@dataclass(frozen=True)
class SoftClamp:
    """Keeps a log-scale within (-limit, limit), smoothly.

        tanh:  s = limit · tanh(gain · raw)
        atan:  s = limit · (2/π) · atan(gain · raw)

    IB-INN's code uses tanh with limit 0.7 and gain 0.1 (convolutional blocks) or 0.2
    (downsampling), and the atan form of FrEIA with limit 2 and gain 1/2 (fully connected);
    FrEIA rounds 2/π to 0.636.
    """

    limit: float = 0.7
    gain: float = 0.1
    form: Literal["tanh", "atan"] = "tanh"

    def __post_init__(self) -> None:
        if self.form not in ("tanh", "atan"):
            raise ValueError(f"SoftClamp: expected form 'tanh' or 'atan', got {self.form!r}")
        if self.limit <= 0 or self.gain <= 0:
            raise ValueError(
                f"SoftClamp: expected positive limit and gain, got {self.limit} and {self.gain}"
            )

    def __call__(self, raw: Tensor) -> Tensor:
        """Log-scale of the same shape as `raw`."""
        if self.form == "tanh":
            return self.limit * torch.tanh(self.gain * raw)
        return (self.limit * 2 / pi) * torch.atan(self.gain * raw)


def affine_couple(x: Tensor, raw: Tensor, shift: Tensor, clamp: SoftClamp) -> tuple[Tensor, Tensor]:
    """y = x · exp(s) + t with s = clamp(raw); log_det = Σ s over all but the batch, (B,)."""
    log_scale = clamp(raw)
    return x * log_scale.exp() + shift, sum_log_det(log_scale)


def affine_uncouple(
    y: Tensor, raw: Tensor, shift: Tensor, clamp: SoftClamp
) -> tuple[Tensor, Tensor]:
    """x = (y - t) · exp(-s) with s = clamp(raw); log_det = -Σ s, (B,)."""
    log_scale = clamp(raw)
    return (y - shift) * (-log_scale).exp(), -sum_log_det(log_scale)
