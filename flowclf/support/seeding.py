"""Random numbers without global state: every draw is named by seed, stream and position.

A generator is seeded anew for each step from (seed, stream, step), so nothing but the step has to
be remembered to go on exactly where a run was interrupted.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from zlib import crc32

import numpy as np
import torch

__all__ = ["derive_seed", "generator_for", "private_rng"]


def derive_seed(seed: int, stream: str, *position: int) -> int:
    """A 63-bit seed that depends on all arguments."""
    # The length ends it: numpy's SeedSequence would not tell (1,) from (1, 0).
    entropy = (seed, crc32(stream.encode()), *position, len(position) + 1)
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)


def generator_for(
    seed: int, stream: str, *position: int, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A fresh generator for one purpose."""
    return torch.Generator(device).manual_seed(derive_seed(seed, stream, *position))


@contextmanager
def private_rng(seed: int, device: torch.device) -> Iterator[None]:
    """Run what can only draw from torch's global generator (dropout), and put that back after."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            torch.cuda.default_generators[device.index or 0].manual_seed(seed)
        yield
