"""Functions that Triton's language lacks, in float32 and float64 (tanh, atan: after Cephes)."""

from __future__ import annotations

import triton
import triton.language as tl


def block_of(size: int, largest: int = 1024) -> int:
    """Choose the block length for rows of this many elements."""
    return int(min(largest, max(16, triton.next_power_of_2(size))))


@triton.jit
def sample_and_block(blocks):
    """Return which of the samples' `blocks` programs this is: (sample, block).

    Grids have one axis, for the others end at 65535. Offsets of samples may need 64 bits.
    """
    program = tl.program_id(0)
    return (program // blocks).to(tl.int64), program % blocks


@triton.jit
def wide(x):
    """Convert to float32 at least, in which everything is computed."""
    return x if x.dtype == tl.float64 else x.to(tl.float32)


@triton.jit
def tanh(x):
    """Compute tanh to a few units in the last place, near 0 too; NaN stays NaN."""
    a = tl.abs(x)
    z = x * x
    p = (-9.64399179425052238628e-1 * z - 9.92877231001918586564e1) * z - 1.61468768441708447952e3
    q = ((z + 1.12811678491632931402e2) * z + 2.23548839060100448583e3) * z
    small = x + x * z * p / (q + 4.84406305325125486048e3)
    # e^-2a never overflows.
    e = tl.exp(-2 * a)
    large = (1 - e) / (1 + e)
    return tl.where(a < 0.625, small, tl.where(x < 0, -large, large))


@triton.jit
def atan(x):
    """Compute atan, reduced to [0, 0.66] by two identities; NaN stays NaN."""
    a = tl.abs(x)
    steep = a > 2.41421356237309504880
    middle = (a > 0.66) & (a <= 2.41421356237309504880)
    # tl.where of two plain numbers would be float32, whatever x is.
    zero = tl.zeros_like(a)
    offset = tl.where(steep, zero + 1.57079632679489661923, zero)
    offset = tl.where(middle, zero + 0.78539816339744830962, offset)
    divisor = tl.where(steep, a, tl.where(middle, a + 1, 1.0))
    r = tl.where(steep, -1.0, tl.where(middle, a - 1, a)) / divisor
    z = r * r
    p = (-8.750608600031904122785e-1 * z - 1.615753718733365076637e1) * z
    p = ((p - 7.500855792314704667340e1) * z - 1.228866684490136173410e2) * z
    p = (p - 6.485021904942025371773e1) * z
    q = (z + 2.485846490142306297962e1) * z + 1.650270098316988542046e2
    q = ((q * z + 4.328810604912902668951e2) * z + 4.853903996359136964868e2) * z
    y = offset + (r + r * (p / (q + 1.945506571482613964425e2)))
    return tl.where(x < 0, -y, y)


@triton.jit
def softplus(x):
    """Compute log(1 + e^x), without overflow and with all digits where it is small."""
    e = tl.exp(-tl.abs(x))
    # log1p(e): u = 1 + e is rounded, but by the same factor as u - 1 is.
    u = 1 + e
    lost = u == 1
    log1p = tl.where(lost, e, tl.log(u) * (e / tl.where(lost, 1.0, u - 1)))
    return tl.maximum(x, 0.0) + log1p


@triton.jit
def sigmoid(x):
    """Compute the derivative of softplus."""
    return 1 / (1 + tl.exp(-x))
