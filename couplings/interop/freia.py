"""FrEIA 0.2 modules as maps of ours, and maps of ours as FrEIA modules."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import numpy as np
import torch
from FrEIA.framework import GraphINN, SequenceINN
from FrEIA.modules import InvertibleModule
from torch import Tensor

from couplings.core import Invertible, Shape, ShapeError, constant_log_det
from couplings.interop._log_det import per_sample

__all__ = ["FromFrEIA", "ToFrEIA"]


class FromFrEIA(Invertible):
    """FrEIA module with one input and one output as a map; log_det as the module computes it.

    FrEIA returns a float, a number per call or one per sample, sometimes in low precision; here it
    is always (B,), in float32 or wider. What FrEIA rounded before (on the CPU under bfloat16
    autocast) stays rounded. Coupling blocks of FrEIA 0.2 hold lambdas and cannot be pickled: save
    their `state_dict`.

    Args:
        module: the FrEIA module, built for `shape`.
        shape: shape of one sample.
        context_features: width of the context; (B, context_features) is spread over all positions
            where the module was built for a condition (context_features, H, W).

    Raises:
        ShapeError: several inputs, outputs or conditions, or other shapes than the module's.
    """

    def __init__(self, module: InvertibleModule, shape: Shape, context_features: int = 0) -> None:
        name = f"FromFrEIA({type(module).__name__})"
        _expect_one(name, "input", module.dims_in, shape)
        out_shape = _expect_one(name, "output", _output_dims(module, shape))
        super().__init__(shape, out_shape, context_features)
        self.module = module
        self.condition_shape = _condition_shape(name, module, context_features)

    @classmethod
    def build(
        cls,
        block: Callable[..., InvertibleModule],
        shape: Shape,
        *,
        seed: int,
        context_features: int = 0,
        **options: Any,
    ) -> Self:
        """Build `block([shape], **options)`, with a condition of the block's resolution if any.

        FrEIA draws from the global generators of numpy and torch: they are seeded meanwhile, and
        restored. Build on the CPU; the generators of other devices are not touched.

        The seed is of everything that the block, such as AllInOneBlock, and its subnetworks draw.
        """
        if context_features:
            options["dims_c"] = [(context_features, *shape[1:])]
        with _seeded(seed):
            module = block([shape], **options)
        return cls(module, shape, context_features)

    def _forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return self._run(x, context, self.out_shape, rev=False)

    def _inverse(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        # HaarDownsampling scales its input in place.
        return self._run(z.clone(), context, self.in_shape, rev=True)

    def _run(
        self, x: Tensor, context: Tensor | None, out_shape: Shape, rev: bool
    ) -> tuple[Tensor, Tensor]:
        # FrEIA counts positions in the first sample: it cannot take an empty batch.
        if len(x) == 0:
            return x.reshape(0, *out_shape), constant_log_det(x, 0.0)
        condition = {"c": [self._condition(context)]} if self.context_features else {}
        out, log_det = self.module([x], rev=rev, **condition)
        # GraphINN and SequenceINN unwrap a single output.
        z = out if isinstance(out, Tensor) else out[0]
        return z, per_sample(f"FromFrEIA({type(self.module).__name__})", log_det, x)

    def _condition(self, context: Tensor | None) -> Tensor:
        assert context is not None  # checked by the base class
        positions = self.condition_shape[1:]
        return context.reshape(*context.shape, *(1 for _ in positions)).expand(-1, -1, *positions)


class ToFrEIA(InvertibleModule):  # type: ignore[misc]  # FrEIA is not annotated
    """Map of ours as a FrEIA module, for SequenceINN and GraphINN.

        inn.append(ToFrEIA, make=lambda shape: Coupling(shape, conditioner))
        Node(before, ToFrEIA, dict(make=...), conditions=condition_node)

    Args:
        dims_in: one shape.
        dims_c: none, or one condition (context_features,).
        make: builds the map for the shape.

    Raises:
        ShapeError: several inputs, or a map made for another shape or condition.
    """

    def __init__(
        self,
        dims_in: Sequence[Shape],
        dims_c: Sequence[Shape] | None = None,
        *,
        make: Callable[[Shape], Invertible],
    ) -> None:
        super().__init__(dims_in, dims_c)
        shape = _expect_one("ToFrEIA", "input", dims_in)
        self.map = make(shape)
        name = f"ToFrEIA({type(self.map).__name__})"
        _expect_one(name, "input", [self.map.in_shape], shape)
        expected = [(self.map.context_features,)] if self.map.context_features else []
        got = [tuple(condition) for condition in self.dims_c]
        if got != expected:
            raise ShapeError(f"{name}: expected conditions of shapes {expected}, got {got}")

    def forward(
        self,
        x_or_z: Sequence[Tensor],
        c: Sequence[Tensor] | None = None,
        rev: bool = False,
        jac: bool = True,
    ) -> tuple[tuple[Tensor], Tensor]:
        """Map [x] to ((z,), log_det), or with `rev` [z] to ((x,), log_det). log_det: (B,)."""
        (x,) = x_or_z
        context = c[0] if c else None
        out, log_det = self.map.inverse(x, context) if rev else self.map(x, context)
        # FrEIA's Haar transform scales in place what it is given; a backward may still need it.
        return (out.clone() if rev else out,), log_det

    def output_dims(self, input_dims: Sequence[Shape]) -> list[Shape]:
        """Return the one output shape."""
        return [self.map.out_shape]


def _expect_one(
    name: str, what: str, shapes: Sequence[Shape], expected: Shape | None = None
) -> Shape:
    if len(shapes) != 1:
        raise ShapeError(f"{name}: expected a module with one {what}, got {len(shapes)}")
    shape = tuple(shapes[0])
    if expected is not None and shape != tuple(expected):
        raise ShapeError(f"{name}: expected {what} of shape {tuple(expected)}, got {shape}")
    return shape


def _output_dims(module: InvertibleModule, shape: Shape) -> Sequence[Shape]:
    # Both networks' own output_dims raises, and SequenceINN's may name the input.
    if isinstance(module, SequenceINN):
        return [module.shapes[-1]]
    if isinstance(module, GraphINN):
        return list(module.global_out_shapes)
    return list(module.output_dims([shape]))


def _condition_shape(name: str, module: InvertibleModule, context_features: int) -> Shape:
    declared = _declared_conditions(module)
    if not declared and not context_features:
        return ()
    if len(declared) != 1 or declared[0][0] != context_features:
        raise ShapeError(
            f"{name}: expected one condition of {context_features} features, got {declared}; "
            "pass the same context_features to both"
        )
    return declared[0]


def _declared_conditions(module: InvertibleModule) -> list[Shape]:
    # SequenceINN does not tell the conditions of its modules, which share ours.
    if isinstance(module, SequenceINN):
        return list(dict.fromkeys(tuple(c) for inner in module for c in inner.dims_c))
    return [tuple(c) for c in module.dims_c]


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    numpy_state = np.random.get_state()  # noqa: NPY002  FrEIA uses the legacy generator
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        try:
            yield
        finally:
            np.random.set_state(numpy_state)  # noqa: NPY002
