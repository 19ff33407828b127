"""CUDA kernels of couplings::affine_couple: one pass over memory each way.

Program (b, i) maps the i-th block of sample b's active half and sums its log-scales; the remaining
programs of a sample copy its passive half. Block sums are added in a fixed order: no atomics.
The clamp's numbers are constants of the kernel, for as arguments they would be float32.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from couplings.ops.affine import eager_affine, eager_affine_backward
from couplings.ops.dispatch import widened
from couplings.ops.triton_math import atan, block_of, sample_and_block, tanh, wide


@triton.jit
def _forward(
    active, parameters, passive, out, unit, sums,
    size, rest, active_stride, parameters_stride, passive_stride, active_start, passive_start,
    blocks, copies, limit: tl.constexpr, gain: tl.constexpr,
    ATAN: tl.constexpr, INVERSE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    sample, block = sample_and_block(blocks + copies)
    row = out + sample * (size + rest)
    if block < blocks:
        at = block * BLOCK + tl.arange(0, BLOCK)
        inside = at < size
        raw = wide(tl.load(parameters + sample * parameters_stride + at, inside, other=0.0))
        shift = wide(
            tl.load(parameters + sample * parameters_stride + size + at, inside, other=0.0)
        )
        x = wide(tl.load(active + sample * active_stride + at, inside, other=0.0))
        u = atan(raw * gain) * (2 / 3.14159265358979323846) if ATAN else tanh(raw * gain)
        if INVERSE:
            y = (x - shift) * tl.exp(-limit * u)
        else:
            y = x * tl.exp(limit * u) + shift
        tl.store(row + active_start + at, y.to(out.dtype.element_ty), inside)
        tl.store(unit + sample * size + at, u.to(unit.dtype.element_ty), inside)
        total = tl.sum(tl.where(inside, u, 0.0))
        tl.store(sums + sample * blocks + block, total.to(sums.dtype.element_ty))
    else:
        at = (block - blocks) * BLOCK + tl.arange(0, BLOCK)
        inside = at < rest
        half = tl.load(passive + sample * passive_stride + at, inside, other=0.0)
        tl.store(row + passive_start + at, half.to(out.dtype.element_ty), inside)


@triton.jit
def _backward(
    grad, grad_log_det, kept, unit, grad_active, grad_parameters,
    size, grad_stride, kept_stride, log_det_stride,
    blocks, limit: tl.constexpr, gain: tl.constexpr,
    ATAN: tl.constexpr, INVERSE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    sample, block = sample_and_block(blocks)
    at = block * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    g = wide(tl.load(grad + sample * grad_stride + at, inside, other=0.0))
    x = wide(tl.load(kept + sample * kept_stride + at, inside, other=0.0))
    u = wide(tl.load(unit + sample * size + at, inside, other=0.0))
    g_log = wide(tl.load(grad_log_det + sample * log_det_stride))
    if ATAN:
        cosine = tl.cos(u * (3.14159265358979323846 / 2))
        slope = limit * gain * (2 / 3.14159265358979323846) * cosine * cosine
    else:
        slope = limit * gain * (1 - u) * (1 + u)
    if INVERSE:
        g_x = g * tl.exp(-limit * u)
        g_raw, g_shift = -(g * x + g_log) * slope, -g_x
    else:
        g_x = g * tl.exp(limit * u)
        g_raw, g_shift = (g_x * x + g_log) * slope, g
    tl.store(grad_active + sample * size + at, g_x.to(grad_active.dtype.element_ty), inside)
    row = grad_parameters + sample * 2 * size
    tl.store(row + at, g_raw.to(grad_parameters.dtype.element_ty), inside)
    tl.store(row + size + at, g_shift.to(grad_parameters.dtype.element_ty), inside)


def affine_couple(
    active: Tensor, parameters: Tensor, passive: Tensor | None, active_first: bool, *settings: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute `affine.eager_affine`, which takes over for other layouts than by sample."""
    half = active if passive is None else passive
    if not by_sample(active, parameters, half):
        return eager_affine(active, parameters, passive, active_first, *settings)
    limit, gain, atan, inverse = settings
    dtype = torch.promote_types(active.dtype, parameters.dtype)
    channels = active.shape[1] + (0 if passive is None else passive.shape[1])
    out = active.new_empty((len(active), channels, *active.shape[2:]), dtype=dtype)
    unit = active.new_empty(active.shape, dtype=widened(dtype))
    size, rest = active[0].numel(), 0 if passive is None else passive[0].numel()
    block = block_of(max(size, rest))
    blocks, copies = triton.cdiv(size, block), triton.cdiv(rest, block)
    sums = unit.new_empty(len(active), blocks)
    starts = (0, size) if active_first else (rest, 0)
    _forward[(len(active) * (blocks + copies),)](
        active, parameters, half, out, unit, sums,
        size, rest, active.stride(0), parameters.stride(0), half.stride(0), *starts,
        blocks, copies, limit, gain, ATAN=atan, INVERSE=inverse, BLOCK=block,
    )  # fmt: skip
    return out, sums.sum(1).mul_(-limit if inverse else limit), unit


def affine_couple_backward(
    grad: Tensor, grad_log_det: Tensor, kept: Tensor, unit: Tensor, *settings: Any
) -> tuple[Tensor, Tensor]:
    """Compute `affine.eager_affine_backward`."""
    if not by_sample(grad, kept, unit):
        return eager_affine_backward(grad, grad_log_det, kept, unit, *settings)
    limit, gain, atan, inverse, parameters_dtype = settings
    size = unit[0].numel()
    grad_active = unit.new_empty(unit.shape, dtype=kept.dtype)
    shape = (len(unit), 2 * unit.shape[1], *unit.shape[2:])
    grad_parameters = unit.new_empty(shape, dtype=parameters_dtype)
    block = block_of(size)
    blocks = triton.cdiv(size, block)
    _backward[(len(unit) * blocks,)](
        grad, grad_log_det, kept, unit, grad_active, grad_parameters,
        size, grad.stride(0), kept.stride(0), grad_log_det.stride(0), blocks, limit, gain,
        ATAN=atan, INVERSE=inverse, BLOCK=block,
    )  # fmt: skip
    return grad_active, grad_parameters


def by_sample(*tensors: Tensor) -> bool:
    """Return True if each sample's numbers are contiguous in memory, as in a slice of channels.

    Within a sample the kernels count in 32 bits.
    """
    return all(tensor[:1].is_contiguous() and tensor[:1].numel() < 2**31 for tensor in tensors)
