"""Values that stop being finite stop the run, with their origin named, and are never saved.

An inverse that rounding has eaten shows in no loss; `check_inverse` measures it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import inf, isfinite
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor, nn

from flowclf.classifier import GenerativeClassifier, evaluating
from flowclf.nn.encoders import InvertibleEncoder

if TYPE_CHECKING:
    from flowclf.training.nonfinite_trace import Trace

__all__ = ["TrainingDiverged", "check_inverse", "check_results", "check_state", "raise_diverged"]

REMEDY = "a lower train.lr or train.clip_norm may help"
NOT_AGAIN = (
    "but is when this process computes it again: the hardware is faulty, steps are not repeatable, "
    "or it began in another process"
)


class TrainingDiverged(RuntimeError):
    """Loss, gradient, weight or result that is not finite; the last good checkpoint is kept."""


def raise_diverged(
    model: GenerativeClassifier,
    terms: dict[str, Tensor],
    norm: Tensor,
    step: int,
    again: Callable[[], dict[str, Tensor]],
) -> NoReturn:
    """Compute a step that is not finite again, operation by operation, and raise where it began.

    The model has the gradients of the step, of that norm; `again` computes the 0-dim terms of the
    loss once more, with their graph, from generators in the state of the first time.

    Raises:
        TrainingDiverged: always. The first line names step, terms, and the layer whose output or
            gradient is the first that is not finite; a table of the layers before follows.
    """
    from flowclf.training.nonfinite_trace import Trace

    trace = Trace(model)
    wrong = [name for name, value in terms.items() if not _all_finite(value)]
    what = f"loss term {' and '.join(wrong)}" if wrong else "the gradient"
    try:
        trace.follow(again)
        where = trace.value_from(wrong) if wrong else _gradient_from(model, trace)
    except torch.OutOfMemoryError:
        where = "and there is not enough memory to find its layer"
    values = ", ".join(f"{name} {float(value):.4g}" for name, value in terms.items())
    raise TrainingDiverged(
        f"step {step}: {what} is not finite, {where or NOT_AGAIN} ({values}, "
        f"gradient norm {float(norm):.4g}); {REMEDY}\n{trace.table()}"
    )


@torch.no_grad()
def check_inverse(model: GenerativeClassifier, x: Tensor, most: float = 0.1) -> tuple[float, float]:
    """Check that the map of a flow still has an inverse in floating-point numbers.

    No loss shows it where it is lost. One pass of a few samples in each direction costs little; in
    a loop of your own:

    >>> if step % 100 == 0:
    ...     check_inverse(model, x[:8])

    Args:
        model: any; without an inverse there is nothing to check.
        x: samples (B, *shape), as for `encode`.
        most: largest error, in standard deviations of x, and in nats per dimension.

    Returns:
        The largest |u(x) - u(decode(encode(x)))|, u the pre-processing, and the largest difference
        of the network's log-determinant to minus that of its inverse, in nats.

    Raises:
        TrainingDiverged: one of them is beyond `most`.
    """
    encoder = model.encoder
    if not isinstance(encoder, InvertibleEncoder):
        return 0.0, 0.0
    with evaluating(model):
        u, _ = encoder.preprocess(model.dequantize(x, torch.Generator(x.device).manual_seed(0)))
        z, log_det = encoder.network(u, encoder.context(u))
        back, log_det_back = encoder.network.inverse(z, encoder.context(z))
    gaps = ((u - back).abs().max(), (log_det + log_det_back).abs().max())
    error, nats = (float(gap.nan_to_num(inf, inf)) for gap in gaps)
    if error > most or nats > most * u[0].numel():
        raise TrainingDiverged(
            f"expected an inverse that gives samples back within {most:g} standard deviations, got "
            f"one off by {error:.2g}, and a log-determinant off by {nats:.2g} nats: densities and "
            f"draws are no longer those of one map; {REMEDY}, or a smaller network.clamp.limit"
        )
    return error, nats


def check_state(
    model: nn.Module, step: int, optimizer: torch.optim.Optimizer | None = None
) -> None:
    """Check that everything that would be saved after so many steps is finite.

    Raises:
        TrainingDiverged: names the first parameter, statistic or moment that is not.
    """
    wrong = [name for name, value in model.state_dict().items() if not _all_finite(value)]
    states = optimizer.state_dict()["state"] if optimizer else {}
    for number, state in states.items():
        moments = [name for name, value in state.items() if value is not None]
        wrong += [f"{n} of parameter {number}" for n in moments if not _all_finite(state[n])]
    if wrong:
        raise TrainingDiverged(f"after step {step}: {_first(wrong)} is not finite; {REMEDY}")


def check_results(results: Mapping[str, Any], step: int) -> None:
    """Check that every result measured after so many steps is finite.

    Raises:
        TrainingDiverged: names the first that is not.
    """
    for name, value in results.items():
        if isinstance(value, float) and not isfinite(value):
            raise TrainingDiverged(
                f"after step {step}: {name} of the held-out samples is {value}: one of them lies "
                f"too far from the training samples, or {REMEDY}"
            )


def _gradient_from(model: nn.Module, trace: Trace) -> str | None:
    """Name the first gradient that is not finite, and a parameter that depends on it."""
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    wrong = [name for name, gradient in gradients.items() if not _all_finite(gradient)]
    if not wrong:
        largest = max(gradients, key=lambda name: float(gradients[name].abs().max()))
        return f"as its norm is too large for {gradients[largest].dtype}, mostly in {largest}"
    return trace.gradient and f"first in that of {trace.gradient}, and so in {_first(wrong)}"


def _all_finite(values: Tensor) -> bool:
    return bool(values.isfinite().all())


def _first(names: Sequence[str]) -> str:
    return names[0] + (f" (and {len(names) - 1} more)" if len(names) > 1 else "")
