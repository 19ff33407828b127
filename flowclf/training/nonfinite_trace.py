"""Trace of one step that is not finite, back to the layer where it began.

Models compute outside of `forward` as well (densities, objectives), where module hooks see nothing.
So a `TorchFunctionMode` looks at every operation, and the call stack (`sys._getframe`) names the
module whose method runs it. That is slow, and happens once: when a run has diverged anyway.
"""

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

__all__ = ["Trace"]

LAYERS = 8
UNINITIALISED = (torch.empty, torch.empty_like, Tensor.new_empty)


class Trace(TorchFunctionMode):
    """Record of every floating-point tensor that a model computes while the mode is active.

    A tensor belongs to the innermost module of the model that has a method on the call stack.

    Attributes:
        gradient: the first gradient, in the order of the backward pass, that is not finite, named
            by its parameter or by the layer whose output it belongs to.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.gradient: str | None = None
        self._model = model
        self._names = {id(module): name for name, module in model.named_modules()}
        # Layer and largest |value| of each tensor, in order.
        self._seen: list[tuple[str, float]] = []
        # Tensors that are not finite, kept alive so that ids stay unique, and where they began.
        self._wrong: dict[int, tuple[Tensor, int]] = {}
        self._terms: dict[str, Tensor] = {}
        self._origin: int | None = None

    def follow(self, loss: Callable[[], dict[str, Tensor]]) -> None:
        """Compute the terms of a loss, and the gradient of their `total`."""
        learned = {name: p for name, p in self._model.named_parameters() if p.requires_grad}
        for name, parameter in learned.items():
            parameter.register_hook(partial(self._passed, name))
        # Compiled code runs eagerly here; without any, importing the compiler would take seconds.
        compiles = "torch._dynamo" in sys.modules
        with torch.compiler.set_stance("force_eager") if compiles else nullcontext(), self:
            self._terms = loss()
        # Not backward(), which would accumulate gradients and wait for other ranks.
        torch.autograd.grad(self._terms["total"], list(learned.values()), allow_unused=True)

    def value_from(self, terms: Iterable[str]) -> str | None:
        """Describe the layer where one of these terms stopped being finite; None: none did."""
        found = [self._wrong.get(id(self._terms[name])) for name in terms]
        self._origin = min((entry[1] for entry in found if entry), default=None)
        if self._origin is None:
            return None
        layer, _ = self._seen[self._origin]
        if not layer:
            return f"first in {type(self._model).__name__}'s objective"
        parameters = self._model.get_submodule(layer).named_parameters()
        wrong = [name for name, value in parameters if not bool(value.isfinite().all())]
        return f"first in {layer}" + (f", whose {wrong[0]} is not" if wrong else "")

    def table(self) -> str:
        """Tabulate the largest |value| of the last layers, up to what `value_from` found."""
        largest: dict[str, float] = {}
        end = None if self._origin is None else self._origin + 1
        for name, size in self._seen[:end]:
            largest[name] = max(largest.pop(name, 0.0), size)
        rows = [f"{name or 'the objective':60} {size:11.4g}" for name, size in largest.items()]
        return "\n".join([f"{'layer':60} max |value|", *rows[-LAYERS:]])

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Compute the operation, and record its results."""
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
        """Return the dotted name of the layer on the stack; empty: the model itself."""
        frame = sys._getframe(2)
        while frame.f_back is not None:
            name: str | None = self._names.get(id(frame.f_locals.get("self")))
            if name is not None:
                return name
            frame = frame.f_back
        return ""

    def _look(self, value: Tensor, layer: str, origin: int | None) -> None:
        size = float(value.detach().abs().max()) if value.numel() else 0.0
        # An operation in place reuses the tensor of an earlier one.
        self._wrong.pop(id(value), None)
        if not isfinite(size):
            self._wrong[id(value)] = (value, len(self._seen) if origin is None else origin)
        self._seen.append((layer, inf if isnan(size) else size))
        if value.grad_fn is not None:
            name = f"what {layer or 'the objective'} computes"
            value.register_hook(partial(self._passed, name))

    def _passed(self, name: str, gradient: Tensor | None) -> None:
        # None: the loss does not depend on this result.
        if self.gradient is None and gradient is not None and not bool(gradient.isfinite().all()):
            self.gradient = name


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield all tensors in a structure of tuples, lists, dictionaries and dataclasses."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)
    elif is_dataclass(value):
        yield from _tensors([getattr(value, field.name) for field in fields(value)])
