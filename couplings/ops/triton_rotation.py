"""CUDA kernels of couplings::rotate: one pass over memory each way, the channels' sums in it.

Program (b, i) maps all channels of the i-th block of sample b's positions, so that each number is
read once. That is for few channels: what is a matrix product rather than a pass over memory, as
flat features are, is cuBLAS's.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from couplings.ops.dispatch import full_precision
from couplings.ops.matmul import eager_rotate, eager_rotate_backward, folded
from couplings.ops.triton_affine import by_sample
from couplings.ops.triton_math import sample_and_block, wide

BLOCK = 64
# The least size of a tile's side in tl.dot.
STEP = 16
MOST_CHANNELS = 64


@triton.jit
def _mix(
    x, weight, bias, out, z, sums,
    channels, positions, x_stride, z_stride, weight_row, weight_column, blocks,
    SUMS: tl.constexpr, INVERSE: tl.constexpr, WIDE: tl.constexpr,
    ROWS: tl.constexpr, STEP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Compute out[b, d, p] = Σ_c weight[d, c] x[b, c, p] + bias[d].

    For a backward instead of the bias Σ_p g and Σ_p g (z - bias), with g = x or, inverse, out.
    """
    sample, block = sample_and_block(blocks)
    x += sample * x_stride
    d = tl.arange(0, ROWS)[:, None]
    p = block * BLOCK + tl.arange(0, BLOCK)[None, :]
    total = tl.zeros((ROWS, BLOCK), tl.float32)
    for start in range(0, channels, STEP):
        row, column = start + tl.arange(0, STEP)[:, None], start + tl.arange(0, STEP)[None, :]
        w = tl.load(
            weight + d * weight_row + column * weight_column,
            (d < channels) & (column < channels), other=0.0,
        )  # fmt: skip
        columns = tl.load(x + row * positions + p, (row < channels) & (p < positions), other=0.0)
        if WIDE:
            w, columns = wide(w), wide(columns)
        total += tl.dot(w, columns, input_precision="ieee")
    offset = wide(tl.load(bias + d, d < channels, other=0.0))
    if not SUMS:
        total += offset
    at, inside = d * positions + p, (d < channels) & (p < positions)
    tl.store(out + sample * channels * positions + at, total.to(out.dtype.element_ty), inside)
    if SUMS:
        if not INVERSE:
            # The caches have it.
            total = wide(tl.load(x + at, inside, other=0.0))
        value = wide(tl.load(z + sample * z_stride + at, inside, other=0.0))
        product = total * (value - offset)
        sums += tl.program_id(0).to(tl.int64) * 2 * channels
        channel = tl.arange(0, ROWS)
        tl.store(sums + channel, tl.sum(total, 1), channel < channels)
        tl.store(sums + channels + channel, tl.sum(product, 1), channel < channels)


def rotate(x: Tensor, rotation: Tensor, log_scale: Tensor, offset: Tensor, inverse: bool) -> Tensor:
    """Compute `matmul.eager_rotate`."""
    if not _fits(x):
        return eager_rotate(x, rotation, log_scale, offset, inverse)
    with full_precision(x):
        weight, bias = folded(rotation, log_scale, offset, inverse)
        out, _ = _launch(x, weight.to(x.dtype), bias.to(x.dtype))
        return out


def rotate_backward(
    grad: Tensor, z: Tensor, rotation: Tensor, log_scale: Tensor, offset: Tensor, inverse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute `matmul.eager_rotate_backward`."""
    if not _fits(grad, z):
        return eager_rotate_backward(grad, z, rotation, log_scale, offset, inverse)
    with full_precision(grad):
        weight, _ = folded(rotation, log_scale, offset, inverse)
        grad_input, sums = _launch(grad, weight.T.to(grad.dtype), offset, z, inverse)
        sign = -1 if inverse else 1
        # Each a tensor of its own: an operator's results share no memory.
        grad_offset, grad_scale = (sign * total for total in sums.sum(0).to(offset.dtype))
        return grad_input, grad_scale, grad_offset


def _fits(*tensors: Tensor) -> bool:
    """Return True if the kernel takes these; tl.dot of float64 is not for every device."""
    first = tensors[0]
    few_channels = first.dim() > 2 and first.shape[1] <= MOST_CHANNELS
    enough_positions = first.shape[2:].numel() >= STEP
    narrow = first.dtype != torch.float64
    return few_channels and enough_positions and narrow and by_sample(*tensors)


def _launch(
    x: Tensor, weight: Tensor, bias: Tensor, z: Tensor | None = None, inverse: bool = False
) -> tuple[Tensor, Tensor]:
    """Launch `_mix` of x; with z also return each program's sums, (…, 2, C)."""
    batch, channels = x.shape[:2]
    positions = x.shape[2:].numel()
    blocks = triton.cdiv(positions, BLOCK)
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    sums = x.new_empty(0 if z is None else batch * blocks, 2, channels, dtype=torch.float32)
    other = x if z is None else z
    _mix[(batch * blocks,)](
        x, weight, bias.contiguous(), out, other, sums,
        channels, positions, x.stride(0), other.stride(0), *weight.stride(), blocks,
        # Interpreted, tl.dot would multiply the bits of bfloat16.
        SUMS=z is not None, INVERSE=inverse, WIDE=not x.is_cuda,
        ROWS=max(STEP, triton.next_power_of_2(channels)), STEP=STEP, BLOCK=BLOCK,
    )  # fmt: skip
    return out, sums
