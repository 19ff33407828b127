"""The global generators, which some peers draw from, put back as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ["forked"]


@contextmanager
def forked(device: torch.device | None = None) -> Iterator[None]:
    """Inside, torch's and numpy's global generators may be drawn from."""
    devices = [device] if device is not None and device.type == "cuda" else []
    state = np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        np.random.set_state(state)  # noqa: NPY002
