"""Random numbers without global state: every draw is named by seed, stream and position.

Each step seeds its generators from (seed, stream, step), so that an interrupted run needs only the
step to resume exactly.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from zlib import crc32

import numpy as np
import torch

__all__ = ["derive_seed", "generator_for", "private_rng"]


def derive_seed(seed: int, stream: str, *position: int) -> int:
    """Return a 63-bit seed that depends on all arguments."""
    # The length comes last: numpy's SeedSequence does not distinguish (1,) from (1, 0).
    entropy = (seed, crc32(stream.encode()), *position, len(position) + 1)
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)


def generator_for(
    seed: int, stream: str, *position: int, device: torch.device | str = "cpu"
) -> torch.Generator:
    """Return a fresh generator for one purpose."""
    return torch.Generator(device).manual_seed(derive_seed(seed, stream, *position))


@contextmanager
def private_rng(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generator within the block, for dropout; restore it afterwards."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            torch.cuda.default_generators[device.index or 0].manual_seed(seed)
        yield
