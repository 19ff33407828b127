"""Random numbers without global state: every draw is named by seed, stream and position.

Each step seeds its generators from (seed, stream, step), so that an interrupted run needs only the
step to resume exactly.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

__all__ = ["derive_seed", "generator_for", "hashed_uniform", "private_rng"]


# Of splitmix64: 2⁶⁴ divided by the golden ratio, as a signed number.
GOLDEN = -0x61C8864680B583EB


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


def hashed_uniform(x: Tensor, *, each: bool = False) -> Tensor:
    """Return numbers in [0, 1), float64, uniform over samples x (N, ...), the same for the same x.

    One for each sample, (N,), or for `each` number of x, (N, ...). They come from the sample's own
    numbers, mixed by splitmix64 (Steele, Lea and Flood, OOPSLA 2014): no answer that uses them
    depends on the rest of a batch, or on when it was asked for.
    """
    bits = x.float().contiguous().view(torch.int32) if x.is_floating_point() else x
    places = torch.arange(x[0].numel(), device=x.device) * GOLDEN
    state = _mixed(_mixed(bits.flatten(1).long() + places).sum(1))
    if each:
        state = _mixed(state[:, None] + places).view(x.shape)
    return ((state >> 11) & (2**53 - 1)).double() / 2**53


def _mixed(state: Tensor) -> Tensor:
    """Return the next state of splitmix64, modulo 2⁶⁴."""
    state = state + GOLDEN
    state = (state ^ _shifted(state, 30)) * -0x40A7B892E31B1A47
    state = (state ^ _shifted(state, 27)) * -0x6B2FB644ECCEEE15
    return state ^ _shifted(state, 31)


def _shifted(state: Tensor, count: int) -> Tensor:
    """Shift right without the sign."""
    return (state >> count) & ((1 << (64 - count)) - 1)


@contextmanager
def private_rng(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generator within the block, for dropout; restore it afterwards."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            torch.cuda.default_generators[device.index or 0].manual_seed(seed)
        yield
