"""Numbers that stop being finite stop the run, say where they began, and are never saved."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

from flowclf.classifier import GenerativeClassifier
from flowclf.support.seeding import private_rng
from flowclf.training.nonfinite_trace import Trace, all_finite

__all__ = ["TrainingDiverged", "check_finite", "check_results", "check_state"]

REMEDY = "a lower train.lr or train.clip_norm may help"
NOT_AGAIN = (
    "but is when this process computes it again: the machine errs, steps are not repeatable, or it "
    "was in another process"
)


class TrainingDiverged(RuntimeError):
    """A term, a gradient or what came of them is not finite; the last good checkpoint is kept."""


def check_finite(
    model: GenerativeClassifier,
    terms: dict[str, Tensor],
    norm: Tensor,
    step: int,
    again: Callable[[], dict[str, Tensor]],
    seed: int,
) -> None:
    """Do nothing while all terms and the gradient's norm are finite; one wait for the device.

    Otherwise the step is computed again, and followed number by number.

    Args:
        model: whose layers are named; its gradients are those of the step.
        terms: of the loss, 0-dim.
        norm: of the gradient.
        step: for the message.
        again: gives the terms once more, with their graph.
        seed: torch's generator had it when they were first computed.

    Raises:
        TrainingDiverged: its first line names step, terms, and the layer where it begins: what that
            computes, or what the loss's gradient with respect to that is. Then the layers before.
    """
    if bool(torch.stack([*terms.values(), norm]).isfinite().all()):
        return
    trace = Trace(model)
    wrong = [name for name, value in terms.items() if not all_finite(value)]
    what = f"loss term {' and '.join(wrong)}" if wrong else "the gradient"
    try:
        with private_rng(seed, norm.device):
            trace.follow(again)
        where = trace.value_from(wrong) if wrong else _gradient_from(model, trace)
    except torch.OutOfMemoryError:
        where = "and there is not enough memory to look for its layer"
    values = ", ".join(f"{name} {float(value):.4g}" for name, value in terms.items())
    raise TrainingDiverged(
        f"step {step}: {what} is not finite, {where or NOT_AGAIN} ({values}, "
        f"gradient norm {float(norm):.4g}); {REMEDY}\n{trace.table()}"
    )


def check_state(
    model: nn.Module, step: int, optimizer: torch.optim.Optimizer | None = None
) -> None:
    """Do nothing while all is finite that would be saved after so many steps.

    Raises:
        TrainingDiverged: naming the first parameter, statistic or moment that is not.
    """
    wrong = [name for name, value in model.state_dict().items() if not all_finite(value)]
    states = optimizer.state_dict()["state"] if optimizer else {}
    for number, state in states.items():
        moments = [name for name, value in state.items() if value is not None]
        wrong += [f"{n} of parameter {number}" for n in moments if not all_finite(state[n])]
    if wrong:
        raise TrainingDiverged(f"after step {step}: {_first(wrong)} is not finite; {REMEDY}")


def check_results(results: Mapping[str, Any], step: int) -> None:
    """Do nothing while every number is finite that was measured after so many steps.

    Raises:
        TrainingDiverged: naming the first that is not.
    """
    for name, value in results.items():
        if isinstance(value, float) and not isfinite(value):
            raise TrainingDiverged(
                f"after step {step}: {name} of the samples held out is {value}: one of them lies "
                f"too far from those trained on, or {REMEDY}"
            )


def _gradient_from(model: nn.Module, trace: Trace) -> str | None:
    """Where the first gradient is not finite, and which parameters learn from it."""
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    wrong = [name for name, gradient in gradients.items() if not all_finite(gradient)]
    if not wrong:
        largest = max(gradients, key=lambda name: float(gradients[name].abs().max()))
        return f"as its norm is too large for {gradients[largest].dtype}, most of all in {largest}"
    return trace.gradient and f"first in that of {trace.gradient}, and so in {_first(wrong)}"


def _first(names: Sequence[str]) -> str:
    return names[0] + (f" (and {len(names) - 1} more)" if len(names) > 1 else "")
