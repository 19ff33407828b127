"""The systems' networks: the paper's numbers, and weights that the seed decides."""

import os
from functools import cache
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from couplings import DCT, Chain, Rotation
from flowclf import build
from flowclf.classifier import GenerativeClassifier
from flowclf.data import load_dataset
from flowclf.support.seeding import private_rng

CIFAR = (3, 32, 32)


@cache
def paper_cifar() -> GenerativeClassifier:
    return build("ib-inn", shape=CIFAR, classes=10, preset="paper-cifar10")


def smooth_images(generator: torch.Generator, count: int = 32) -> Tensor:
    coarse = torch.rand(count, 3, 8, 8, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, size=32, mode="bicubic").clamp(0, 1)
    return (255 * fine).to(torch.uint8)


def trainable(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


@torch.no_grad()
def mean_rate(model: GenerativeClassifier, x: Tensor) -> float:
    """Compute the authors' L_X/d in training mode, as at their first step."""
    model.fit_statistics(x, torch.arange(len(x)) % 10)
    model.train()
    with private_rng(0, torch.device("cpu")):
        return float(model.paper_rate_per_dim(x).mean())


def test_paper_cifar_has_the_papers_number_of_parameters() -> None:
    """21.6k + 22.1k + 275.8k + 97.8k + 1.300M + 9.445M, and ten means."""
    model = paper_cifar()
    assert trainable(model.encoder.network) == pytest.approx(11.162e6, abs=500)
    assert model.mixture.means.numel() == 30_720
    conv_part = trainable(model.encoder.network) - trainable(model.encoder.network[-1])
    assert conv_part == pytest.approx(1.717e6, abs=500)


def test_paper_cifar_starts_with_the_papers_rate_and_means(generator: torch.Generator) -> None:
    """About 16.8 + ½ E‖z - μ‖²/d: nearly all of it is 56 scalings by 0.75, and the DCT's ½."""
    model = paper_cifar()
    assert 16.5 < mean_rate(model, smooth_images(generator)) < 18
    assert model.mixture.mean_distance().item() == pytest.approx(5.0, abs=1e-4)


@torch.no_grad()
def test_paper_cifar_starts_with_the_papers_log_det(generator: torch.Generator) -> None:
    model = paper_cifar().train()
    network = model.encoder.network
    u = torch.randn(16, *CIFAR, generator=generator)
    stages = list(network)
    head = next(i for i, stage in enumerate(stages) if isinstance(stage, DCT))
    with private_rng(0, torch.device("cpu")):
        v, conv_part = Chain(stages[:head])(u)
    _, dct = stages[head](v)
    assert_close(conv_part.mean() / model.dims, torch.tensor(-16.1), rtol=0, atol=0.1)
    assert_close(dct / model.dims, torch.full((16,), -log(2)), rtol=0, atol=1e-5)
    scalings = sum(isinstance(stage, Rotation) for stage in stages)
    assert scalings * log(0.75) == pytest.approx(-16.110, abs=1e-3)


@pytest.mark.skipif("FLOWCLF_DATA" not in os.environ, reason="needs CIFAR-10 below FLOWCLF_DATA")
def test_paper_cifar_starts_with_the_papers_rate_on_cifar10() -> None:
    """Their own log has 17.17 in training and 16.77 in validation."""
    train = load_dataset("cifar10", Path(os.environ["FLOWCLF_DATA"]), download=False).train
    assert 16.7 < mean_rate(paper_cifar(), train.x[:128]) < 17.3


# Seeds.

MODELS: dict[str, dict[str, Any]] = {
    "conv": {"shape": (1, 8, 8), "network": {"kind": "conv", "blocks": [1], "width": [4]}},
    "mlp": {"shape": (5,), "network": {"kind": "mlp"}},
    "fewer dimensions than classes": {"shape": (2,), "network": {"kind": "mlp"}},
    "paper": {"shape": (1, 8, 8), "network": {"kind": "paper", "variant": "mnist"}},
}


@pytest.mark.parametrize("kind", MODELS)
def test_the_seed_alone_decides_all_weights(kind: str) -> None:
    before, before_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first, again, other = (
        build("ib-inn", classes=3, seed=seed, **MODELS[kind]).state_dict() for seed in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], before_numpy)  # noqa: NPY002
    assert all(torch.equal(first[name], again[name]) for name in first)
    drawn = {name for name in first if name.endswith("rotation")}
    drawn |= {name for name in first if name.endswith("layers.0.weight")}
    assert len(drawn) >= 3
    assert not any(torch.equal(first[name], other[name]) for name in drawn)
