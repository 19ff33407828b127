"""Forward hooks for the length of a block."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from threading import get_ident
from typing import Any

from torch import nn

__all__ = ["noting"]


@contextmanager
def noting(
    layers: Iterable[nn.Module], note: Callable[[nn.Module, Any, Any], None]
) -> Iterator[None]:
    """Call note(layer, inputs, output) after each pass of these layers, as long as it lasts.

    Passes of other threads, which may ask the same model, are not noted.
    """
    thread = get_ident()

    def noted(layer: nn.Module, inputs: Any, output: Any) -> None:
        if get_ident() == thread:
            note(layer, inputs, output)

    hooks = [layer.register_forward_hook(noted) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
