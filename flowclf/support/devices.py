"""Where to compute."""

from __future__ import annotations

import torch

from flowclf.support.errors import UserError

__all__ = ["pick_device"]


def pick_device(name: str) -> str:
    """auto, cpu or cuda to a torch device.

    Raises:
        UserError: another name, or cuda where there is none.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"expected device auto, cpu or cuda, got {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("expected a CUDA device for device cuda, found none; use cpu or auto")
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name
