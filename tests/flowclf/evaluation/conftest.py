"""Simulated predictors that several tests of evaluation share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor


@pytest.fixture
def simulate(generator: torch.Generator) -> Callable[..., tuple[Tensor, Tensor]]:
    """Posteriors, and labels drawn from them: a perfectly calibrated predictor."""

    def draw(count: int, classes: int, sharpness: float) -> tuple[Tensor, Tensor]:
        logits = sharpness * torch.randn(count, classes, generator=generator, dtype=torch.float64)
        log_posterior = logits.log_softmax(1)
        return log_posterior, torch.multinomial(log_posterior.exp(), 1, generator=generator)[:, 0]

    return draw
