"""Memory modes of a chain: what is kept for its backward, everything or one tensor per segment.

Invertible maps need not keep their activations: from a segment's output z the backward walks back,
stage by stage, with the exact inverse, and differentiates each stage on the way. Rounding errors
grow along it; every segment starts anew from its own stored output, an anchor.

Gomez et al., "The Reversible Residual Network", NeurIPS 2017.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol, get_args

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint, get_device_states, set_device_states

__all__ = ["MODES", "Memory", "Restored", "Segment", "Stage", "Step"]

Memory = Literal["store", "recompute", "checkpoint"]
MODES: tuple[Memory, ...] = get_args(Memory)
Result = tuple[Tensor, Tensor]
Step = Callable[[Tensor, Tensor | None], Result]


class Restored(NamedTuple):
    """Stage evaluated again from its output: a graph from `leaves` to (z, log_det)."""

    leaves: tuple[Tensor, ...]  # require a gradient and make up the input
    join: Callable[..., Tensor]  # of the leaves (or their gradients) to the input (or its gradient)
    z: Tensor
    log_det: Tensor


class Stage(Protocol):
    """Map of a chain, as the memory modes use it: `couplings.Invertible`."""

    training: bool
    context_features: int

    def __call__(self, x: Tensor, context: Tensor | None) -> Result: ...

    def modules(self) -> Iterator[nn.Module]: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def restore(self, z: Tensor, context: Tensor | None) -> Restored: ...


@dataclass
class Segment:
    """Consecutive stages with one memory mode; called as a map."""

    memory: Memory
    stages: list[Stage]

    def __call__(self, x: Tensor, context: Tensor | None) -> Result:
        """Return z and log_det (B,) of all stages, keeping for the backward what the mode says."""
        if self.memory == "recompute":
            result: Result = _Recompute.apply(self.stages, x, context, *_trained(self.stages))
            return result
        if self.memory == "checkpoint":
            again = partial(_again, self.stages, _generator_states(self.stages))
            return checkpoint(
                *(_run, self.stages, x, context),
                use_reentrant=False,
                context_fn=lambda: (nullcontext(), again()),
            )
        return _run(self.stages, x, context)


def _run(stages: Iterable[Step], x: Tensor, context: Tensor | None) -> Result:
    log_dets = []
    for stage in stages:
        x, log_det = stage(x, context)
        log_dets.append(log_det)
    return x, torch.stack(log_dets).sum(0)


class _Recompute(torch.autograd.Function):
    """Stages that keep only their output; parameters are inputs so that hooks see them."""

    @staticmethod
    def forward(
        ctx: Any, stages: Sequence[Stage], x: Tensor, context: Tensor | None, *parameters: Tensor
    ) -> Result:
        ctx.stages, ctx.rng_states = stages, []
        ctx.autocast = _autocast(x.device.type)

        def noted(stage: Stage, x: Tensor, context: Tensor | None) -> Result:
            state = (torch.get_rng_state(), *get_device_states(x)) if stage.training else None
            ctx.rng_states.append((state, _generator_states([stage])))
            return stage(x, context)

        z, log_det = _run([partial(noted, stage) for stage in stages], x, context)
        # The parameters cost nothing here, and an optimizer step before the backward is noticed.
        ctx.save_for_backward(z, context, *parameters)
        return z, log_det

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_log_det: Tensor) -> tuple[Tensor | None, ...]:
        z, context, *parameters = ctx.saved_tensors
        if context is not None:
            context = context.detach().requires_grad_(ctx.needs_input_grad[2])
        sums: dict[Tensor | None, Tensor] = {}
        devices = [z.device] if z.is_cuda else []
        with torch.random.fork_rng(devices), _frozen_statistics(ctx.stages):
            pairs = zip(reversed(ctx.stages), reversed(ctx.rng_states), strict=True)
            for stage, (state, own) in pairs:
                if state is not None:
                    torch.set_rng_state(state[0])
                    set_device_states(*state[1:])
                with torch.enable_grad(), ctx.autocast, _rewound(own):
                    restored = stage.restore(z, context)
                z, grad = _step_back(stage, restored, context, grad, grad_log_det, sums)
        return None, grad, sums.get(context), *map(sums.get, parameters)


def _step_back(
    stage: Stage,
    restored: Restored,
    context: Tensor | None,
    grad: Tensor,
    grad_log_det: Tensor,
    sums: dict[Tensor | None, Tensor],
) -> Result:
    """Return a stage's input and its gradient; add those of context and parameters to `sums`."""
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


def _trained(stages: Sequence[Stage]) -> list[Tensor]:
    found = {p: None for stage in stages for p in stage.parameters() if p.requires_grad}
    return list(found)


@contextmanager
def _frozen_statistics(stages: Sequence[Stage]) -> Iterator[None]:
    """Keep BatchNorm's running statistics from seeing the batch a second time."""
    modules = [module for stage in stages for module in stage.modules()]
    norms = [m for m in modules if isinstance(m, _BatchNorm) and m.training]
    counted = [(norm, norm.momentum, deepcopy(norm.num_batches_tracked)) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, batches in counted:
            norm.momentum, norm.num_batches_tracked = momentum, batches


States = list[tuple[torch.Generator, Tensor]]


def _generator_states(stages: Sequence[Stage]) -> States:
    """Return the states of the generators that layers in training, such as Dropout, draw from."""
    layers = [m for stage in stages for m in stage.modules() if m.training]
    found = dict.fromkeys(getattr(layer, "generator", None) for layer in layers)
    return [(each, each.get_state()) for each in found if isinstance(each, torch.Generator)]


@contextmanager
def _rewound(states: States) -> Iterator[None]:
    """Draw within the block what was drawn from these states on."""
    before = [(generator, generator.get_state()) for generator, _ in states]
    for generator, state in states:
        generator.set_state(state)
    try:
        yield
    finally:
        for generator, state in before:
            generator.set_state(state)


@contextmanager
def _again(stages: Sequence[Stage], states: States) -> Iterator[None]:
    """Evaluate stages within the block as the first time, and leave no trace of the second."""
    with _frozen_statistics(stages), _rewound(states):
        yield


def _autocast(device_type: str) -> torch.autocast:
    """Return the current autocast, to enter it again."""
    return torch.autocast(
        device_type,
        dtype=torch.get_autocast_dtype(device_type),
        enabled=torch.is_autocast_enabled(device_type),
        cache_enabled=False,
    )
