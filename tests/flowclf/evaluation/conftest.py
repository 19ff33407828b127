"""Simulated and trained classifiers that several tests of evaluation share."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from flowclf.classifier import GenerativeClassifier
from flowclf.config import make_config
from flowclf.data import Split, load_dataset
from flowclf.training import train


@pytest.fixture
def simulate(generator: torch.Generator) -> Callable[..., tuple[Tensor, Tensor]]:
    """Posteriors, and labels drawn from them: a perfectly calibrated predictor."""

    def draw(count: int, classes: int, sharpness: float) -> tuple[Tensor, Tensor]:
        logits = sharpness * torch.randn(count, classes, generator=generator, dtype=torch.float64)
        log_posterior = logits.log_softmax(1)
        return log_posterior, torch.multinomial(log_posterior.exp(), 1, generator=generator)[:, 0]

    return draw


@pytest.fixture(scope="session")
def test_split() -> Split:
    return load_dataset("digits").test.take(slice(300))


@pytest.fixture(scope="session")
def classifier() -> GenerativeClassifier:
    return _trained("ce")


@pytest.fixture(scope="session")
def digits_flow() -> GenerativeClassifier:
    return _trained("ib-inn", network={"kind": "mlp", "blocks": 4, "hidden": [64]})


def _trained(system: str, **sections: Any) -> GenerativeClassifier:
    digits = load_dataset("digits")
    settings = {"train": {"epochs": 12}, **sections}
    config = make_config(system, "digits", digits.shape, preset="digits", overrides=[settings])
    return train(config, digits, device="cpu").model.eval()
