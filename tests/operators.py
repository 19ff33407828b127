"""Inputs and tables that the tests of operators and of their Triton kernels share."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from math import inf, nan
from typing import Any

import pytest
import torch
from torch import Tensor

Function = Callable[..., Any]
Clamp = tuple[float, float, bool, bool]

# limit, gain, atan, inverse: the last arguments of affine_couple.
CLAMPS = {
    f"{'inverse' if inverse else 'forward'} {'atan' if atan else 'tanh'}": (0.7, 0.8, atan, inverse)
    for inverse, atan in product((False, True), repeat=2)
}
# Channels of the passive half, and whether the active one comes first.
HALVES = {"alone": (0, False), "passive first": (3, False), "active first": (3, True)}

both_ways = pytest.mark.parametrize("inverse", [False, True], ids=["forward", "inverse"])
all_clamps = pytest.mark.parametrize("settings", CLAMPS.values(), ids=CLAMPS)
in_halves = pytest.mark.parametrize(("rest", "first"), HALVES.values(), ids=HALVES)
not_finite = pytest.mark.parametrize("bad", [nan, inf, -inf])
in_each_input = pytest.mark.parametrize("position", [0, 1], ids=["active", "parameters"])


def draw(
    *shapes: tuple[int, ...],
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> list[Tensor]:
    """Draw normal tensors of these shapes, in float64 whatever the dtype asked for."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes]
    return [tensor.to(device, dtype) for tensor in drawn]


def coupled(shape: tuple[int, ...], per_number: int, rest: int = 0, **options: Any) -> list[Tensor]:
    """Draw leaves: an active half of this shape, its parameters and, if any, the passive half."""
    batch, size, *inner = shape
    channels = [size, per_number * size] + ([rest] if rest else [])
    drawn = draw(*((batch, c, *inner) for c in channels), **options)
    return [tensor.requires_grad_() for tensor in drawn]


def bound(function: Function, first: bool, *settings: object) -> Function:
    """Make a coupling's operator a function of tensors alone that returns y and log_det."""

    def call(active: Tensor, raw: Tensor, passive: Tensor | None = None) -> tuple[Tensor, ...]:
        return function(active, raw, passive, first, *settings)[:2]

    return call


def gradients_of(function: Function, tensors: list[Tensor]) -> tuple[Tensor, ...]:
    """Return results, and the gradients of their squares' sums."""
    outputs = function(*tensors)
    return *outputs, *torch.autograd.grad([out.square().sum() for out in outputs], tensors)


def assert_as_exact(
    operator: Callable[..., Any],
    reference: Callable[..., Any],
    inputs: Sequence[Tensor],
    *settings: object,
) -> None:
    """Check that an operator's errors are at most twice those of its definition.

    Results and gradients (for random upstream gradients) of both, in the dtype of the inputs, are
    compared with the definition in float64: max|error| ≤ 2 max|the definition's error|, plus one
    unit in the last place of the largest result. This is flash-attention's rule: no tolerance has
    to be guessed. Both functions take the inputs and the settings.
    """
    wide = [t.detach().double().requires_grad_(t.requires_grad) for t in inputs]
    truth = _results(reference, wide, settings)
    ours, plain = (_results(function, inputs, settings) for function in (operator, reference))
    for position, (exact, got, expected) in enumerate(zip(truth, ours, plain, strict=True)):
        assert (got.shape, got.dtype) == (exact.shape, expected.dtype), f"result {position}"
        if exact.numel():
            slack = torch.finfo(got.dtype).eps * float(exact.abs().max())
            allowed = 2 * float((expected - exact).abs().max()) + slack
            assert float((got - exact).abs().max()) <= allowed, f"result {position}"


def _results(
    function: Function, inputs: Sequence[Tensor], settings: tuple[object, ...]
) -> list[Tensor]:
    found = function(*inputs, *settings)
    outputs = (found,) if isinstance(found, Tensor) else found
    wanted = [tensor for tensor in inputs if tensor.requires_grad]
    draw_as = partial(torch.randn, generator=torch.Generator(inputs[0].device).manual_seed(0))
    upstream = [draw_as(out.shape, device=out.device).to(out) for out in outputs]
    gradients = torch.autograd.grad(outputs, wanted, upstream) if wanted else ()
    return [tensor.detach() for tensor in (*outputs, *gradients)]


def channels_last(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous(memory_format=torch.channels_last)


def strided(tensor: Tensor) -> Tensor:
    return torch.stack((tensor, tensor), dim=-1)[..., 0].detach()


in_layouts = pytest.mark.parametrize("lay_out", [channels_last, strided])
