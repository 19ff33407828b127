"""CUDA kernels of couplings::rotate: the product in tiles, the backward's two sums in one pass."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from couplings.ops import rotation as eager
from couplings.ops.dispatch import full_precision
from couplings.ops.rotation import folded
from couplings.ops.triton_affine import by_sample
from couplings.ops.triton_math import block_of, wide

__all__ = ["rotate", "rotate_backward"]

TILE = 32


@triton.jit
def _mix(
    x, weight, bias, out, channels, positions, x_stride, weight_row, weight_column,
    BIAS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """out[b, d, p] = Σ_c weight[d, c] x[b, c, p] + bias[d], a tile of (d, p) at a time."""
    sample = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * TILE + tl.arange(0, TILE)
    p = tl.program_id(2) * TILE + tl.arange(0, TILE)
    total = tl.zeros((TILE, TILE), tl.float32)
    for start in range(0, channels, TILE):
        c = start + tl.arange(0, TILE)
        w = tl.load(
            weight + d[:, None] * weight_row + c[None, :] * weight_column,
            (d[:, None] < channels) & (c[None, :] < channels), other=0.0,
        )  # fmt: skip
        columns = tl.load(
            x + sample * x_stride + c[:, None] * positions + p[None, :],
            (c[:, None] < channels) & (p[None, :] < positions), other=0.0,
        )  # fmt: skip
        total += tl.dot(w.to(tl.float32), columns.to(tl.float32), input_precision="ieee")
    if BIAS:
        total += tl.load(bias + d, d < channels, other=0.0).to(tl.float32)[:, None]
    at = sample * channels * positions + d[:, None] * positions + p[None, :]
    inside = (d[:, None] < channels) & (p[None, :] < positions)
    tl.store(out + at, total.to(out.dtype.element_ty), inside)


@triton.jit
def _sums(
    grad, z, sums, products, channels, positions, grad_stride, z_stride, BLOCK: tl.constexpr
):  # fmt: skip
    """Σ_p g and Σ_p g z of one channel of one sample."""
    sample, channel = tl.program_id(0).to(tl.int64), tl.program_id(1)
    g_row = grad + sample * grad_stride + channel * positions
    z_row = z + sample * z_stride + channel * positions
    total, product = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    for start in range(0, positions, BLOCK):
        at = start + tl.arange(0, BLOCK)
        g = wide(tl.load(g_row + at, at < positions, other=0.0))
        total += g
        product += g * wide(tl.load(z_row + at, at < positions, other=0.0))
    tl.store(sums + sample * channels + channel, tl.sum(total))
    tl.store(products + sample * channels + channel, tl.sum(product))


def rotate(x: Tensor, rotation: Tensor, log_scale: Tensor, offset: Tensor, inverse: bool) -> Tensor:
    """As `rotation.rotate`, which takes float64 and other layouts than by sample."""
    if x.dtype == torch.float64 or not by_sample(x):
        return eager.rotate(x, rotation, log_scale, offset, inverse)
    with full_precision(x):
        weight, bias = folded(rotation, log_scale, offset, inverse)
        return mix(x, weight.to(x.dtype), bias.to(x.dtype))


def rotate_backward(
    grad: Tensor, z: Tensor, rotation: Tensor, log_scale: Tensor, offset: Tensor, inverse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """As `rotation.rotate_backward`."""
    if grad.dtype == torch.float64 or not by_sample(grad, z):
        return eager.rotate_backward(grad, z, rotation, log_scale, offset, inverse)
    with full_precision(grad):
        weight, _ = folded(rotation, log_scale, offset, inverse)
        grad_input = mix(grad, weight.T.to(grad.dtype), None)
        grad_z, sign = (grad_input, -1) if inverse else (grad, 1)
        sums, products = (sign * total.to(offset.dtype) for total in _per_channel(grad_z, z))
        return grad_input, products - sums * offset, sums


def mix(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """weight x + bias over the channels of x (B, C, ...)."""
    batch, channels = x.shape[:2]
    positions = x[0, 0].numel()
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    tiles = (triton.cdiv(channels, TILE), triton.cdiv(positions, TILE))
    _mix[(batch, *tiles)](
        x, weight, weight if bias is None else bias, out,
        channels, positions, x.stride(0), *weight.stride(), BIAS=bias is not None, TILE=TILE,
    )  # fmt: skip
    return out


def _per_channel(grad: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    batch, channels = grad.shape[:2]
    positions = grad[0, 0].numel()
    sums = torch.empty(2, batch, channels, dtype=torch.float32, device=grad.device)
    _sums[(batch, channels)](
        grad, z, sums[0], sums[1],
        channels, positions, grad.stride(0), z.stride(0), BLOCK=block_of(positions),
    )  # fmt: skip
    total, product = sums.sum(1)
    return total, product
