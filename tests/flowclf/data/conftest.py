"""No test here reads the user's cache or the network; real data come from $FLOWCLF_DATA."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

_REAL = os.environ.get("FLOWCLF_DATA")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "user-cache"
    monkeypatch.delenv("FLOWCLF_DATA", raising=False)
    monkeypatch.setattr("flowclf.data.source.user_cache", lambda: folder)
    return folder


@pytest.fixture
def real() -> Path:
    if not _REAL:
        pytest.skip("FLOWCLF_DATA is not set: no real data")
    return Path(_REAL)


@pytest.fixture
def _global_rng_untouched() -> Iterator[None]:
    before = torch.get_rng_state()
    yield
    assert torch.equal(torch.get_rng_state(), before)
