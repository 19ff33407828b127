"""Losses by hand, and IB-INN's through a model; identities of losses: systems/test_identities."""

from math import inf, log
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from couplings.testing import randomize
from flowclf import build
from flowclf.classifier import GenerativeClassifier
from flowclf.objectives import (
    class_nll_loss,
    consistency_loss,
    cross_entropy,
    ib_weights,
    pseudo_label_loss,
    trade_off,
)
from flowclf.support.errors import UserError

LOG_PROB = torch.tensor([-10.0, -30.0], dtype=torch.float64)
LOG_POSTERIOR = torch.tensor([[0.25, 0.75], [0.5, 0.5]], dtype=torch.float64).log()
LABELS = torch.tensor([0, 1])


@pytest.mark.parametrize("beta", [0.0, 0.25, 1.0, 50.0])
def test_the_loss_is_equation_14(beta: float) -> None:
    terms = trade_off(-LOG_PROB.mean() / 5, cross_entropy(LOG_POSTERIOR, LABELS), beta)
    rate, decision = (10 + 30) / 2 / 5, (log(4) + log(2)) / 2
    total = 2 / (1 + beta) * (rate + beta * decision)
    expected = {"rate_per_dim": rate, "decision": decision, "total": total}
    found = {name: float(value) for name, value in terms.items()}
    assert found == pytest.approx(expected, rel=0, abs=5e-13)


@pytest.mark.parametrize(
    ("beta", "weights"), [(0.0, (2.0, 0.0)), (1.0, (1.0, 1.0)), (3.0, (0.5, 1.5)), (inf, (0, 2))]
)
def test_weights_of_rate_and_decision(beta: float, weights: tuple[float, float]) -> None:
    assert ib_weights(beta) == weights


@pytest.mark.parametrize("beta", [-1e-9, -inf, float("nan")])
def test_a_negative_beta_is_refused(beta: float) -> None:
    with pytest.raises(UserError, match="expected beta >= 0"):
        ib_weights(beta)


def test_the_cross_entropy_smooths_labels_weighs_samples_and_leaves_others_out() -> None:
    """α is shared among all classes: targets (0.9, 0.1) and (0.1, 0.9) at α = 0.2."""
    first = -(0.9 * log(0.25) + 0.1 * log(0.75))
    assert_close(cross_entropy(LOG_POSTERIOR, LABELS, 0.2).item(), (first + log(2)) / 2)
    weighted = cross_entropy(LOG_POSTERIOR, LABELS, weights=torch.tensor([3.0, 1.0]))
    assert_close(weighted.item(), (3 * log(4) + log(2)) / 4)
    assert_close(cross_entropy(LOG_POSTERIOR, torch.tensor([0, -1])).item(), log(4))
    assert cross_entropy(LOG_POSTERIOR, torch.tensor([-1, -1])).item() == 0


def test_class_nll_takes_the_column_of_the_label() -> None:
    given_class = torch.tensor([[-1.0, -2.0, -3.0], [-10.0, -20.0, -30.0]])
    log_prob = torch.tensor([-4.0, -50.0])
    assert float(class_nll_loss(given_class, log_prob, torch.tensor([2, 0]))) == (3 + 10) / 2
    assert float(class_nll_loss(given_class, log_prob, torch.tensor([2, -1]))) == (3 + 50) / 2
    assert float(class_nll_loss(given_class, log_prob, torch.tensor([-1, -1]))) == (4 + 50) / 2


MODELS: dict[str, dict[str, Any]] = {
    "mlp": {"shape": (3,), "network": {"kind": "mlp", "blocks": 2, "hidden": [8], "dropout": 0.0}},
    "conv": {
        "shape": (1, 4, 4),
        "network": {"kind": "conv", "blocks": [1], "width": [4], "dense_hidden": [8]},
    },
}


def make_model(kind: str, **settings: Any) -> GenerativeClassifier:
    """Random weights in float64; eval mode, so that dropout and batch statistics stand still."""
    model = build("ib-inn", classes=3, **MODELS[kind], **settings).double().eval()
    randomize(model, torch.Generator().manual_seed(1))
    return model


def draw(model: GenerativeClassifier, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    x = torch.randn(12, *model.shape, generator=generator, dtype=torch.float64)
    return x * 40 + 120 if len(model.shape) == 3 else x, torch.arange(12) % 3


def test_learned_weights_learn_from_the_rate_alone_beside_the_accuracy(
    generator: torch.Generator,
) -> None:
    model = make_model("mlp", beta=4.0, mixture={"weights": "learned"})
    x, y = draw(model, generator)
    logits = model.mixture.weight_logits
    terms = model.loss(x, y)
    accuracy = (model.predict(x) == y).double().mean()
    assert float(terms["accuracy"]) == pytest.approx(float(accuracy))
    (got,) = torch.autograd.grad(terms["total"], logits, retain_graph=True)
    (expected,) = torch.autograd.grad(2 / 5 * terms["rate_per_dim"], logits)
    assert float(expected.abs().max()) > 1e-3
    assert_close(got, expected)


def test_integers_are_dequantised_and_floats_taken_as_they_are(generator: torch.Generator) -> None:
    model = make_model("conv")
    y = torch.tensor([0, 2])
    x = torch.randint(0, 256, (2, *model.shape), generator=generator, dtype=torch.uint8)

    def total(value: Tensor, seed: int) -> float:
        return model.loss(value, y, torch.Generator().manual_seed(seed))["total"].item()

    assert total(x, 0) == total(x, 0) != total(x, 1)
    assert total(x.double(), 0) == total(x.double(), 1)
    noisy = model.perturb(x, torch.Generator().manual_seed(0))
    assert total(noisy, 1) == total(x, 0)


def test_sure_guesses_alone_are_labels_and_get_no_gradient() -> None:
    guess = torch.tensor([[0.96, 0.04], [0.06, 0.94], [0.02, 0.98]]).log().requires_grad_()
    log_posterior = torch.tensor([[0.5, 0.5], [0.1, 0.9], [0.75, 0.25]]).log().requires_grad_()
    loss = pseudo_label_loss(guess, log_posterior, 0.95)
    assert_close(loss.item(), (log(2) + log(4)) / 3)
    loss.backward()
    assert guess.grad is None
    assert log_posterior.grad is not None
    assert log_posterior.grad.count_nonzero(1).tolist() == [1, 0, 1]


def test_the_consistency_loss_is_that_of_guesses_as_labels() -> None:
    guess = torch.tensor([[0.6, 0.4], [0.1, 0.9]]).log()
    given_class = torch.tensor([[-1.0, -2.0], [-3.0, -5.0]])
    assert float(consistency_loss(guess, given_class)) == (1 + 5) / 2
