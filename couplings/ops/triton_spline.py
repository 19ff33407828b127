"""CUDA kernels of couplings::spline_couple: a tile of (bins, numbers) in registers, one pass.

Program (b, i) takes the i-th block of sample b's active half. Softmax, cumulative sums and the
choice of the bin run along the tile's first axis, padded to a power of two.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from couplings.ops.dispatch import widened
from couplings.ops.reference_spline import MIN_SIZE, UNIT_SLOPE
from couplings.ops.spline import eager_spline, eager_spline_backward
from couplings.ops.triton_affine import by_sample
from couplings.ops.triton_math import sample_and_block, sigmoid, softplus, wide

BLOCK = 64
# More of them do not fit the registers.
MOST_BINS = 64
# Constants that kernels may read.
_MIN_SIZE, _UNIT_SLOPE = tl.constexpr(MIN_SIZE), tl.constexpr(UNIT_SLOPE)


@triton.jit
def _softmax(raw, k, at, inside, size, bins: tl.constexpr):
    """Take the softmax along the tile's first axis; rows from `bins` on are 0."""
    real = k < bins
    value = wide(tl.load(raw + k * size + at[None, :], real & inside[None, :], other=0.0))
    value = tl.where(real, value, float("-inf"))
    power = tl.exp(value - tl.max(value, 0)[None, :])
    return power / tl.sum(power, 0)[None, :]


@triton.jit
def _edges(softmax, k, bins: tl.constexpr, bound: tl.constexpr):
    """Return the bins' shares of the whole, and their upper edges."""
    shares = tl.where(k < bins, softmax * (1 - _MIN_SIZE * bins) + _MIN_SIZE, 0.0)
    return shares, tl.cumsum(shares, 0) * (2 * bound) - bound


@triton.jit
def _at(tile, k, index):
    """Return the tile's numbers in row `index` of each column; 0 where there is no such row."""
    return tl.sum(tl.where(k == index[None, :], tile, 0.0), 0)


@triton.jit
def _extent(shares, upper, k, index, bound: tl.constexpr):
    """Return lower edge and size of the bin `index` of each column."""
    lower = _at(upper, k, index - 1) + tl.where(index == 0, -bound + 0 * tl.sum(shares, 0), 0.0)
    return lower, _at(shares, k, index) * (2 * bound)


@triton.jit
def _raw_slopes(raw, k, at, inside, size, index, bins: tl.constexpr):
    """Load raw slopes at both ends of each bin; raw zeros at the bounds are slopes of 1."""
    mask = (k < bins - 1) & inside[None, :]
    value = wide(tl.load(raw + k * size + at[None, :], mask, other=0.0))
    return _at(value, k, index - 1) + _UNIT_SLOPE, _at(value, k, index) + _UNIT_SLOPE


@triton.jit
def _slope(raw, at_bound):
    """Compute a slope: exactly 1 at a bound and for zeros, which so give the exact identity."""
    least = 1 - softplus(0 * raw + _UNIT_SLOPE)
    return tl.where(at_bound, 1.0, softplus(raw) + least)


@triton.jit
def _theta(u, lower, size, s, a, b, INVERSE: tl.constexpr):
    """Return the number's share of its bin; of a bin of y, `reference_spline.root` of it."""
    # Clamping may lose NaN, which s keeps.
    share = tl.minimum(tl.maximum((u - lower) / size, 0.0), 1.0) + 0 * s
    if INVERSE:
        lead = a * (1 - share) - b * share
        product = 4 * share * (1 - share)
        large = tl.abs(lead) + tl.sqrt(lead * lead + product)
        theta = 2 * share / (2 * share + tl.where(lead < 0, product / large, large))
    else:
        theta = share
    return theta


@triton.jit
def _sums(theta, other, t, a, b):
    """Compute D and M as `spline_planes` does."""
    least = tl.minimum(tl.minimum(a, b), 1.0)
    m = least + (b - least) * theta * theta + 2 * (1 - least) * t + (a - least) * other * other
    return 1 + (a + b - 2) * t, m


@triton.jit
def _forward(
    active, parameters, passive, out, index_out, sums,
    size, rest, active_stride, parameters_stride, passive_stride, active_start, passive_start,
    blocks, copies, bins: tl.constexpr, bound: tl.constexpr, INVERSE: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Evaluate the formulas of `spline_planes`."""
    sample, block = sample_and_block(blocks + copies)
    row = out + sample * (size + rest)
    if block < blocks:
        at = block * BLOCK + tl.arange(0, BLOCK)
        inside = at < size
        k = tl.arange(0, ROWS)[:, None]
        raw = parameters + sample * parameters_stride
        x = wide(tl.load(active + sample * active_stride + at, inside, other=0.0))
        within = (x >= -bound) & (x <= bound)
        u = tl.where(within, x, 0.0)
        widths, upper_x = _edges(_softmax(raw, k, at, inside, size, bins), k, bins, bound)
        heights, upper_y = _edges(
            _softmax(raw + bins * size, k, at, inside, size, bins), k, bins, bound
        )
        passed = u[None, :] >= (upper_y if INVERSE else upper_x)
        index = tl.sum((passed & (k < bins - 1)).to(tl.int32), 0)
        x0, width = _extent(widths, upper_x, k, index, bound)
        y0, height = _extent(heights, upper_y, k, index, bound)
        r0, r1 = _raw_slopes(raw + 2 * bins * size, k, at, inside, size, index, bins)
        s = height / width
        a, b = _slope(r0, index == 0) / s, _slope(r1, index == bins - 1) / s
        if INVERSE:
            theta = _theta(u, y0, height, s, a, b, True)
        else:
            theta = _theta(u, x0, width, s, a, b, False)
        other = 1 - theta
        t = theta * other
        d, m = _sums(theta, other, t, a, b)
        if INVERSE:
            y = x0 + width * theta
        else:
            y = y0 + height * ((theta * theta + a * t) / d)
        log_slope = tl.where(within, tl.log(s * m / (d * d)), 0 * x)
        tl.store(row + active_start + at, tl.where(within, y, x).to(out.dtype.element_ty), inside)
        tl.store(index_out + sample * size + at, index.to(tl.int16), inside)
        total = tl.sum(tl.where(inside, log_slope, 0.0))
        tl.store(sums + sample * blocks + block, -total if INVERSE else total)
    else:
        at = (block - blocks) * BLOCK + tl.arange(0, BLOCK)
        inside = at < rest
        half = tl.load(passive + sample * passive_stride + at, inside, other=0.0)
        tl.store(row + passive_start + at, half.to(out.dtype.element_ty), inside)


@triton.jit
def _store_sizes(softmax, k, index, by_edge, by_size, out, at, inside, size, bins: tl.constexpr):
    """Store softmax_j (G_j - Σ_i G_i softmax_i), G_j: by_edge before the bin, by_size in it."""
    before, here = k < index[None, :], k == index[None, :]
    g = softmax * tl.where(before, by_edge[None, :], tl.where(here, by_size[None, :], 0.0))
    g -= softmax * tl.sum(g, 0)[None, :]
    mask = (k < bins) & inside[None, :]
    tl.store(out + k * size + at[None, :], g.to(out.dtype.element_ty), mask)


@triton.jit
def _backward(
    grad, grad_log_det, active, index_in, parameters, grad_active, grad_parameters,
    size, grad_stride, active_stride, parameters_stride, log_det_stride,
    blocks, bins: tl.constexpr, bound: tl.constexpr, INVERSE: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Evaluate `spline_planes._local_gradients` and the gradients of softmax and softplus."""
    sample, block = sample_and_block(blocks)
    at = block * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    k = tl.arange(0, ROWS)[:, None]
    raw = parameters + sample * parameters_stride
    x = wide(tl.load(active + sample * active_stride + at, inside, other=0.0))
    g = wide(tl.load(grad + sample * grad_stride + at, inside, other=0.0))
    index = tl.load(index_in + sample * size + at, inside, other=0).to(tl.int32)
    within = (x >= -bound) & (x <= bound)
    u = tl.where(within, x, 0.0)
    share_x = _softmax(raw, k, at, inside, size, bins)
    share_y = _softmax(raw + bins * size, k, at, inside, size, bins)
    widths, upper_x = _edges(share_x, k, bins, bound)
    heights, upper_y = _edges(share_y, k, bins, bound)
    x0, width = _extent(widths, upper_x, k, index, bound)
    y0, height = _extent(heights, upper_y, k, index, bound)
    r0, r1 = _raw_slopes(raw + 2 * bins * size, k, at, inside, size, index, bins)
    s = height / width
    a, b = _slope(r0, index == 0) / s, _slope(r1, index == bins - 1) / s
    if INVERSE:
        theta = _theta(u, y0, height, s, a, b, True)
    else:
        theta = _theta(u, x0, width, s, a, b, False)
    other = 1 - theta
    t, slant = theta * other, other - theta
    d, m = _sums(theta, other, t, a, b)
    rise, slope = (theta * theta + a * t) / d, m / (d * d)
    log_theta = 2 * ((b * theta - a * other + slant) / m - (a + b - 2) * slant / d)
    g_y = tl.where(within, g, 0.0)
    g_log = tl.where(within, wide(tl.load(grad_log_det + sample * log_det_stride)), 0.0)
    if INVERSE:
        g_log = -g_log
        g_theta = -g_y * width
        g_rise = (g_theta - g_log * log_theta) / slope
        g_y = g_rise / height
    else:
        g_rise = g_y * height
        g_theta = slope * g_rise + g_log * log_theta
    common, by_rise = -2 * g_log * t / d, g_rise * t / d
    g_a = common + by_rise * (1 - rise) + g_log / m * other * other
    g_b = common - by_rise * rise + g_log / m * theta * theta
    # s · g_s, at given slopes of the ends.
    by_s = g_log - g_a * a - g_b * b
    g_x = g_theta / width
    g_width = -(by_s + g_theta * theta) / width
    g_height = rise * g_y + by_s / height
    result = tl.where(within, -g_y if INVERSE else g_x, g)
    tl.store(grad_active + sample * size + at, result.to(grad_active.dtype.element_ty), inside)
    out = grad_parameters + sample * (3 * bins - 1) * size
    spread: tl.constexpr = 2 * bound * (1 - _MIN_SIZE * bins)
    _store_sizes(share_x, k, index, -g_x * spread, g_width * spread, out, at, inside, size, bins)
    out += bins * size
    _store_sizes(share_y, k, index, g_y * spread, g_height * spread, out, at, inside, size, bins)
    g0, g1 = g_a / s * sigmoid(r0), g_b / s * sigmoid(r1)
    g_raw = tl.where(k == index[None, :] - 1, g0[None, :], 0.0)
    g_raw += tl.where(k == index[None, :], g1[None, :], 0.0)
    out += bins * size
    mask = (k < bins - 1) & inside[None, :]
    tl.store(out + k * size + at[None, :], g_raw.to(out.dtype.element_ty), mask)


def spline_couple(
    active: Tensor, parameters: Tensor, passive: Tensor | None, active_first: bool, *settings: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute `spline.eager_spline`, which takes over for many bins and other layouts."""
    bins, bound, inverse = settings
    half = active if passive is None else passive
    if bins > MOST_BINS or not by_sample(active, parameters, half):
        return eager_spline(active, parameters, passive, active_first, *settings)
    dtype = torch.promote_types(active.dtype, parameters.dtype)
    channels = active.shape[1] + (0 if passive is None else passive.shape[1])
    out = active.new_empty((len(active), channels, *active.shape[2:]), dtype=dtype)
    index = torch.empty(active.shape, dtype=torch.int16, device=active.device)
    size, rest = active[0].numel(), 0 if passive is None else passive[0].numel()
    blocks, copies = triton.cdiv(size, BLOCK), triton.cdiv(rest, BLOCK)
    sums = active.new_empty(len(active), blocks, dtype=widened(dtype))
    starts = (0, size) if active_first else (rest, 0)
    _forward[(len(active) * (blocks + copies),)](
        active, parameters, half, out, index, sums,
        size, rest, active.stride(0), parameters.stride(0), half.stride(0), *starts,
        blocks, copies, bins, bound, inverse, ROWS=triton.next_power_of_2(bins), BLOCK=BLOCK,
    )  # fmt: skip
    return out, sums.sum(1), index[:, None]


def spline_couple_backward(
    grad: Tensor,
    grad_log_det: Tensor,
    active: Tensor,
    index: Tensor,
    parameters: Tensor,
    *settings: Any,
) -> tuple[Tensor, Tensor]:
    """Compute `spline.eager_spline_backward`."""
    bins, bound, inverse = settings
    if bins > MOST_BINS or not by_sample(grad, active, parameters, index):
        return eager_spline_backward(grad, grad_log_det, active, index, parameters, *settings)
    size = active[0].numel()
    grad_active = torch.empty(active.shape, dtype=active.dtype, device=active.device)
    grad_parameters = torch.empty(
        parameters.shape, dtype=parameters.dtype, device=parameters.device
    )
    blocks = triton.cdiv(size, BLOCK)
    _backward[(len(active) * blocks,)](
        grad, grad_log_det, active, index, parameters, grad_active, grad_parameters,
        size, grad.stride(0), active.stride(0), parameters.stride(0), grad_log_det.stride(0),
        blocks, bins, bound, inverse, ROWS=triton.next_power_of_2(bins), BLOCK=BLOCK,
    )  # fmt: skip
    return grad_active, grad_parameters
