"""What is compared: a case is one piece of mathematics, a provider one implementation of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

__all__ = ["PASSES", "Case", "Job", "Options", "Pass", "Provider", "Tensors"]

Tensors = tuple[Tensor, ...]
Function = Callable[..., Tensors]
Pass = Literal["forward", "forward+backward", "inverse"]
PASSES: tuple[Pass, ...] = get_args(Pass)


@dataclass(frozen=True)
class Options:
    """What the cases are made for.

    Attributes:
        device: where they run.
        quick: tiny ones, which show that all works and measure nothing.
        compiles: with torch.compile's rows.
    """

    device: torch.device
    quick: bool = False
    compiles: bool = True


def as_given(*tensors: Tensor) -> Tensors:
    """The tensors as they are."""
    return tensors


@dataclass(frozen=True)
class Provider:
    """One implementation.

    Attributes:
        name: of the package.
        forward: its own inputs to the case's outputs, such as (y, log_det).
        inverse: the same inputs with y for x, to (x, log_det).
        relayout: the case's inputs to its own. Differentiable, never timed.
        weights: parameters of its own that are differentiated too.
        common: gradients of these weights to what all providers must agree on.
        compiled: whether torch.compile made it.
    """

    name: str
    forward: Function
    inverse: Function | None = None
    relayout: Function = as_given
    weights: Sequence[Tensor] = ()
    common: Function = as_given
    compiled: bool = False

    @property
    def label(self) -> str:
        """The name, and whether it is compiled."""
        return f"{self.name}, compiled" if self.compiled else self.name


@dataclass(frozen=True)
class Case:
    """One piece of mathematics on given numbers.

    Attributes:
        bench: couplings, mixture or networks.
        name: what is computed.
        inputs: what every provider is given; those that require a gradient are differentiated.
        providers: ours comes first, and is what the others are held against.
        heads: outputs to the tensors that gradients flow into, such as a loss; timed.
        passes: which are measured.
        tolerance: relative error between any provider and ours, ‖a - b‖ / ‖b‖ of each tensor.
        heads_only: compare only the heads, where rounding drowns all else.
        essential: whether the time is worth comparing with that of moving inputs and outputs.
        rounds: the least number of timed rounds.
        dtype: as recorded; default: of the first input.
    """

    bench: str
    name: str
    inputs: Tensors
    providers: Sequence[Provider]
    heads: Function = as_given
    passes: Sequence[Pass] = PASSES
    tolerance: float = 1e-4
    heads_only: bool = False
    essential: bool = False
    rounds: int = 7
    dtype: str = ""

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.inputs[0].device

    @property
    def shape(self) -> str:
        """Of the first input, such as 128x6x32x32."""
        return "x".join(map(str, self.inputs[0].shape))

    @property
    def dtype_name(self) -> str:
        """Such as float32."""
        return self.dtype or str(self.inputs[0].dtype).removeprefix("torch.")


class Job:
    """One provider doing one pass of a case; `prepare` before every call is not timed.

    Args:
        case: what it does.
        provider: who does it.
        kind: the pass.
        given: the case's inputs, or for the inverse the same with y for x.
        cotangents: what flows into the heads; none: ones.
    """

    def __init__(
        self,
        case: Case,
        provider: Provider,
        kind: Pass,
        given: Tensors,
        cotangents: Tensors | None = None,
    ) -> None:
        self.case, self.provider, self.kind = case, provider, kind
        self.cotangents = cotangents
        self.given = tuple(
            tensor.detach().requires_grad_(original.requires_grad and self.differentiated)
            for tensor, original in zip(given, case.inputs, strict=True)
        )
        self.own = provider.relayout(*self.given)
        self.leaves: list[Tensor] = []
        self.ready: list[Tensor] = []

    @property
    def differentiated(self) -> bool:
        """Whether the backward is part of it."""
        return self.kind == "forward+backward"

    def prepare(self) -> None:
        """Fresh inputs, for some providers overwrite theirs, and the same dropout masks for all."""
        self.release()
        torch.manual_seed(0)  # whoever runs a job has forked the global generators
        for tensor in self.own:
            leaf = tensor.detach().requires_grad_(tensor.requires_grad)
            if leaf.requires_grad:
                self.leaves.append(leaf)
            self.ready.append(leaf.clone())

    def release(self) -> None:
        """Forget the fresh inputs."""
        self.leaves, self.ready = [], []

    def __call__(self) -> tuple[Tensors, Tensors]:
        """Outputs, and the gradients of own inputs and then of own weights."""
        if self.differentiated:
            outputs = self.provider.forward(*self.ready)
            heads = self.case.heads(*outputs)
            wanted = [*self.leaves, *self.provider.weights]
            return outputs, torch.autograd.grad(heads, wanted, self.cotangents)
        function = self.provider.inverse if self.kind == "inverse" else self.provider.forward
        assert function is not None
        with torch.no_grad():
            return function(*self.ready), ()

    def comparable(self, gradients: Tensors) -> Tensors:
        """Gradients of own inputs and weights to those of the case's inputs, and `common` ones."""
        count = len(self.leaves)
        inputs = [tensor for tensor in self.given if tensor.requires_grad]
        own = [tensor for tensor in self.own if tensor.requires_grad]
        pulled: Tensors = ()
        if inputs:
            pulled = torch.autograd.grad(own, inputs, gradients[:count], retain_graph=True)
        return *pulled, *self.provider.common(*gradients[count:])
