"""Muon against its definition, and which weights it takes."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import flowclf
from flowclf.settings import TrainSettings
from flowclf.training.muon import Muon, normalised_weights, orthogonalised
from flowclf.training.setup import make_optimizer


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (8, 8)])
def test_orthogonalised_has_the_singular_vectors_and_values_near_one(
    shape: tuple[int, int], generator: torch.Generator
) -> None:
    matrix = torch.randn(shape, generator=generator, dtype=torch.float64)
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    # The quintic, one singular value at a time.
    for _ in range(3):
        s = s / s.norm() if _ == 0 else s
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    assert_close(orthogonalised(matrix), u @ s.diag() @ vh, rtol=1e-5, atol=1e-5)
    well = u @ torch.linspace(0.5, 1, min(shape), dtype=torch.float64).diag() @ vh
    values = torch.linalg.svdvals(orthogonalised(well))
    assert bool(((values > 0.6) & (values < 1.3)).all())


def test_a_step_turns_the_weight_by_lr_whatever_the_gradient(generator: torch.Generator) -> None:
    weight = nn.Parameter(torch.randn(8, 3, 3, 3, generator=generator))
    bias = nn.Parameter(torch.zeros(8))
    other = bias.clone().detach().requires_grad_()
    groups = [
        {"params": [bias], "lr": 0.1, "betas": (0.9, 0.99), "weight_decay": 0.0},
        {"params": [weight], "lr": 0.2, "betas": (0.6, 0.99), "orthogonal": True},
    ]
    optimizer, adamw = Muon(groups), torch.optim.AdamW([other], 0.1, (0.9, 0.99), weight_decay=0)
    average = torch.zeros_like(weight)
    expected = weight.detach().clone()
    for scale in (1.0, 1000.0, 1e-3):
        gradient = scale * torch.randn(weight.shape, generator=generator)
        weight.grad, bias.grad = gradient.clone(), gradient[:, 0, 0, 0].contiguous()
        other.grad = bias.grad.clone()
        optimizer.step()
        adamw.step()
        average = 0.6 * average + gradient
        expected *= 8**0.5 / expected.norm()
        expected -= 0.2 * orthogonalised((gradient + 0.6 * average).flatten(1)).view_as(weight)
        assert_close(weight.detach(), expected)
        assert_close(bias, other)
    # A parameter without a gradient stays.
    before = weight.detach().clone()
    weight.grad = bias.grad = None
    optimizer.step()
    assert torch.equal(weight, before)


def test_muon_takes_the_weights_before_a_batch_norm(generator: torch.Generator) -> None:
    conv, last = nn.Conv2d(3, 4, 3, bias=False), nn.Conv2d(4, 2, 1)
    pooled, linear = nn.Conv2d(4, 4, 3, bias=False), nn.Linear(2, 2)
    network = nn.Sequential(
        nn.Sequential(conv, nn.BatchNorm2d(4), nn.ReLU()),
        nn.Sequential(pooled, nn.MaxPool2d(2), nn.BatchNorm2d(4), nn.GELU(), last),
        nn.Sequential(linear, nn.BatchNorm1d(2)),
    )
    assert [id(w) for w in normalised_weights(network)] == [
        id(layer.weight) for layer in (conv, pooled, linear)
    ]


def test_every_parameter_is_in_one_group_and_the_rates_are_as_set() -> None:
    model = flowclf.build("ib-inn", shape=(1, 8, 8), classes=3)
    settings = TrainSettings(optimizer="muon", lr=2e-3, muon_lr_factor=10, means_lr_factor=3)
    optimizer = make_optimizer(model, settings)
    assert isinstance(optimizer, Muon)
    grouped = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    (turned,) = [group for group in optimizer.param_groups if group.get("orthogonal")]
    assert (turned["lr"], turned["betas"][0], turned["weight_decay"]) == (0.02, 0.6, 0.0)
    assert {id(p) for p in turned["params"]} == {id(w) for w in normalised_weights(model.encoder)}
    # Without a BatchNorm there is nothing to turn.
    plain = flowclf.build("ib-inn", shape=(5,), classes=3)
    assert type(make_optimizer(plain, settings)) is torch.optim.AdamW


def test_muon_goes_on_from_its_saved_state(generator: torch.Generator) -> None:
    def fresh() -> tuple[list[nn.Parameter], Muon]:
        parameters = [nn.Parameter(torch.ones(4, 2, 3, 3)), nn.Parameter(torch.ones(4))]
        options = {"lr": 0.1, "betas": (0.6, 0.99)}
        groups = [{"params": [parameters[0]], "orthogonal": True}, {"params": [parameters[1]]}]
        return parameters, Muon([group | options for group in groups])

    def step(parameters: list[nn.Parameter], optimizer: Muon, number: int) -> None:
        for parameter in parameters:
            draws = torch.Generator().manual_seed(number)
            parameter.grad = torch.randn(parameter.shape, generator=draws)
        optimizer.step()

    whole, optimizer = fresh()
    for number in range(4):
        if number == 2:
            halfway = [p.detach().clone() for p in whole], deepcopy(optimizer.state_dict())
        step(whole, optimizer, number)
    resumed, other = fresh()
    for parameter, value in zip(resumed, halfway[0], strict=True):
        parameter.data.copy_(value)
    groups = other.state_dict()["param_groups"]
    other.load_state_dict({"state": halfway[1]["state"], "param_groups": groups})
    for number in (2, 3):
        step(resumed, other, number)
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))
