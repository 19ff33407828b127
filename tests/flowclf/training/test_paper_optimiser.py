"""The optimiser of the Untapped paper: Adam with its ε, gradients clipped by norm and by value."""

import pytest
import torch

from flowclf import build, make_config
from flowclf.training.loop import clip_gradients
from flowclf.training.setup import make_optimizer


def test_the_presets_have_the_papers_optimiser() -> None:
    for system, preset in (("untapped", "paper"), ("untapped", "code"), ("m2", "code")):
        train = make_config(system, "mnist", (1, 28, 28), preset=preset).train
        assert (train.lr, train.momentum, train.beta2, train.epsilon) == (1e-2, 0.9, 0.999, 1e-4)
        assert (train.clip_norm, train.clip_value) == (5.0, 1.0)
        model = build(system, shape=(1, 28, 28), classes=10, preset=preset)
        optimizer = make_optimizer(model, train)
        assert type(optimizer) is torch.optim.AdamW
        for group in optimizer.param_groups:
            assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.9, 0.999), 1e-4, 0)


def test_numbers_are_clipped_after_the_norm() -> None:
    model = build("ce", shape=(4,), classes=2, network={"kind": "mlp", "hidden": [8]})
    first, *others = [p for p in model.parameters() if p.requires_grad]
    for parameter in others:
        parameter.grad = torch.zeros_like(parameter)
    first.grad = torch.zeros_like(first)
    first.grad.view(-1)[:2] = torch.tensor([30.0, -0.4])
    norm = clip_gradients(model, 5.0, 1.0)
    assert float(norm) == pytest.approx((30**2 + 0.4**2) ** 0.5)
    clipped = first.grad.view(-1)[:2].tolist()
    assert clipped == pytest.approx([1.0, -0.4 * 5 / float(norm)], rel=1e-4)
    assert float(clip_gradients(model, 5.0)) < 5
