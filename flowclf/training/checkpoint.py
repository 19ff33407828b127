"""All that a run needs to go on as if it had never stopped."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from flowclf.classifier import GenerativeClassifier
from flowclf.errors import UserError
from flowclf.files import write_whole
from flowclf.models import check_architecture

__all__ = ["load_checkpoint", "save_checkpoint"]


def save_checkpoint(
    path: Path,
    model: GenerativeClassifier,
    optimizer: torch.optim.Optimizer,
    step: int,
    seconds: float,
) -> None:
    """Weights, optimiser, step and seconds so far. Order and noise follow from seed and step."""
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": step,
        "seconds": seconds,
    }
    write_whole(path, lambda part: torch.save(state, part))


def load_checkpoint(
    path: Path,
    model: GenerativeClassifier,
    optimizer: torch.optim.Optimizer,
    device: torch.device,
) -> tuple[int, float]:
    """Restore model and optimiser in place; the step to go on from, and the seconds so far.

    Raises:
        UserError: no checkpoint, a damaged one, or one of another architecture.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist: there is nothing to resume; train anew with --out")
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        weights, optimizer_state = state["model"], state["optimizer"]
        step, seconds = int(state["step"]), float(state["seconds"])
    except (RuntimeError, UnpicklingError, EOFError, KeyError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} is damaged: {reason}") from None
    check_architecture(model.state_dict(), weights, path)
    model.load_state_dict(weights)
    optimizer.load_state_dict(optimizer_state)
    return step, seconds
