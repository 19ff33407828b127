"""The contract of an invertible map, and the chain that composes them.

    forward(x, context=None) -> (z, log_det)      log_det = log|det dz/dx|, (B,), nats per sample
    inverse(z, context=None) -> (x, log_det)      log_det = log|det dx/dz|, (B,)

Tensors in, tensors out; `log_det` is always float32 or wider, in the direction evaluated. Values
are not inspected, since a GPU would have to wait: what is not finite stays in its own sample.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Self

import torch
from torch import Tensor, nn

from couplings.memory import MODES, Memory, Restored, Segment, Step
from couplings.ops.dispatch import needs_reference, widened

__all__ = [
    "Chain",
    "Inverse",
    "Invertible",
    "Shape",
    "ShapeError",
    "constant_log_det",
    "sum_log_det",
]

Shape = tuple[int, ...]

# Stages between two stored tensors of memory="recompute": see the measured drift in the README.
ANCHOR_EVERY = 32


class ShapeError(ValueError):
    """Error: a tensor or a neighbouring map has another shape than a map was built for."""


def sum_log_det(elementwise: Tensor) -> Tensor:
    """Sum (B, ...) elementwise log-derivatives to (B,), in float32 or wider."""
    return elementwise.flatten(1).sum(1, dtype=widened(elementwise.dtype))


def constant_log_det(x: Tensor, value: float | Tensor) -> Tensor:
    """Return the same log-determinant for every sample of x: (B,), in float32 or wider."""
    return torch.as_tensor(value, dtype=widened(x.dtype), device=x.device).expand(x.shape[0])


class Invertible(nn.Module, ABC):
    """Base of every map. A new map implements two methods and calls `super().__init__`:

    - `_forward(x, context)` MUST return z (B, *out_shape) and log|det dz/dx| (B,);
    - `_inverse(z, context)` MUST return x (B, *in_shape) and log|det dx/dz| (B,).

    Both may rely on the shapes, which are checked here. `couplings.testing.assert_invertible`
    holds a map against the contract.

    Args:
        in_shape: shape of one sample, without the batch dimension.
        out_shape: shape of one latent; default: as `in_shape`.
        context_features: width of the conditional input (B, context_features); 0: none is used.

    Raises:
        ShapeError: the two shapes do not hold the same number of dimensions.
    """

    # Constants kept in float64 however the module is cast, and cast where they are used: a rotation
    # rounded to float32 is no longer orthogonal, and .double() could not bring it back.
    float64_buffers: tuple[str, ...] = ()

    def __init__(
        self,
        in_shape: Iterable[int],
        out_shape: Iterable[int] | None = None,
        context_features: int = 0,
    ) -> None:
        super().__init__()
        self.in_shape: Shape = tuple(in_shape)
        self.out_shape: Shape = self.in_shape if out_shape is None else tuple(out_shape)
        self.context_features = context_features
        if _size(self.in_shape) != _size(self.out_shape):
            raise ShapeError(
                f"{type(self).__name__}: an invertible map keeps the number of dimensions; "
                f"got {self.in_shape} -> {self.out_shape}"
            )

    @property
    def dims(self) -> int:
        """Number of dimensions of one sample."""
        return _size(self.in_shape)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return z and log|det dz/dx| (B,) of x (B, *in_shape).

        Raises:
            ShapeError: an x or context of another shape, type or device than the map's.
        """
        return self._checked(self._forward, x, self.in_shape, context)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return x and log|det dx/dz| (B,) of z (B, *out_shape).

        Raises:
            ShapeError: as `forward`.
        """
        return self._checked(self._inverse, z, self.out_shape, context)

    @abstractmethod
    def _forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]: ...

    @abstractmethod
    def _inverse(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]: ...

    def broken_invariant(self) -> str | None:
        """Name the property that the map's fixed numbers should have and lack; None: all is well.

        Whoever loads numbers from a file asks: the map itself relies on it.
        """
        return None

    def restore(self, z: Tensor, context: Tensor | None = None) -> Restored:
        """Evaluate again from the output z, under a gradient: see `couplings.memory.Restored`.

        A map whose inverse and forward share work (a coupling: its network) may override this.
        """
        with torch.no_grad():
            x, _ = self.inverse(z, context)
        x = x.detach().requires_grad_()
        return Restored((x,), lambda leaf: leaf, *self(x, context))

    def _checked(
        self,
        direction: Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]],
        x: Tensor,
        shape: Shape,
        context: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        context = self._check(x, shape, context)
        try:
            return direction(x, context)
        except RuntimeError as error:
            self._explain(error, x, context)
            raise

    def _check(self, x: Tensor, shape: Shape, context: Tensor | None) -> Tensor | None:
        if not isinstance(x, Tensor):
            raise self._error("a tensor", type(x).__name__)
        if x.shape[1:] != shape or x.dim() == 0:
            raise self._error(f"input of shape (B, {', '.join(map(str, shape))})", tuple(x.shape))
        if not x.is_floating_point():
            raise self._error("a floating-point tensor", f"{x.dtype}; convert with .float()")
        own = next(iter(self._buffers.values()), None)
        if own is not None and own.device != x.device:
            got = f"{x.device}; convert either with .to()"
            raise self._error(f"input on {own.device}, as the map is", got)
        # A chain hands its context to every stage: one that takes none must not see it.
        if not self.context_features:
            return None
        expected = (x.shape[0], self.context_features)
        if not isinstance(context, Tensor):
            got = "none" if context is None else type(context).__name__
            raise self._error(f"context of shape {expected}", got)
        if context.shape != expected:
            raise self._error(f"context of shape {expected}", tuple(context.shape))
        return context

    def _error(self, expected: str, got: object) -> ShapeError:
        return ShapeError(f"{type(self).__name__}: expected {expected}, got {got}")

    def _explain(self, error: RuntimeError, x: Tensor, context: Tensor | None) -> None:
        """Raise a clearer error if x or the context do not match the parameters.

        Raises:
            ShapeError: naming what differs.
        """
        parameter = next((p for p in self.parameters() if p.is_floating_point()), None)
        if parameter is None:
            return
        for name, given in (("input", x), ("context", context)):
            if given is not None and not _same(given, parameter):
                own = f"{name} in {parameter.dtype} on {parameter.device}"
                got = f"{given.dtype} on {given.device}; convert either with .to()"
                raise self._error(f"{own}, as the map's parameters are", got) from error

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        masters = {name: getattr(self, name) for name in self.float64_buffers}
        super()._apply(fn, recurse)
        for name, master in masters.items():
            setattr(self, name, master.to(getattr(self, name).device))
        return self

    def extra_repr(self) -> str:
        """Return the shapes, for `print(map)`."""
        change = "" if self.in_shape == self.out_shape else f" -> {self.out_shape}"
        return f"{self.in_shape}{change}"


class Chain(Invertible):
    """Chain f_n ∘ … ∘ f_1, whose log-determinants add up; shapes are checked when it is built.

    Args:
        stages: the maps, first applied first. All receive the same context.

    Raises:
        ShapeError: a stage does not take what the one before it gives (both are named), or the
            stages want contexts of several widths.

    Attributes:
        memory: what a forward pass keeps for its backward, see `set_memory`.
    """

    memory: Memory = "store"
    anchor_every: int = ANCHOR_EVERY

    def __init__(self, stages: Iterable[Invertible]) -> None:
        stages = list(stages)
        if not stages:
            raise ShapeError("Chain: expected at least one stage, got none")
        for position, (before, after) in enumerate(zip(stages, stages[1:], strict=False), start=1):
            if before.out_shape != after.in_shape:
                raise ShapeError(
                    f"Chain: stage {position} ({type(after).__name__}) takes {after.in_shape}, but "
                    f"stage {position - 1} ({type(before).__name__}) gives {before.out_shape}"
                )
        widths = sorted({s.context_features for s in stages} - {0})
        if len(widths) > 1:
            raise ShapeError(f"Chain: expected one width of context for all stages, got {widths}")
        super().__init__(stages[0].in_shape, stages[-1].out_shape, max(widths, default=0))
        self.stages = nn.ModuleList(stages)

    @classmethod
    def grow(cls, shape: Shape, factories: Iterable[Callable[[Shape], Invertible]]) -> Chain:
        """Build stage by stage, each factory called with the shape that the one before it gives.

        Raises:
            ShapeError: a factory refuses its shape; the message names its position and that shape.
        """
        stages: list[Invertible] = []
        for position, make in enumerate(factories):
            try:
                stages.append(make(shape))
            except ValueError as error:
                raise ShapeError(f"Chain: stage {position}, built for {shape}: {error}") from error
            shape = stages[-1].out_shape
        return cls(stages)

    def __len__(self) -> int:
        return len(self.stages)

    def __iter__(self) -> Iterator[Invertible]:
        return iter(self.stages)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Invertible:
        return self.stages[index]  # type: ignore[return-value]

    def set_memory(self, memory: Memory, anchor_every: int = ANCHOR_EVERY) -> Self:
        """Choose between memory and time for the backward of `forward`; inner chains follow suit.

            store       every stage keeps its activations: fastest
            recompute   a segment keeps its output; activations come back through the exact inverse
            checkpoint  a segment keeps its input and is evaluated again as a whole, for maps whose
                        inverse is costly

        An inner chain may be set differently afterwards. Gradients are those of "store" up to
        rounding, which grows with the length of a segment; dropout masks and BatchNorm statistics
        are the same. Second derivatives need "store".

        A segment has `anchor_every` stages, inner chains' stages counted one by one.

        Raises:
            ValueError: an unknown mode, or segments shorter than one stage.
        """
        if memory not in MODES or anchor_every < 1:
            raise ValueError(
                f"expected memory to be one of {', '.join(MODES)} and anchor_every >= 1, "
                f"got {memory!r} and {anchor_every}"
            )
        for chain in (module for module in self.modules() if isinstance(module, Chain)):
            chain.memory, chain.anchor_every = memory, anchor_every
        return self

    def _forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        plain = self.memory == "store" or not torch.is_grad_enabled() or needs_reference()
        steps: list[Step] = [*self] if plain else [*self._segments()]
        return _composed(steps, x, context)

    def _segments(self) -> list[Segment]:
        """Group stages into runs of one mode and at most `anchor_every`; inner chains unfold."""
        runs: list[Segment] = []
        for memory, stage in self._unfolded():
            if runs and runs[-1].memory == memory and len(runs[-1].stages) < self.anchor_every:
                runs[-1].stages.append(stage)
            else:
                runs.append(Segment(memory, [stage]))
        return runs

    def _unfolded(self) -> Iterator[tuple[Memory, Invertible]]:
        for stage in self:
            if isinstance(stage, Chain):
                yield from stage._unfolded()
            else:
                yield self.memory, stage

    def _inverse(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return _composed([stage.inverse for stage in reversed(list(self))], z, context)


def _composed(steps: Iterable[Step], x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
    """Apply one step after the other, and sum their log-determinants, (B,), over all at once.

    A running sum of n steps would round n times.
    """
    log_dets = []
    for step in steps:
        x, log_det = step(x, context)
        log_dets.append(log_det)
    return x, torch.stack(log_dets).sum(0)


class Inverse(Invertible):
    """Inverse of a map: its two directions exchanged."""

    def __init__(self, of: Invertible) -> None:
        super().__init__(of.out_shape, of.in_shape, of.context_features)
        self.of = of

    def _forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return self.of.inverse(x, context)

    def _inverse(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return self.of.forward(z, context)


def _same(x: Tensor, parameter: Tensor) -> bool:
    """Return True if the two can be computed with; autocast converts what it needs."""
    if x.device != parameter.device:
        return False
    return x.dtype == parameter.dtype or torch.is_autocast_enabled(x.device.type)


def _size(shape: Shape) -> int:
    return int(torch.Size(shape).numel())
