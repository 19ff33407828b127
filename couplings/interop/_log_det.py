"""Foreign log-determinants in the form of our contract."""

from typing import Any

import torch
from torch import Tensor

from couplings.core import ShapeError


def per_sample(name: str, value: Any, x: Tensor) -> Tensor:
    """Convert a number, array or tensor to log_det (B,) on x's device, in float32 or wider.

    Raises:
        ShapeError: neither one number in all nor one per sample.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    log_det = torch.as_tensor(value, dtype=wide, device=x.device)
    if log_det.numel() not in (1, len(x)):
        raise ShapeError(
            f"{name}: expected a log-determinant of shape {(len(x),)}, got {tuple(log_det.shape)}"
        )
    return log_det.reshape(-1).expand(len(x))
