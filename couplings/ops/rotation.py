"""couplings::rotate, a rotation of the channels with scale and offset, as one matrix product.

    z = e^g · (R x) + o,   inverse: x = Rᵀ ((z - o) · e^-g);   R fixed, g and o a number a channel

Only z is kept for the backward, for with R fixed no gradient needs x, nor a (C, C) matrix:

              g_x = Rᵀ (e^g · g_z),   g_o = Σ g_z,    g_g = Σ g_z · (z - o)
    inverse:  g_z = e^-g · (R g_x),   g_o = -Σ g_z,   g_g = -Σ g_z · (z - o)

with Σ over samples and positions. The backward can be differentiated again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from couplings.ops.dispatch import define, differentiable, full_precision, in_torch_func

__all__ = ["folded", "mix", "rotate", "rotate_backward"]

CHUNK = 16
# From here on oneDNN's convolution is faster than a batch of small products, by up to a half.
MANY_CHANNELS = 64


def rotate(x: Tensor, rotation: Tensor, log_scale: Tensor, offset: Tensor, inverse: bool) -> Tensor:
    """z of x (B, C, ...), or x of z; laid out in memory as the input is."""
    with full_precision(x):
        weight, bias = folded(rotation, log_scale, offset, inverse)
        return mix(x, weight.to(x.dtype), bias.to(x.dtype))


def rotate_backward(
    grad: Tensor, z: Tensor, rotation: Tensor, log_scale: Tensor, offset: Tensor, inverse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """(g_input, g_log_scale, g_offset) from the output's gradient; z on the rotated side."""
    with full_precision(grad):
        weight, _ = folded(rotation, log_scale, offset, inverse)
        grad_input = mix(grad, weight.T.to(grad.dtype), None)
        grad_z, sign = (grad_input, -1) if inverse else (grad, 1)
        sums = _per_channel(grad_z, z, offset)
        grad_offset, grad_scale = (sign * total.to(offset.dtype) for total in sums)
        return grad_input, grad_scale, grad_offset


def mix(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """weight x + bias over the channels of x (B, C, ...): one product, in the layout of x."""
    if x.dim() == 2:
        return torch.nn.functional.linear(x, weight, bias)
    if _channels_last(x):
        mixed = torch.nn.functional.linear(x.permute(0, 2, 3, 1), weight, bias)
        return mixed.permute(0, 3, 1, 2)
    if x.dim() == 4 and x.device.type == "cpu" and x.shape[1] >= MANY_CHANNELS:
        return torch.nn.functional.conv2d(x, weight[:, :, None, None], bias)
    columns = x.flatten(2)
    weights = weight.expand(len(x), -1, -1)
    if bias is None:
        return torch.bmm(weights, columns).view(x.shape)
    return torch.baddbmm(bias[:, None], weights, columns).view(x.shape)


def folded(
    rotation: Tensor, log_scale: Tensor, offset: Tensor, inverse: bool
) -> tuple[Tensor, Tensor]:
    """Scale and rotation as one matrix, with its offset."""
    rotation = rotation.to(log_scale.dtype)
    if not inverse:
        return log_scale.exp()[:, None] * rotation, offset
    weight = rotation.T * (-log_scale).exp()
    return weight, -(weight @ offset)


def _per_channel(grad: Tensor, z: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """Σ g and Σ g (z - o) over samples and positions, (C,) each."""
    wide = torch.promote_types(grad.dtype, torch.float32)
    others = (0, *range(2, grad.dim()))
    # A few samples at a time: a product as large as the input would cost more than all the rest.
    parts = zip(grad.split(CHUNK), z.split(CHUNK), strict=True)
    offset = offset.to(z.dtype).view(-1, *[1] * (z.dim() - 2))
    products = [(g * (part - offset)).sum(others, dtype=wide) for g, part in parts]
    return grad.sum(others, dtype=wide), torch.stack(products).sum(0)


def _fake(x: Tensor, rotation: Tensor, log_scale: Tensor, offset: Tensor, inverse: bool) -> Tensor:
    return _like(x)


def _fake_backward(
    grad: Tensor, z: Tensor, rotation: Tensor, log_scale: Tensor, offset: Tensor, inverse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return _like(grad), torch.empty_like(log_scale), torch.empty_like(offset)


def _like(x: Tensor) -> Tensor:
    layout = torch.channels_last if _channels_last(x) else torch.contiguous_format
    return torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=layout)


def _channels_last(x: Tensor) -> bool:
    images = x.dim() == 4 and not in_torch_func()
    return images and x.is_contiguous(memory_format=torch.channels_last)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, rotation, log_scale, offset, ctx.inverse = inputs
    ctx.save_for_backward(x if ctx.inverse else output, rotation, log_scale, offset)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    operator: Callable[..., tuple[Tensor, ...]] = torch.ops.couplings.rotate_backward
    if differentiable():
        operator = rotate_backward
    grad_input, grad_scale, grad_offset = operator(grad, *ctx.saved_tensors, ctx.inverse)
    return grad_input, None, grad_scale, grad_offset, None


define(
    "rotate",
    "(Tensor x, Tensor rotation, Tensor log_scale, Tensor offset, bool inverse) -> Tensor",
    rotate,
    _fake,
    triton="triton_rotation",
)
define(
    "rotate_backward",
    "(Tensor grad, Tensor z, Tensor rotation, Tensor log_scale, Tensor offset, bool inverse) "
    "-> (Tensor, Tensor, Tensor)",
    rotate_backward,
    _fake_backward,
    triton="triton_rotation",
)
torch.library.register_autograd("couplings::rotate", _backward, setup_context=_setup)
