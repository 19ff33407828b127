"""Checks of a map against the contract."""

import torch
from torch import Tensor, nn

from couplings.core import Invertible

__all__ = ["ContractError", "assert_invertible", "autograd_log_det", "randomize"]


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
