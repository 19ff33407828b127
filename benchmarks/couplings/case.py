"""A case is one piece of mathematics, a provider one implementation of it, a job one pass."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor

Tensors = tuple[Tensor, ...]
Function = Callable[..., Tensors]
Pass = Literal["forward", "forward+backward", "inverse"]
PASSES: tuple[Pass, ...] = get_args(Pass)
PEERS = ("FrEIA", "nflows", "normflows", "zuko")


@dataclass(frozen=True)
class Options:
    """Options of all cases."""

    device: torch.device
    quick: bool = False  # tiny ones, which show that all works and measure nothing
    compiles: bool = True  # with torch.compile's rows


def as_given(*tensors: Tensor) -> Tensors:
    """Return the tensors as they are."""
    return tensors


def label(row: Mapping[str, object]) -> str:
    """Name a row's provider, and whether it is compiled."""
    return f"{row['provider']}{', compiled' if str(row['compiled']) == 'True' else ''}"


@dataclass(frozen=True)
class Provider:
    """One implementation."""

    name: str  # of the package
    forward: Function  # its own inputs to the case's outputs, such as (y, log_det)
    inverse: Function | None = None  # the same inputs with y for x, to (x, log_det)
    relayout: Function = as_given  # the case's inputs to its own. Differentiable, never timed
    weights: Sequence[Tensor] = ()  # parameters of its own that are differentiated too
    # gradients of these weights to those that all providers must agree on
    common: Function = as_given
    compiled: bool = False  # whether torch.compile made it

    @classmethod
    def two_way(cls, name: str, run: Callable[..., Any], **options: Any) -> Self:
        """Make one of a function of its inputs and `inverse`."""
        return cls(
            name,
            lambda *inputs: run(*inputs, inverse=False),
            lambda *inputs: run(*inputs, inverse=True),
            **options,
        )

    @property
    def label(self) -> str:
        """Name, and whether it is compiled."""
        return label({"provider": self.name, "compiled": self.compiled})


def compiled(providers: Sequence[Provider], wanted: bool = True, **options: Any) -> list[Provider]:
    """Compile the functions of each for the very shapes of the case."""
    compile_ = partial(torch.compile, dynamic=False, **options)
    return [
        replace(
            p, forward=compile_(p.forward), inverse=p.inverse and compile_(p.inverse), compiled=True
        )
        for p in (providers if wanted else ())
    ]


def from_peers(makers: Mapping[str, Callable[[], Provider]]) -> list[Provider]:
    """Make the providers of the peers that are installed."""
    return [make() for peer, make in makers.items() if find_spec(peer)]


def report_missing_peers() -> None:
    """Name every peer whose rows will be missing, a line each."""
    for peer in PEERS:
        if find_spec(peer) is None:
            notice(f"{peer} is not installed, its rows are left out (pip install 'flowclf[bench]')")


def notice(text: str) -> None:
    """Print a line to standard error."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Case:
    """One piece of mathematics on given numbers."""

    bench: str  # couplings, mixture or networks
    name: str  # what is computed
    inputs: Tensors  # of every provider; those that require a gradient are differentiated
    providers: Sequence[Provider]  # ours comes first, and is what the others are held against
    # outputs to the tensors that gradients flow into, such as a loss; timed
    heads: Function = as_given
    passes: Sequence[Pass] = PASSES  # which are measured
    # relative error between any provider and ours, ‖a - b‖ / ‖b‖ of each tensor
    tolerance: float = 1e-4
    heads_only: bool = False  # compare only the heads, where rounding drowns all else
    # whether the time is worth comparing with that of moving inputs and outputs
    essential: bool = False
    rounds: int = 7  # the least number of timed rounds
    dtype: str = ""  # as recorded; default: of the first input

    @property
    def device(self) -> torch.device:
        """Device of the inputs."""
        return self.inputs[0].device

    @property
    def shape(self) -> str:
        """Shape of the first input, such as 128x6x32x32."""
        return "x".join(map(str, self.inputs[0].shape))

    @property
    def dtype_name(self) -> str:
        """Such as float32."""
        return self.dtype or str(self.inputs[0].dtype).removeprefix("torch.")


class Job:
    """One provider doing one pass of a case; `prepare` before every call is not timed.

    `given` are the case's inputs, or for the inverse the same with y for x; `cotangents` flow into
    the heads (default: ones). `first_seconds`, of the first call, include compilation.
    """

    first_seconds: float
    output_bytes: int

    def __init__(
        self,
        case: Case,
        provider: Provider,
        kind: Pass,
        given: Tensors,
        cotangents: Tensors | None = None,
    ) -> None:
        self.case, self.provider, self.kind, self.cotangents = case, provider, kind, cotangents
        self.differentiated = kind == "forward+backward"
        self.given = tuple(
            tensor.detach().requires_grad_(original.requires_grad and self.differentiated)
            for tensor, original in zip(given, case.inputs, strict=True)
        )
        self.own = provider.relayout(*self.given)
        self.leaves: list[Tensor] = []
        self.ready: list[Tensor] = []

    def prepare(self) -> None:
        """Copy the inputs, which some providers overwrite, and seed the dropout masks alike."""
        torch.manual_seed(0)  # whoever runs a job has forked the global generators
        self.leaves = [t.detach().requires_grad_() for t in self.own if t.requires_grad]
        leaves = iter(self.leaves)
        self.ready = [(next(leaves) if t.requires_grad else t).clone() for t in self.own]

    def release(self) -> None:
        """Forget the copied inputs."""
        self.leaves, self.ready = [], []

    def __call__(self) -> tuple[Tensors, Tensors]:
        """Return the outputs, and the gradients of own inputs and then of own weights."""
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
        """Pull gradients of own inputs and weights back to the case's inputs and `common` ones."""
        count = len(self.leaves)
        inputs = [tensor for tensor in self.given if tensor.requires_grad]
        own = [tensor for tensor in self.own if tensor.requires_grad]
        pulled: Tensors = ()
        if inputs:
            pulled = torch.autograd.grad(own, inputs, gradients[:count], retain_graph=True)
        return *pulled, *self.provider.common(*gradients[count:])
