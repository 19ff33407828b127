"""Haar wavelets of 2 x 2 patches: the operator couplings::haar, one pass over memory.

A patch with rows (a, b) and (c, d) gives four channels: average, horizontal, vertical and diagonal
difference,

    factor / 2 · (a + b + c + d,  a - b + c - d,  a + b - c - d,  a - b - c + d)

The matrix is symmetric and orthogonal. So the inverse takes the same sums of four channels, with
1/factor, and the backward of either direction is the other one with the same factor.
"""

from typing import Any

import torch
from torch import Tensor

from couplings.ops import reference
from couplings.ops.dispatch import backward_of, define, empty_laid_out_as, operator_or, widened


def haar(x: Tensor, scale: float = 1.0) -> Tensor:
    """Compute scale · the orthonormal Haar wavelets of 2 x 2 patches.

    log_det = numbers · log(scale).

    Args:
        x: (B, C, H, W), H and W even.
        scale: positive.

    Returns:
        (B, 4C, H/2, W/2): of each channel average, horizontal, vertical and diagonal difference.
    """
    transformed: Tensor = operator_or(reference.haar, "haar")(x, scale, False)
    return transformed


def unhaar(z: Tensor, scale: float = 1.0) -> Tensor:
    """Invert `haar` with this scale."""
    transformed: Tensor = operator_or(reference.haar, "haar")(z, 1 / scale, True)
    return transformed


def eager_haar(x: Tensor, factor: float, inverse: bool) -> Tensor:
    """Map (B, C, H, W) to (B, 4C, H/2, W/2), or back; laid out in memory as the input is."""
    if x.dtype != widened(x.dtype):
        return eager_haar(x.float(), factor, inverse).to(x.dtype)
    out = _fake(x, factor, inverse)
    read, write = (_bands, _corners) if inverse else (_corners, _bands)
    a, b, c, d = read(x)
    average, horizontal, vertical, diagonal = write(out)
    upper, lower = torch.add(a, b).mul_(factor / 2), torch.add(c, d).mul_(factor / 2)
    torch.add(upper, lower, out=average)
    torch.sub(upper, lower, out=vertical)
    torch.sub(a, b, out=upper).mul_(factor / 2)
    torch.sub(c, d, out=lower).mul_(factor / 2)
    torch.add(upper, lower, out=horizontal)
    torch.sub(upper, lower, out=diagonal)
    return out


def _corners(image: Tensor) -> tuple[Tensor, ...]:
    """Return views of the four corners of all patches, row by row."""
    return tuple(image[..., row::2, column::2] for row in (0, 1) for column in (0, 1))


def _bands(channels: Tensor) -> tuple[Tensor, ...]:
    """Return views of every fourth channel."""
    return channels.unflatten(1, (-1, 4)).unbind(2)


def _fake(x: Tensor, factor: float, inverse: bool) -> Tensor:
    batch, channels, height, width = x.shape
    if inverse:
        return empty_laid_out_as(x, (batch, channels // 4, 2 * height, 2 * width))
    return empty_laid_out_as(x, (batch, 4 * channels, height // 2, width // 2))


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, ctx.factor, ctx.inverse = inputs


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    return backward_of(reference.haar, "haar")(grad, ctx.factor, not ctx.inverse), None, None


define(
    "haar",
    "(Tensor x, float factor, bool inverse) -> Tensor",
    eager_haar,
    _fake,
    triton="triton_haar",
    setup=_setup,
    backward=_backward,
)
