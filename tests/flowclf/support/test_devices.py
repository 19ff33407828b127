"""Devices by name, and what is said of one without float64."""

import pytest
import torch

from flowclf.support.devices import float64_told, pick_device
from flowclf.support.errors import UserError


def test_auto_is_never_mps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == "cpu"
    assert pick_device("mps") == "mps"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UserError, match="expected Apple's GPU for device mps"):
        pick_device("mps")


def test_what_needs_float64_is_told_on_mps() -> None:
    refused = "Cannot convert a MPS Tensor to float64 dtype"
    with (
        pytest.raises(UserError, match="mps, which has none; use --device cpu"),
        float64_told("mps"),
    ):
        raise TypeError(refused)
    for device, message in (("cpu", refused), ("mps", "another")):
        with pytest.raises(TypeError, match=message), float64_told(device):
            raise TypeError(message)
