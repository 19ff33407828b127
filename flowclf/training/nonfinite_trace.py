"""Follows what is not finite through a loss and its gradient, back to the layer that made it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import fields, is_dataclass
from functools import partial
from math import inf, isfinite, isnan
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

__all__ = ["Trace", "all_finite"]

LAYERS = 8
UNINITIALISED = (torch.empty, torch.empty_like, Tensor.new_empty)


def all_finite(values: Tensor) -> bool:
    """Whether there is neither NaN nor infinity."""
    return bool(values.isfinite().all())


class Trace(TorchFunctionMode):
    """Looks at every number that a model computes while it is active: slow, for one step.

    A layer is told by the stack: whatever is computed belongs to the innermost module a method of
    which is being run, be it `forward` or not.

    Args:
        model: whose layers they are.

    Attributes:
        gradient: the first, in the order of the backward, with respect to which the gradient is not
            finite: a parameter, or what a layer computes.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.gradient: str | None = None
        self._model = model
        self._names = {id(module): name for name, module in model.named_modules()}
        # Of each tensor in turn its layer and largest |number|.
        self._seen: list[tuple[str, float]] = []
        # What is not finite, kept so that its id is not given out again, and which it is from.
        self._wrong: dict[int, tuple[Tensor, int]] = {}
        self._terms: dict[str, Tensor] = {}
        self._origin: int | None = None

    def follow(self, loss: Callable[[], dict[str, Tensor]]) -> None:
        """Compute the terms of a loss, and the gradient of their `total`."""
        learned = {name: p for name, p in self._model.named_parameters() if p.requires_grad}
        for name, parameter in learned.items():
            self._watch(parameter, name)
        # What has been compiled runs as it is written; else its import would take seconds.
        compiles = "torch._dynamo" in sys.modules
        with torch.compiler.set_stance("force_eager") if compiles else nullcontext(), self:
            self._terms = loss()
        # Not by backward(), which would add to gradients, and wait for other processes.
        torch.autograd.grad(self._terms["total"], list(learned.values()), allow_unused=True)

    def value_from(self, terms: Iterable[str]) -> str | None:
        """In words, the layer where one of these terms stopped being finite; None: none did."""
        found = [self._wrong.get(id(self._terms[name])) for name in terms]
        self._origin = min((entry[1] for entry in found if entry), default=None)
        if self._origin is None:
            return None
        layer, _ = self._seen[self._origin]
        if not layer:
            return f"first in {type(self._model).__name__}'s objective"
        parameters = self._model.get_submodule(layer).named_parameters()
        wrong = [name for name, value in parameters if not all_finite(value)]
        return f"first in {layer}" + (f", whose {wrong[0]} is not" if wrong else "")

    def table(self) -> str:
        """The largest |number| in each of the last layers, up to what `value_from` has found."""
        largest: dict[str, float] = {}
        end = None if self._origin is None else self._origin + 1
        for name, size in self._seen[:end]:
            largest[name] = max(largest.pop(name, 0.0), size)
        rows = [f"{name or 'the objective':60} {size:11.4g}" for name, size in largest.items()]
        return "\n".join([f"{'layer':60} max |value|", *rows[-LAYERS:]])

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Compute, and look at what came of it."""
        result = function(*args, **(kwargs or {}))
        made = [value for value in _tensors(result) if value.is_floating_point()]
        if made and function not in UNINITIALISED:
            layer = self._layer()
            sources = (self._wrong.get(id(value)) for value in _tensors((args, kwargs)))
            origin = next((source[1] for source in sources if source), None)
            for value in made:
                self._look(value, layer, origin)
        return result

    def _layer(self) -> str:
        """Its dotted name; empty: the model itself."""
        frame = sys._getframe(2)
        while frame.f_back is not None:
            name: str | None = self._names.get(id(frame.f_locals.get("self")))
            if name is not None:
                return name
            frame = frame.f_back
        return ""

    def _look(self, value: Tensor, layer: str, origin: int | None) -> None:
        size = float(value.detach().abs().max()) if value.numel() else 0.0
        # Computed in place it may have been another before.
        self._wrong.pop(id(value), None)
        if not isfinite(size):
            self._wrong[id(value)] = (value, len(self._seen) if origin is None else origin)
        self._seen.append((layer, inf if isnan(size) else size))
        if value.grad_fn is not None:
            self._watch(value, f"what {layer or 'the objective'} computes")

    def _watch(self, value: Tensor, name: str) -> None:
        value.register_hook(partial(self._passed, name))

    def _passed(self, name: str, gradient: Tensor | None) -> None:
        # None: of an operator's result that the loss does not depend on.
        if self.gradient is None and gradient is not None and not all_finite(gradient):
            self.gradient = name


def _tensors(value: Any) -> Iterator[Tensor]:
    """All in a structure of tuples, lists, dictionaries and dataclasses."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)
    elif is_dataclass(value):
        yield from _tensors([getattr(value, field.name) for field in fields(value)])
