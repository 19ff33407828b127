"""The authors' CIFAR-10 network on real CIFAR-10: where it starts, and that it learns."""

import os
from pathlib import Path

import pytest
import torch

import flowclf
from flowclf.config import make_config
from flowclf.data import Dataset, load_dataset
from flowclf.support.seeding import generator_for, private_rng
from flowclf.systems.ib_inn import IBInn
from flowclf.training.setup import make_optimizer

PRESET = "paper-cifar10"


@pytest.fixture(scope="module")
def cifar() -> Dataset:
    root = os.environ.get("FLOWCLF_DATA")
    if not root or not (Path(root) / "cifar-10-batches-bin").is_dir():
        pytest.skip("needs CIFAR-10 below FLOWCLF_DATA")
    return load_dataset("cifar10", download=False)


@pytest.fixture(scope="module")
def model(cifar: Dataset) -> IBInn:
    model = flowclf.build("ib-inn", shape=cifar.shape, classes=10, preset=PRESET)
    assert isinstance(model, IBInn)
    model.fit_statistics(cifar.train.x[:5000], cifar.train.y[:5000])
    return model.train()


def test_it_has_the_parameters_and_means_of_the_authors(model: IBInn) -> None:
    network = sum(p.numel() for p in model.encoder.parameters() if p.requires_grad)
    assert round(network / 1e6, 2) == 11.16
    assert float(model.mixture.mean_distance().detach()) == pytest.approx(5.0, abs=1e-3)


def test_it_starts_where_the_authors_started(model: IBInn, cifar: Dataset) -> None:
    noisy = model.perturb(cifar.train.x[:128], generator_for(0, "noise"))
    with torch.no_grad():
        rate = float(model.paper_rate_per_dim(noisy).mean())
    assert 16.5 < rate < 18


def test_three_steps_lower_the_loss(model: IBInn, cifar: Dataset) -> None:
    settings = make_config("ib-inn", "cifar10", cifar.shape, preset=PRESET).train
    # Gradients pass 56 couplings with BatchNorm and start with a norm near 10⁵: at the full rate
    # the first steps only stir it. The authors' first version began with a twentieth, too.
    optimizer = make_optimizer(model, settings.model_copy(update={"lr": settings.lr / 20}))
    x, y = model.perturb(cifar.train.x[:64], generator_for(0, "noise")), cifar.train.y[:64]
    losses = []
    for _ in range(4):
        with private_rng(0, torch.device("cpu")):  # the same dropout mask each time
            loss = model.loss(x, y)["total"]
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
        optimizer.step()
    assert min(losses[1:]) < losses[0] - 0.05
