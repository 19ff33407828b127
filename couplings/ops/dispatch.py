"""Registration of operators, choice of their kernel, layout of tensors for them."""

import struct
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from couplings.ops import native

_DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.int16: 3}
# Operators that can be differentiated, by name.
_FUNCTIONS: dict[str, Callable[..., Any]] = {}


def needs_reference() -> bool:
    """Return True while something transforms the program, to which an operator is a closed box.

    torch.compile and torch.export fuse and save the plain formula; torch.func (vmap, jvp, jacrev)
    and forward-mode derivatives go through it.
    """
    return torch.compiler.is_compiling() or in_torch_func() or forward_ad._current_level >= 0


def operator_or(definition: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Return `couplings::name`, or its plain definition where `needs_reference`.

    The operator's own rule for autograd takes 50 µs more than the same as an autograd.Function,
    which is as much as a small coupling's arithmetic.
    """
    return definition if needs_reference() else _FUNCTIONS[name]


def differentiable() -> bool:
    """Return True if a backward is itself differentiated (create_graph=True) or vectorised."""
    return torch.is_grad_enabled() or in_torch_func()


def backward_of(definition: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Return `couplings::name`, or its plain definition where the backward is `differentiable`."""
    return definition if differentiable() else getattr(torch.ops.couplings, name)


def define(
    name: str,
    schema: str,
    eager: Callable[..., Any],
    fake: Callable[..., Any],
    triton: str | None = None,
    compiled: Callable[..., Any] | None = None,
    *,
    setup: Callable[..., None] | None = None,
    backward: Callable[..., Any] | None = None,
) -> None:
    """Register `couplings::name`, with `eager` for every device and a Triton kernel for CUDA.

    Args:
        name: of the operator.
        schema: its arguments and results, as torch.library.define takes them.
        eager: the kernel without a compiler.
        fake: shapes, dtypes and strides of the results.
        triton: the module of `couplings.ops` in which a function of this name is the CUDA kernel;
            imported for the first CUDA tensor.
        compiled: calls the compiled CPU kernel; registered where there is one.
        setup, backward: what torch.library.register_autograd takes, if it is differentiable.
    """
    qualified = f"couplings::{name}"
    torch.library.define(qualified, schema, tags=(torch.Tag.pt2_compliant_tag,))
    torch.library.impl(qualified, "CompositeExplicitAutograd", eager)
    torch.library.register_fake(qualified, fake)
    if triton is not None:
        torch.library.impl(qualified, "CUDA", _lazy(triton, name, eager))
    if compiled is not None and native.COMPILED:
        torch.library.impl(qualified, "CPU", compiled)
    if setup is not None and backward is not None:
        torch.library.register_autograd(qualified, backward, setup_context=setup)
        _FUNCTIONS[name] = _function(getattr(torch.ops.couplings, name), setup, backward)


def _function(
    operator: Callable[..., Any], setup: Callable[..., None], gradients: Callable[..., Any]
) -> Callable[..., Any]:
    """Make an operator with its rule for autograd a function."""

    class Differentiable(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Any:
            output = operator(*inputs)
            setup(ctx, inputs, output)
            return output

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            return gradients(ctx, *grads)

    return Differentiable.apply


def widened(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype to compute in, and of log-determinants: float32 or wider."""
    return torch.promote_types(dtype, torch.float32)


def full_precision(x: Tensor) -> torch.autocast:
    """Switch autocast off: products in this context are part of the density."""
    return torch.autocast(x.device.type, enabled=False)


def widen(x: Tensor) -> Tensor:
    """Return what a network computed, perhaps under autocast, in float32 or wider."""
    # Not `to` alone: what finds faults would take an operation that does nothing for the culprit.
    return x if x.dtype == widened(x.dtype) else x.to(widened(x.dtype))


def in_torch_func() -> bool:
    """Return True inside vmap, jvp, grad and the like, whose tensors do not show their layout."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


def allocate_joined(
    active: Tensor, passive: Tensor | None, active_first: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Allocate y with the passive half copied in; return it and a view of its active half."""
    out, mapped, rest = allocate_halves(active, passive, active_first, dtype)
    if rest is not None and passive is not None:
        rest.copy_(passive)
    return out, mapped


def allocate_halves(
    active: Tensor, passive: Tensor | None, active_first: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Allocate y; return it and views of its active and, if there is one, its passive half."""
    if passive is None:
        out = empty_laid_out_as(active, active.shape, dtype)
        return out, out, None
    size, rest = active.shape[1], passive.shape[1]
    out = empty_laid_out_as(active, (len(active), size + rest, *active.shape[2:]), dtype)
    mapped = out.narrow(1, 0 if active_first else rest, size)
    return out, mapped, out.narrow(1, size if active_first else 0, rest)


def empty_laid_out_as(like: Tensor, shape: Any, dtype: torch.dtype | None = None) -> Tensor:
    """Allocate in the memory format of `like`, which may be a slice of channels."""
    layout = torch.channels_last if is_channels_last(like) else torch.contiguous_format
    return torch.empty(shape, dtype=dtype or like.dtype, device=like.device, memory_format=layout)


def is_channels_last(tensor: Tensor) -> bool:
    """Return True if the channels, or a slice of them, are innermost in memory."""
    return tensor.dim() == 4 and tensor.stride(1) == 1 and tensor.shape[1] > 1


def prefers_channels_last(x: Tensor) -> bool:
    """Return True where convolutions would otherwise reorder each of their inputs and outputs.

    oneDNN does so on a CPU (a tenth of a training step), cuDNN for tensor cores in 16 bits.
    """
    if in_torch_func():
        return False
    return x.is_cpu or (x.is_cuda and torch.is_autocast_enabled("cuda"))


def keeps_channels_last(x: Tensor) -> bool:
    """Return True where a flow's state stays so: PyTorch's own operators are slow in it on CPUs."""
    return prefers_channels_last(x) and (native.COMPILED or not x.is_cpu)


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """Reshape (B,) to (B, 1, ...), to broadcast over `like`."""
    return values.view(-1, *[1] * (like.dim() - 1))


class Layout(NamedTuple):
    """Order in which a kernel walks over the numbers of a sample of (B, C, ...).

    Channels are rows of positions or, where channels are innermost in memory, positions are rows of
    channels. A view (struct View of csrc/view.h) is five numbers: address, dtype and the strides of
    samples, rows and columns.
    """

    channels_last: bool

    def shape(self, x: Tensor) -> tuple[int, int]:
        """Return the rows and columns of one sample."""
        positions = x.shape[2:].numel()
        return (positions, x.shape[1]) if self.channels_last else (x.shape[1], positions)

    def views(self, *tensors: Tensor | None) -> list[int]:
        """Describe tensors to a kernel; None: one that is not there."""
        numbers: list[int] = []
        for x in tensors:
            if x is None:
                numbers += (0, 0, 0, 0, 0)
            else:
                sample, channel, *_ = x.stride()
                position = _position_stride(x)
                rows = (position, channel) if self.channels_last else (channel, position)
                numbers += (x.data_ptr(), _DTYPES[x.dtype], sample, *rows)
        return numbers


def sample_view(x: Tensor) -> tuple[int, ...]:
    """Describe (B,), a number a sample."""
    return x.data_ptr(), _DTYPES[x.dtype], x.stride(0), 0, 0


def matrix_view(x: Tensor) -> tuple[int, ...]:
    """Describe a matrix or vector, the same for all samples."""
    row, column = x.stride() if x.dim() == 2 else (0, x.stride(0))
    return x.data_ptr(), _DTYPES[x.dtype], 0, row, column


def readable(*tensors: Tensor) -> bool:
    """Return True if the kernels take all of these: dtypes, strides, and something in them."""
    return all(
        x.is_floating_point() and x.dtype in _DTYPES and x.numel() and _position_stride(x) >= 0
        for x in tensors
    )


def joinable(active: Tensor, passive: Tensor | None) -> bool:
    """Return True if the halves differ in their channels alone, and so lie side by side in y."""
    return passive is None or (len(passive), passive.shape[2:]) == (len(active), active.shape[2:])


def call(name: str, dtype: torch.dtype, form: str, *numbers: float) -> None:
    """Run a kernel that computes in `dtype` on a struct of these numbers."""
    assert not isinstance(native.LOADED, str)
    library, parallel_for = native.LOADED
    getattr(library, name)(parallel_for, dtype == torch.float64, struct.pack(form, *numbers))


def _position_stride(x: Tensor) -> int:
    """Return the one stride of all positions of (B, C, ...), or -1 if there is none."""
    shape, strides = x.shape[2:], x.stride()[2:]
    if len(shape) == 2 and strides[0] == strides[1] * shape[1]:
        return strides[1]
    stride, extent = 0, 1
    for size, step in zip(reversed(shape), reversed(strides), strict=True):
        if size == 1:
            continue
        if extent == 1:
            stride = step
        elif step != stride * extent:
            return -1
        extent *= size
    return stride


def record_halves(ctx: Any, active: Tensor, passive: Tensor | None, active_first: bool) -> None:
    """Record on a backward's context where in y each half lies; gradients may be None."""
    size, ctx.rest = active.shape[1], 0 if passive is None else passive.shape[1]
    ctx.passive_start, ctx.active_start = (size, 0) if active_first else (0, ctx.rest)
    ctx.set_materialize_grads(False)


def half_gradients(
    ctx: Any, grad_y: Tensor | None, grad_log_det: Tensor | None, active: Tensor
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the gradients of y's active half, of log_det and of the passive half."""
    if grad_log_det is None:
        grad_log_det = active.new_zeros(len(active), dtype=widened(active.dtype))
    if grad_y is None:
        return torch.zeros_like(active), grad_log_det, None
    grad = grad_y.narrow(1, ctx.active_start, active.shape[1])
    passive = grad_y.narrow(1, ctx.passive_start, ctx.rest) if ctx.rest else None
    return grad, grad_log_det, passive


def _lazy(module: str, name: str, eager: Callable[..., Any]) -> Callable[..., Any]:
    @cache
    def chosen() -> Callable[..., Any]:
        # A CUDA machine may lack Triton (Windows).
        if find_spec("triton") is None:
            return eager
        kernel: Callable[..., Any] = getattr(import_module(f"couplings.ops.{module}"), name)
        return kernel

    def kernel(*args: Any) -> Any:
        tensors = [arg for arg in args if isinstance(arg, Tensor)]
        # A grid of no programs cannot be launched.
        if not all(tensor.numel() for tensor in tensors):
            return eager(*args)
        # Triton launches on the current device, which need not be that of the tensors.
        with torch.cuda.device_of(tensors[0]):
            return chosen()(*args)

    return kernel
