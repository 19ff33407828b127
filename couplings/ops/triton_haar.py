"""CUDA kernel of couplings::haar: every number is read once and written once."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from couplings.ops.haar import eager_haar
from couplings.ops.triton_affine import by_sample
from couplings.ops.triton_math import block_of, sample_and_block, wide


@triton.jit
def _transform(
    x, out, patches, area, width, x_stride, blocks,
    factor: tl.constexpr, INVERSE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Transform in program (b, i) the i-th block of sample b's patches, in rows of `width`."""
    sample, block = sample_and_block(blocks)
    x += sample * x_stride
    out += sample * 4 * patches
    at = block * BLOCK + tl.arange(0, BLOCK)
    inside = at < patches
    # A patch's first corner in the image, and its first channel; steps to the next of them.
    corner = 4 * width * (at // width) + 2 * (at % width)
    band = at + 3 * area * (at // area)
    if INVERSE:
        read, right, down, across = band, area, 2 * area, 3 * area
        write, second, third, fourth = corner, 1, 2 * width, 2 * width + 1
    else:
        read, right, down, across = corner, 1, 2 * width, 2 * width + 1
        write, second, third, fourth = band, area, 2 * area, 3 * area
    a = wide(tl.load(x + read, inside, other=0.0))
    b = wide(tl.load(x + read + right, inside, other=0.0))
    c = wide(tl.load(x + read + down, inside, other=0.0))
    d = wide(tl.load(x + read + across, inside, other=0.0))
    half: tl.constexpr = factor / 2
    upper, lower = (a + b) * half, (c + d) * half
    upper_slope, lower_slope = (a - b) * half, (c - d) * half
    dtype = out.dtype.element_ty
    tl.store(out + write, (upper + lower).to(dtype), inside)
    tl.store(out + write + second, (upper_slope + lower_slope).to(dtype), inside)
    tl.store(out + write + third, (upper - lower).to(dtype), inside)
    tl.store(out + write + fourth, (upper_slope - lower_slope).to(dtype), inside)


def haar(x: Tensor, factor: float, inverse: bool) -> Tensor:
    """Compute `haar.eager_haar`, which takes over for other layouts than by sample."""
    if not by_sample(x):
        return eager_haar(x, factor, inverse)
    batch, channels, height, width = x.shape
    if inverse:
        shape = batch, channels // 4, 2 * height, 2 * width
    else:
        height, width = height // 2, width // 2
        shape = batch, 4 * channels, height, width
    out = torch.empty(shape, dtype=x.dtype, device=x.device)
    patches, area = x[0].numel() // 4, height * width
    block = block_of(patches)
    blocks = triton.cdiv(patches, block)
    _transform[(batch * blocks,)](
        x, out, patches, area, width, x.stride(0), blocks, factor, INVERSE=inverse, BLOCK=block,
    )  # fmt: skip
    return out
