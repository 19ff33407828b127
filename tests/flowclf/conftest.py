"""What all tests of flowclf share: one thread, and random numbers from a generator of their own."""

from __future__ import annotations

import pytest
import torch

# Two threads on two busy cores are many times slower than one.
torch.set_num_threads(1)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
