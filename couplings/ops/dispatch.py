"""When a plain definition is the better choice than a custom operator; how operators are made."""

from __future__ import annotations

from collections.abc import Callable
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
    "needs_reference",
    "widened",
]

NAMESPACE = "couplings"


def needs_reference() -> bool:
    """Whether something transforms the program, to which an operator would be a closed box.

    torch.compile and torch.export fuse and save the plain formula; torch.func (vmap, jvp, jacrev)
    and forward-mode derivatives go through it.
    """
    return torch.compiler.is_compiling() or _torch_func() or forward_ad._current_level >= 0


def differentiable() -> bool:
    """Whether a backward is itself being differentiated (create_graph=True), or vectorised."""
    return torch.is_grad_enabled() or _torch_func()


def define(
    name: str,
    schema: str,
    eager: Callable[..., Any],
    fake: Callable[..., Any],
    triton: Callable[[], Callable[..., Any]] | None = None,
) -> None:
    """Register `couplings::name`, with `eager` for every device and a Triton kernel for CUDA.

    Args:
        name: of the operator.
        schema: its arguments and results, as torch.library.define takes them.
        eager: the kernel without a compiler.
        fake: shapes, dtypes and strides of the results.
        triton: called once, for the first CUDA tensor; imports and returns the CUDA kernel.
    """
    qualified = f"{NAMESPACE}::{name}"
    torch.library.define(qualified, schema, tags=(torch.Tag.pt2_compliant_tag,))
    torch.library.impl(qualified, "CompositeExplicitAutograd", eager)
    torch.library.register_fake(qualified, fake)
    if triton is not None:
        torch.library.impl(qualified, "CUDA", _lazy(triton, eager))


def widened(dtype: torch.dtype) -> torch.dtype:
    """The dtype to compute in, and of log-determinants: float32 or wider."""
    return torch.promote_types(dtype, torch.float32)


def full_precision(x: Tensor) -> torch.autocast:
    """A context in which autocast does not round: products here are part of the density."""
    return torch.autocast(x.device.type, enabled=False)


def _torch_func() -> bool:
    return torch._C._are_functorch_transforms_active()


def _lazy(load: Callable[[], Callable[..., Any]], eager: Callable[..., Any]) -> Callable[..., Any]:
    chosen: list[Callable[..., Any]] = []

    def kernel(first: Tensor, *args: Any) -> Any:
        # A kernel has no grid for nothing, and a CUDA machine may lack Triton (Windows).
        if first.numel() == 0:
            return eager(first, *args)
        if not chosen:
            chosen.append(load() if find_spec("triton") else eager)
        return chosen[0](first, *args)

    return kernel
