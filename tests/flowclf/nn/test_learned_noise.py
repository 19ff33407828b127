"""Noise within grey levels whose density is learned: exact densities, bounds, and training."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import flowclf
from flowclf import build
from flowclf.classifier import GenerativeClassifier
from flowclf.data import Split
from flowclf.evaluation import evaluate
from flowclf.nn.learned_noise import LearnedNoise
from flowclf.support.errors import UserError

SHAPE, LEVELS = (1, 4, 4), 16


def made(seed: int = 0, spread: float = 0.3) -> LearnedNoise:
    generator = torch.Generator().manual_seed(seed)
    noise = LearnedNoise(SHAPE, LEVELS, 8, generator)
    for parameter in noise.parameters():
        parameter.data.add_(spread * torch.randn(parameter.shape, generator=generator))
    return noise.double()


def levels(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(LEVELS, (count, *SHAPE), generator=generator, dtype=torch.uint8)


def test_the_density_is_that_of_the_map_from_the_normal_noise() -> None:
    """log q(u|x) = log N(ε) - log|det du/dε|, by autograd's Jacobian."""
    noise, x = made(), levels(3)
    for one in x:
        generator = torch.Generator().manual_seed(2)
        u, log_q = noise(one[None], generator)
        normal = torch.empty(1, *SHAPE).double().normal_(generator=torch.Generator().manual_seed(2))
        unit = 2 * one[None].double() / (LEVELS - 1) - 1
        mean, log_scale = (3 * torch.tanh(part / 3) for part in noise.network(unit).chunk(2, 1))

        scale = log_scale.exp() * 1.702
        drawn = partial(lambda m, s, normal: (m + s * normal).sigmoid(), mean, scale)
        torch.testing.assert_close(drawn(normal), u)
        jacobian = torch.autograd.functional.jacobian(drawn, normal).reshape(16, 16)
        expected = torch.distributions.Normal(0, 1).log_prob(normal).sum()
        expected = expected - torch.linalg.slogdet(jacobian).logabsdet
        torch.testing.assert_close(log_q[0], expected)


def test_at_the_start_it_is_nearly_uniform() -> None:
    noise = LearnedNoise(SHAPE, LEVELS, 8, torch.Generator().manual_seed(0))
    with torch.no_grad():
        u, log_q = noise(levels(4000), torch.Generator().manual_seed(0))
    assert abs(float(u.mean()) - 0.5) < 0.005
    assert abs(float(u.var()) - 1 / 12) < 0.005
    assert 0 <= float(log_q.mean()) / 16 < 0.015


def test_the_density_integrates_to_one() -> None:
    """E[1/q(u|x)] over u ~ q is the volume of the unit cube, 1, here in one dimension."""
    noise = LearnedNoise((1, 1, 1), LEVELS, 8, torch.Generator().manual_seed(0)).double()
    noise.network.layers[-1].bias.data.copy_(torch.tensor([0.4, -0.3]))  # type: ignore[union-attr, operator]
    x = torch.zeros(200_000, 1, 1, 1, dtype=torch.uint8)
    u, log_q = noise(x, torch.Generator().manual_seed(0))
    density, edges = np.histogram(u.detach().flatten(), bins=50, range=(0, 1), density=True)
    own = log_q.exp().detach()[(u.flatten() > 0.4) & (u.flatten() < 0.42)].mean()
    assert float(own) == pytest.approx(density[20], rel=0.05)
    assert edges[20] == pytest.approx(0.4)


def flow(**noise: Any) -> GenerativeClassifier:
    network = {"kind": "conv", "blocks": [1], "width": [4], "dense_hidden": [8]}
    return build(
        "ib-inn", shape=SHAPE, classes=2, levels=LEVELS, network=network,
        noise={"learned": True, "width": 8} | noise,
    )  # fmt: skip


def test_the_loss_is_the_bound_and_teaches_the_noise() -> None:
    model, x = flow(), levels(20)
    y = torch.arange(20) % 2
    model.fit_statistics(x, y)
    terms = model.loss(x, y, torch.Generator().manual_seed(3))
    noisy, log_noise = model.noise.draw(x, torch.Generator().manual_seed(3))
    assert log_noise is not None
    assert torch.equal(noisy.floor(), x.float())
    z, log_det = (lambda e: (e.z, e.log_det))(model.encode(noisy))
    expected = -(model.mixture.log_prob(z) + log_det - log_noise).mean() / 16
    torch.testing.assert_close(terms["rate_per_dim"], expected)
    terms["total"].backward()
    assert model.noise.learned is not None
    assert float(model.noise.learned.network.layers[-1].weight.grad.abs().sum()) > 0  # type: ignore[union-attr, operator]


def test_its_bound_stands_beside_the_exact_number() -> None:
    model, split = flow(), Split(levels(300), torch.arange(300) % 2)
    model.fit_statistics(split.x, split.y)
    found = evaluate(model, split, ["likelihood"])
    # Nearly uniform at the start, so that the two are nearly the same.
    assert found["learned_noise_bits_per_dim"] == pytest.approx(found["bits_per_dim"], abs=0.05)
    plain = evaluate(flow(learned=False), split, ["likelihood"])
    assert "learned_noise_bits_per_dim" not in plain


def test_it_is_learned_in_a_training() -> None:
    data = (levels(200), torch.arange(200) % 2)
    trained = flowclf.train(
        "ib-inn", data, epochs=3, device="cpu", verbose=False, noise={"learned": True, "width": 8},
        network={"kind": "conv", "blocks": [1], "width": [4], "dense_hidden": [8]},
    )  # fmt: skip
    learned = trained.model.noise.learned
    assert learned is not None
    assert float(learned.network.layers[-1].weight.detach().abs().sum()) > 0  # type: ignore[union-attr, operator]


def test_only_flows_of_images_learn_it() -> None:
    with pytest.raises(UserError, match=r"images for noise.learned, got rows of \(3,\)"):
        build("ib-inn", shape=(3,), classes=2, noise={"learned": True})
    with pytest.raises(UserError, match="a flow for noise.learned, got Softmax, which has no"):
        build("resnet", shape=SHAPE, classes=2, levels=16, noise={"learned": True})
