"""How a chain remembers what its backward needs: all of it, or one tensor a segment.

Invertible maps need not keep their activations: from a segment's output z the backward walks back,
stage by stage, with the exact inverse, and differentiates each stage where it passes. Rounding
errors grow along the way; every segment starts anew from its own stored output, an anchor.

Gomez et al., "The Reversible Residual Network", NeurIPS 2017.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from couplings.core import Invertible

__all__ = ["MODES", "Memory", "Restored", "Segment", "run_segment"]

Memory = Literal["store", "recompute", "checkpoint"]
MODES: tuple[Memory, ...] = get_args(Memory)
Result = tuple[Tensor, Tensor]


class Segment(NamedTuple):
    """Stages in a row that remember in one way."""

    memory: Memory
    stages: list[Invertible]


class Restored(NamedTuple):
    """A stage evaluated again from its output: a graph from `leaves` to (z, log_det).

    Attributes:
        leaves: tensors that require a gradient and make up the input.
        join: of the leaves (or their gradients) to the input (or its gradient).
        z, log_det: what the stage returned.
    """

    leaves: tuple[Tensor, ...]
    join: Callable[..., Tensor]
    z: Tensor
    log_det: Tensor


def run_segment(segment: Segment, x: Tensor, context: Tensor | None) -> Result:
    """z and log_det (B,) of all stages of a segment, remembered as it says."""
    if segment.memory == "recompute":
        parameters = _trained(segment.stages)
        result: Result = _Recompute.apply(segment.stages, x, context, *parameters)
        return result
    if segment.memory == "checkpoint":
        return checkpoint(
            _run,
            segment.stages,
            x,
            context,
            use_reentrant=False,
            context_fn=lambda: (nullcontext(), _frozen_statistics(segment.stages)),
        )
    return _run(segment.stages, x, context)


def _run(stages: Sequence[Invertible], x: Tensor, context: Tensor | None) -> Result:
    total: Tensor | None = None
    for stage in stages:
        x, log_det = stage(x, context)
        total = log_det if total is None else total + log_det
    assert total is not None
    return x, total


class _Recompute(torch.autograd.Function):
    """The stages, keeping their output alone; parameters are inputs so that hooks see them."""

    @staticmethod
    def forward(
        ctx: Any,
        stages: Sequence[Invertible],
        x: Tensor,
        context: Tensor | None,
        *parameters: Tensor,
    ) -> Result:
        ctx.stages, ctx.rng_states = stages, []
        ctx.autocast = _autocast(x.device.type)
        total = x.new_zeros(len(x), dtype=torch.promote_types(x.dtype, torch.float32))
        for stage in stages:
            ctx.rng_states.append(_rng_state(x) if stage.training else None)
            x, log_det = stage(x, context)
            total = total + log_det
        # The parameters cost nothing here, and an optimizer step before the backward is noticed.
        ctx.save_for_backward(x, context, *parameters)
        return x, total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_log_det: Tensor) -> tuple[Tensor | None, ...]:
        z, context, *parameters = ctx.saved_tensors
        if context is not None:
            context = context.detach().requires_grad_(ctx.needs_input_grad[2])
        sums: dict[Tensor | None, Tensor] = {}
        with torch.random.fork_rng(_cuda_devices(z)), _frozen_statistics(ctx.stages):
            for stage, state in zip(reversed(ctx.stages), reversed(ctx.rng_states), strict=True):
                _set_rng_state(state, z)
                with torch.enable_grad(), ctx.autocast:
                    restored = stage.restore(z, context)
                z, grad = _step_back(stage, restored, context, grad, grad_log_det, sums)
        return None, grad, sums.get(context), *map(sums.get, parameters)


def _step_back(
    stage: Invertible,
    restored: Restored,
    context: Tensor | None,
    grad: Tensor,
    grad_log_det: Tensor,
    sums: dict[Tensor | None, Tensor],
) -> Result:
    """The stage's input and the gradient there; adds to `sums` what context and parameters get."""
    wanted = _trained([stage])
    if context is not None and context.requires_grad and stage.context_features:
        wanted.append(context)
    pairs = zip((restored.z, restored.log_det), (grad, grad_log_det), strict=True)
    outputs, upstream = zip(*((out, up) for out, up in pairs if out.requires_grad), strict=True)
    grads = torch.autograd.grad(
        outputs, (*restored.leaves, *wanted), upstream, allow_unused=True, materialize_grads=True
    )
    count = len(restored.leaves)
    for tensor, gradient in zip(wanted, grads[count:], strict=True):
        sums[tensor] = sums[tensor] + gradient if tensor in sums else gradient
    x = restored.join(*(leaf.detach() for leaf in restored.leaves))
    return x, restored.join(*grads[:count])


def _trained(stages: Sequence[Invertible]) -> list[Tensor]:
    found = {p: None for stage in stages for p in stage.parameters() if p.requires_grad}
    return list(found)


@contextmanager
def _frozen_statistics(stages: Sequence[nn.Module]) -> Iterator[None]:
    """BatchNorm normalises by the batch, but does not count it a second time."""
    modules = [module for stage in stages for module in stage.modules()]
    norms = [m for m in modules if isinstance(m, _BatchNorm) and m.training]
    counted = [(n, n.momentum, _copy(n.num_batches_tracked)) for n in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, batches in counted:
            norm.momentum, norm.num_batches_tracked = momentum, batches


def _copy(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.clone()


def _autocast(device_type: str) -> torch.autocast:
    """The present autocast, to be entered again."""
    return torch.autocast(
        device_type,
        dtype=torch.get_autocast_dtype(device_type),
        enabled=torch.is_autocast_enabled(device_type),
        cache_enabled=False,
    )


def _rng_state(x: Tensor) -> tuple[Tensor, ...]:
    states = [torch.cuda.get_rng_state(device) for device in _cuda_devices(x)]
    return (torch.get_rng_state(), *states)


def _set_rng_state(state: tuple[Tensor, ...] | None, x: Tensor) -> None:
    if state is None:
        return
    torch.set_rng_state(state[0])
    for device, cuda_state in zip(_cuda_devices(x), state[1:], strict=True):
        torch.cuda.set_rng_state(cuda_state, device)


def _cuda_devices(x: Tensor) -> list[torch.device]:
    return [x.device] if x.is_cuda else []
