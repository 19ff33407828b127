"""Rotation with scale and offset by the compiled CPU kernels; the formulas stand in `matmul`."""

import torch
from torch import Tensor

from couplings.ops.dispatch import empty_laid_out_as, is_channels_last
from couplings.ops.matmul import Triple, eager_rotate, eager_rotate_backward
from couplings.ops.native import Layout, call, per_row, readable

MAP = "20q"  # struct Rotation of csrc/rotation.h
# csrc/rotation.h keeps the matrix of so many on the stack.
MOST_CHANNELS = 128
# Numbers in the longest vector, in which the positions of a channel are multiplied.
LEAST_POSITIONS = 16


def rotate(x: Tensor, rotation: Tensor, log_scale: Tensor, offset: Tensor, inverse: bool) -> Tensor:
    """Compute what `eager_rotate` does, in one pass."""
    if not _supported(x, rotation, log_scale, offset):
        return eager_rotate(x, rotation, log_scale, offset, inverse)
    layout, out = Layout(is_channels_last(x)), empty_laid_out_as(x, x.shape)
    call(
        *("rotate_forward", x.dtype, MAP + "10q"),
        *_map(layout, x, rotation, log_scale, offset, inverse),
        *layout.views(x, out),
    )
    return out


def rotate_backward(
    grad: Tensor, z: Tensor, rotation: Tensor, log_scale: Tensor, offset: Tensor, inverse: bool
) -> Triple:
    """Compute what `eager_rotate_backward` does, in one pass."""
    if not (
        _supported(grad, rotation, log_scale, offset) and readable(z) and z.dtype == grad.dtype
    ):
        return eager_rotate_backward(grad, z, rotation, log_scale, offset, inverse)
    layout, grad_input = Layout(is_channels_last(grad)), empty_laid_out_as(grad, grad.shape)
    sums = grad.new_empty(len(grad), 2, grad.shape[1])
    call(
        *("rotate_backward", grad.dtype, MAP + "20q"),
        *_map(layout, grad, rotation, log_scale, offset, inverse),
        *layout.views(grad, z, grad_input),
        *(sums.data_ptr(), sums.dtype == torch.float64, *sums.stride()),
    )
    grad_offset, grad_scale = sums.sum(0).mul_(-1 if inverse else 1).to(offset.dtype)
    return grad_input, grad_scale, grad_offset


def _supported(x: Tensor, rotation: Tensor, log_scale: Tensor, offset: Tensor) -> bool:
    return (
        x.dim() == 4
        and x.dtype in (torch.float32, torch.float64)
        and x.shape[1] <= MOST_CHANNELS
        and (x.shape[2:].numel() >= LEAST_POSITIONS or is_channels_last(x))
        and readable(x, rotation, log_scale, offset)
        and rotation.shape == (x.shape[1], x.shape[1])
        and log_scale.shape == offset.shape == x.shape[1:2]
    )


def _map(
    layout: Layout,
    x: Tensor,
    rotation: Tensor,
    log_scale: Tensor,
    offset: Tensor,
    inverse: bool,
) -> tuple[int, ...]:
    shape = (len(x), *layout.shape(x), layout.channels_last, inverse)
    return (*shape, *per_row(rotation), *per_row(log_scale), *per_row(offset))
