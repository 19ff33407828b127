"""Loader that CUDA tensors reach the kernels by, without the dispatcher."""

from __future__ import annotations

import pytest
import torch

from couplings.ops import dispatch, triton_affine
from couplings.ops.affine import eager_affine

SETTINGS = (0.7, 0.8, False, False)


def test_the_loader_finds_the_kernel(monkeypatch: pytest.MonkeyPatch, device: torch.device) -> None:
    calls = []
    monkeypatch.setattr(triton_affine, "affine_couple", lambda *args: calls.append(args))
    kernel = dispatch._lazy("triton_affine", "affine_couple", eager_affine)
    x = torch.ones(2, 3, device=device)
    kernel(x, x, None, False, *SETTINGS)
    assert len(calls) == 1


@pytest.mark.parametrize("shapes", [((0, 2), (0, 4)), ((2, 0), (2, 0))], ids=str)
def test_empty_tensors_are_not_launched(
    shapes: tuple[tuple[int, int], tuple[int, int]], device: torch.device
) -> None:
    kernel = dispatch._lazy("triton_affine", "affine_couple", eager_affine)
    active, parameters = (torch.ones(shape, device=device) for shape in shapes)
    y, log_det, _ = kernel(active, parameters, None, False, *SETTINGS)
    assert y.shape == active.shape
    assert torch.equal(log_det, torch.zeros(len(active), device=device))


def test_without_triton_the_eager_kernel_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "find_spec", lambda name: None)
    kernel = dispatch._lazy("no_such_module", "affine_couple", lambda *args: "eager")
    assert kernel(torch.ones(1)) == "eager"
