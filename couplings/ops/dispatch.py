"""When a plain definition is the better choice than a custom operator; how operators are made."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

__all__ = [
    "NAMESPACE",
    "define",
    "differentiable",
    "full_precision",
    "in_torch_func",
    "needs_reference",
    "widened",
]

NAMESPACE = "couplings"


def needs_reference() -> bool:
    """Whether something transforms the program, to which an operator would be a closed box.

    torch.compile and torch.export fuse and save the plain formula; torch.func (vmap, jvp, jacrev)
    and forward-mode derivatives go through it.
    """
    return torch.compiler.is_compiling() or in_torch_func() or forward_ad._current_level >= 0


def differentiable() -> bool:
    """Whether a backward is itself being differentiated (create_graph=True), or vectorised."""
    return torch.is_grad_enabled() or in_torch_func()


def define(
    name: str,
    schema: str,
    eager: Callable[..., Any],
    fake: Callable[..., Any],
    triton: str | None = None,
) -> None:
    """Register `couplings::name`, with `eager` for every device and a Triton kernel for CUDA.

    Args:
        name: of the operator.
        schema: its arguments and results, as torch.library.define takes them.
        eager: the kernel without a compiler.
        fake: shapes, dtypes and strides of the results.
        triton: the module of `couplings.ops` in which a function of this name is the CUDA kernel;
            imported for the first CUDA tensor.
    """
    qualified = f"{NAMESPACE}::{name}"
    torch.library.define(qualified, schema, tags=(torch.Tag.pt2_compliant_tag,))
    torch.library.impl(qualified, "CompositeExplicitAutograd", eager)
    torch.library.register_fake(qualified, fake)
    if triton is not None:
        torch.library.impl(qualified, "CUDA", _lazy(triton, name, eager))


def widened(dtype: torch.dtype) -> torch.dtype:
    """The dtype to compute in, and of log-determinants: float32 or wider."""
    return torch.promote_types(dtype, torch.float32)


def full_precision(x: Tensor) -> torch.autocast:
    """A context in which autocast does not round: products here are part of the density."""
    return torch.autocast(x.device.type, enabled=False)


def in_torch_func() -> bool:
    """Whether vmap, jvp, grad or the like are at work: their tensors cannot tell their layout."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


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
        # There is no grid for nothing.
        if not all(tensor.numel() for tensor in tensors):
            return eager(*args)
        # Triton launches on the current device, which need not be that of the tensors.
        with torch.cuda.device_of(tensors[0]):
            return chosen()(*args)

    return kernel
