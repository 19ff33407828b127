"""What all tests of flowclf share: one thread, a generator of random numbers, one more system."""

from __future__ import annotations

import pytest
import torch
from hybrid import HYBRID

from flowclf.systems import SYSTEMS

# Two threads on two busy cores are many times slower than one.
torch.set_num_threads(1)
# Every test that runs over the systems runs this one, too.
SYSTEMS["hybrid"] = HYBRID


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
