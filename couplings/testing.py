"""Checks of a map against the contract, of an operator against its definition."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from couplings.core import Invertible

__all__ = ["ContractError", "assert_as_exact", "assert_invertible", "autograd_log_det", "randomize"]

Function = Callable[..., Sequence[Tensor]]


class ContractError(AssertionError):
    """Error: a map breaks the contract; the message says where and by how much."""


def assert_invertible(
    map_: Invertible, x: Tensor, context: Tensor | None = None, tolerance: float = 1e-9
) -> None:
    """Check shapes, inverse and both log-determinants of a map at x.

    The log-determinants are compared with log|det| of the autograd Jacobian, in the direction
    evaluated: a round trip alone cannot see an error that cancels. Use float64, random non-zero
    weights (`randomize`) and eval mode.

    Args:
        map_: the map, in the dtype of x.
        x: (B, *in_shape).
        context: (B, context_features) where the map takes one.
        tolerance: on the inverse, absolute and relative, and on the log-dets, relative to dims.

    Raises:
        ContractError: what differs, and by how much.
    """
    z, log_det = map_.forward(x, context)
    back, inverse_log_det = map_.inverse(z, context)
    _check_form("forward", z, log_det, (len(x), *map_.out_shape))
    _check_form("inverse", back, inverse_log_det, (len(x), *map_.in_shape))
    _check_close("inverse(forward(x))", back, x, tolerance * (1 + float(x.abs().max())))
    slack = tolerance * map_.dims
    expected = autograd_log_det(lambda v, c: map_.forward(v, c)[0], x, context)
    _check_close("forward's log_det", log_det, expected, slack)
    expected = autograd_log_det(lambda v, c: map_.inverse(v, c)[0], z.detach(), context)
    _check_close("inverse's log_det", inverse_log_det, expected, slack)


def autograd_log_det(function, x: Tensor, context: Tensor | None = None) -> Tensor:  # type: ignore[no-untyped-def] # noqa: ANN001
    """Compute log|det d function(x, context) / dx| per sample, (B,), by `jacrev` and `slogdet`."""

    def single(sample: Tensor, condition: Tensor | None) -> Tensor:
        batch = None if condition is None else condition[None]
        flat: Tensor = function(sample[None], batch).flatten()
        return flat

    rows = []
    for i, sample in enumerate(x):
        jacobian = torch.func.jacrev(single)(sample, None if context is None else context[i])
        rows.append(torch.linalg.slogdet(jacobian.reshape(sample.numel(), -1)).logabsdet)
    return torch.stack(rows)


def randomize(module: nn.Module, generator: torch.Generator, scale: float = 0.3) -> nn.Module:
    """Add scale · N(0, 1) to every trained parameter: no map stays the identity it starts as."""
    with torch.no_grad():
        # FrEIA keeps its fixed matrices as parameters that need no gradient.
        for parameter in filter(lambda p: p.requires_grad, module.parameters()):
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(scale * noise.to(parameter))
    return module


def assert_as_exact(
    operator: Function, reference: Function, inputs: Sequence[Tensor], factor: float = 2.0
) -> None:
    """Check that an operator's errors are at most `factor` times those of its definition.

    Results and gradients (for random upstream gradients) of both, in the dtype of the inputs, are
    compared with the definition in float64: max|error| ≤ factor · max|the definition's error|,
    plus one unit in the last place of the largest result. This is flash-attention's rule: no
    tolerance has to be guessed.

    Args:
        operator: inputs to floating-point tensors.
        reference: the same in plain PyTorch.
        inputs: tensors; those that require a gradient are differentiated.
        factor: how much worse the operator may be.

    Raises:
        ContractError: what differs, and by how much.
    """
    wide = [t.detach().double().requires_grad_(t.requires_grad) for t in inputs]
    truth = _results(reference, wide)
    ours, plain = _results(operator, inputs), _results(reference, inputs)
    for position, (exact, got, expected) in enumerate(zip(truth, ours, plain, strict=True)):
        name = f"result {position} of {len(truth)}"
        if got.shape != exact.shape or got.dtype != expected.dtype:
            raise ContractError(
                f"{name}: expected {tuple(exact.shape)} in {expected.dtype}, "
                f"got {tuple(got.shape)} in {got.dtype}"
            )
        if exact.numel():
            slack = torch.finfo(got.dtype).eps * float(exact.abs().max())
            allowed = factor * float((expected - exact).abs().max()) + slack
            _check_close(name, got, exact, allowed)


def _results(function: Function, inputs: Sequence[Tensor]) -> list[Tensor]:
    outputs = function(*inputs)
    wanted = [tensor for tensor in inputs if tensor.requires_grad]
    generator = torch.Generator(inputs[0].device).manual_seed(0)
    upstream = [
        torch.randn(out.shape, generator=generator, device=out.device).to(out) for out in outputs
    ]
    gradients = torch.autograd.grad(outputs, wanted, upstream) if wanted else ()
    return [tensor.detach() for tensor in (*outputs, *gradients)]


def _check_form(name: str, value: Tensor, log_det: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(value.shape) != shape:
        raise ContractError(f"{name}: expected shape {shape}, got {tuple(value.shape)}")
    if log_det.shape != shape[:1] or torch.finfo(log_det.dtype).bits < 32:
        raise ContractError(
            f"{name}: expected log_det of shape {shape[:1]} in float32 or wider, "
            f"got {tuple(log_det.shape)} in {log_det.dtype}"
        )


def _check_close(name: str, got: Tensor, expected: Tensor, slack: float) -> None:
    error = float((got - expected).detach().abs().max())
    if not error <= slack:
        raise ContractError(f"{name} is off by {error:.3g} (allowed: {slack:.3g})")
