"""A loss that stops being finite stops the run, and says where."""

from __future__ import annotations

import torch
from torch import Tensor

from flowclf.classifier import GenerativeClassifier
from flowclf.encoders import InvertibleEncoder

__all__ = ["TrainingDiverged", "check_finite"]


class TrainingDiverged(RuntimeError):
    """A term or a gradient is not finite; the last good checkpoint is kept."""


def check_finite(
    model: GenerativeClassifier, terms: dict[str, Tensor], norm: Tensor, step: int, x: Tensor
) -> None:
    """Do nothing while the loss and the gradient's norm are finite.

    Raises:
        TrainingDiverged: naming the step, the terms, and the activations of each stage.
    """
    if bool(torch.isfinite(terms["total"] + norm)):
        return
    wrong = [name for name, value in terms.items() if not bool(value.isfinite())]
    what = f"loss term {' and '.join(wrong)}" if wrong else "the gradient"
    values = ", ".join(f"{name} {float(value):.4g}" for name, value in terms.items())
    raise TrainingDiverged(
        f"step {step}: {what} is not finite ({values}, gradient norm {float(norm):.4g}); "
        f"a lower train.lr or train.clip_norm may help\n{layer_statistics(model, x)}"
    )


@torch.no_grad()
def layer_statistics(model: GenerativeClassifier, x: Tensor) -> str:
    """One line a stage: largest |activation| and |log_det|, up to the first that is not finite."""
    lines = [f"{'stage':34} {'max |z|':>10} {'max |log_det|':>14}", _line("input", x, None)]
    if not isinstance(model.encoder, InvertibleEncoder):
        return "\n".join([*lines, _line("latent", model.encode(x).z, None)])
    stages = [model.encoder.preprocess, *model.encoder.network.children()]
    context = model.encoder.context(x)
    for position, stage in enumerate(_flat(stages)):
        x, log_det = stage(x, context)
        lines.append(_line(f"{position} {type(stage).__name__}", x, log_det))
        if not bool(x.isfinite().all() and log_det.isfinite().all()):
            lines.append("the first stage that is not finite is the last one above")
            break
    return "\n".join(lines)


def _flat(stages: list[torch.nn.Module]) -> list[torch.nn.Module]:
    flat: list[torch.nn.Module] = []
    for stage in stages:
        flat += list(stage) if isinstance(stage, torch.nn.ModuleList) else [stage]
    return flat


def _line(name: str, x: Tensor, log_det: Tensor | None) -> str:
    change = "" if log_det is None else f"{float(log_det.abs().max()):14.4g}"
    return f"{name:34} {float(x.abs().max()):10.4g} {change}"
