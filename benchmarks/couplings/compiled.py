"""The same providers under torch.compile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from benchmarks.couplings.case import Provider

__all__ = ["compiled"]


def compiled(providers: Sequence[Provider], wanted: bool = True, **options: Any) -> list[Provider]:
    """Each with its functions compiled for the very shapes of the case."""
    return [_compile(provider, options) for provider in providers] if wanted else []


def _compile(provider: Provider, options: dict[str, Any]) -> Provider:
    forward = torch.compile(provider.forward, dynamic=False, **options)
    inverse = provider.inverse and torch.compile(provider.inverse, dynamic=False, **options)
    return replace(provider, forward=forward, inverse=inverse, compiled=True)
