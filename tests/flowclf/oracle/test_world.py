"""Worlds: draws, the exact posterior, and judgements whose values are known."""

from math import log

import pytest
import torch

import flowclf
from flowclf import UserError
from flowclf.classifier import GenerativeClassifier
from flowclf.oracle import World, calibration_error

K = 3


@pytest.fixture(scope="module")
def world() -> World:
    """A small flow with class weights that are not even."""
    network = {"kind": "mlp", "blocks": 2, "hidden": [8]}
    mixture = {"distance": 2.0, "weights": "learned"}
    model = flowclf.build("class-nll", shape=(4,), classes=K, network=network, mixture=mixture)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    model.mixture.weight_logits.data.copy_(torch.tensor([0.5, 0.3, 0.2]).log())
    return World(model)


def test_the_posterior_is_bayes_rule_of_the_densities(world: World) -> None:
    x, y = world.draw(500, seed=1)
    model = world.model.eval()
    joint = torch.stack([model.log_prob(x, torch.full_like(y, k)) for k in range(K)], 1)
    joint = joint.double() + model.mixture.log_weights
    expected = joint - joint.logsumexp(1, keepdim=True)
    torch.testing.assert_close(world.log_posterior(x), expected.detach(), rtol=1e-4, atol=1e-4)
    again, labels = world.draw(500, seed=1)
    assert torch.equal(x, again)
    assert torch.equal(y, labels)


def test_labels_are_drawn_by_that_posterior(world: World) -> None:
    """Among samples of one true probability, that share has the class: no label knows more."""
    x, y = world.draw(20_000, seed=2)
    p = world.log_posterior(x).exp()
    assert abs(float((y == 0).double().mean()) - 0.5) < 0.02
    for k in range(K):
        for low in (0.0, 0.25, 0.5, 0.75):
            chosen = (p[:, k] >= low) & (p[:, k] < low + 0.25)
            n = int(chosen.sum())
            if n > 50:
                share = float((y[chosen] == k).double().mean())
                assert abs(share - float(p[chosen, k].mean())) < 4 * (0.25 / n) ** 0.5


def test_the_truth_itself_is_without_fault(world: World) -> None:
    x, y = world.draw(5000, seed=3)
    found = world.judge(world.log_posterior(x), x, y)
    assert found.calibration_error < 1e-12
    assert found.distance < 1e-12
    assert found.epistemic == pytest.approx(0, abs=1e-9)
    assert found.cross_entropy == pytest.approx(found.aleatoric)
    assert found.accuracy == pytest.approx(found.bayes_accuracy, abs=0.02)
    assert found.ece_bias > 0  # of 15 bins, by the noise of labels alone
    assert world.bayes_error(5000, seed=3) == pytest.approx(1 - found.bayes_accuracy)


def test_a_classifier_that_says_one_thing_is_calibrated_and_knows_nothing(world: World) -> None:
    x, y = world.draw(20_000, seed=4)
    weights = world.model.mixture.log_weights.detach()
    found = world.judge(weights.expand(len(x), K), x, y)
    assert found.calibration_error < 0.03
    assert found.distance > 0.2
    assert found.epistemic > 0.3
    assert found.accuracy == pytest.approx(0.5, abs=0.02)


def test_the_calibration_error_by_hand() -> None:
    confidence = torch.linspace(0.5, 1, 10_001, dtype=torch.float64)
    assert calibration_error(confidence, confidence - 0.1) == pytest.approx(0.1)
    # Truth that scatters around the confidence is calibrated, however far off each sample is.
    scatter = 0.3 * (-1.0) ** torch.arange(10_001)
    assert calibration_error(confidence, confidence + scatter) < 0.003


def test_overconfidence_is_found(world: World) -> None:
    x, y = world.draw(5000, seed=5)
    sharper = (2 * world.log_posterior(x)).log_softmax(1)
    found = world.judge(sharper, x, y)
    assert found.calibration_error > 0.02
    assert found.epistemic > 0


def test_a_world_gives_a_data_set(world: World) -> None:
    data = world.dataset(100, 50, seed=1)
    assert (len(data.train), len(data.test), data.shape, data.classes) == (100, 50, (4,), K)
    assert not torch.equal(data.train.x[:50], data.test.x)


def test_what_has_no_truth_is_refused(world: World) -> None:
    with pytest.raises(UserError, match="expected a model with an exact density to draw from"):
        World(flowclf.build("ce", shape=(4,), classes=K))
    images: GenerativeClassifier = flowclf.build("ib-inn", shape=(1, 4, 4), classes=K)
    with pytest.raises(UserError, match="expected a world of tables"):
        World(images).dataset(10, 10)
    x, y = world.draw(5)
    with pytest.raises(UserError, match=r"expected log_posterior of shape \(5, 3\), got \(5, 2\)"):
        world.judge(torch.full((5, 2), -log(2)), x, y)
    with pytest.raises(UserError, match="expected count of at least 1"):
        world.draw(0)
