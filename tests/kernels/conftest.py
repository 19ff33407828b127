"""The Triton kernels: interpreted on the CPU under TRITON_INTERPRET=1, compiled on CUDA.

Only `make test-kernels` and a CUDA machine collect them: Triton is no dependency of the package.
"""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

if find_spec("triton") is None or not (INTERPRETED or torch.cuda.is_available()):
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture
def device() -> torch.device:
    return torch.device("cpu" if INTERPRETED else "cuda")
