"""IB-INN's loss, by hand and through a model, where it must be class-NLL at β̃ = 1/d."""

from __future__ import annotations

from math import inf, log
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from couplings.testing import randomize
from flowclf import build
from flowclf.classifier import GenerativeClassifier
from flowclf.objectives import class_nll_loss, cross_entropy, ib_weights, trade_off
from flowclf.support.errors import UserError

LOG_PROB = torch.tensor([-10.0, -30.0], dtype=torch.float64)
LOG_POSTERIOR = torch.tensor([[0.25, 0.75], [0.5, 0.5]], dtype=torch.float64).log()
LABELS = torch.tensor([0, 1])


@pytest.mark.parametrize("beta", [0.0, 0.25, 1.0, 50.0])
def test_the_loss_is_equation_14(beta: float) -> None:
    decision_nats = cross_entropy(LOG_POSTERIOR, LABELS)
    terms = trade_off(-LOG_PROB.mean() / 5, decision_nats, beta)
    rate = (10 + 30) / 2 / 5
    decision = (log(4) + log(2)) / 2
    total = 2 / (1 + beta) * (rate + beta * decision)
    assert {name: round(float(value), 12) for name, value in terms.items()} == {
        "rate_per_dim": rate,
        "decision": round(decision, 12),
        "total": round(total, 12),
    }


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
    if settings.get("mixture", {}).get("weights") == "empirical":
        model.mixture.set_weights(torch.tensor([1, 5, 2]))
    return model


def draw(model: GenerativeClassifier, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    x = torch.randn(12, *model.shape, generator=generator, dtype=torch.float64)
    return x * 40 + 120 if len(model.shape) == 3 else x, torch.arange(12) % 3


def gradients(loss: Tensor, model: GenerativeClassifier) -> list[Tensor]:
    parameters = [p for p in model.parameters() if p.requires_grad and p.numel()]
    return list(torch.autograd.grad(loss, parameters))


@pytest.mark.parametrize("weights", ["uniform", "empirical"])
@pytest.mark.parametrize("covariance", ["unit", "per-class"])
@pytest.mark.parametrize("kind", MODELS)
def test_at_beta_one_over_d_the_loss_is_class_nll_plus_a_constant(
    kind: str, covariance: str, weights: str, generator: torch.Generator
) -> None:
    """L_X - L_Y = class-NLL + mean log 1/w_y; Eq. 14 divides it by d and weighs with 2/(1+β̃)."""
    dims = torch.Size(MODELS[kind]["shape"]).numel()
    mixture = {"covariance": covariance, "weights": weights}
    model = make_model(kind, beta=1 / dims, mixture=mixture)
    x, y = draw(model, generator)
    scaled = model.loss(x, y)["total"] * dims * (1 + 1 / dims) / 2
    encoding = model.encode(x)
    assert encoding.log_det is not None
    given_class = model.mixture.log_prob_given_class(encoding.z) + encoding.log_det[:, None]
    class_nll = class_nll_loss(given_class, model.log_prob(x), y)
    prior = -model.mixture.log_weights[y].mean()
    assert_close(scaled - class_nll, prior, rtol=0, atol=1e-10)
    got, expected = gradients(scaled, model), gradients(class_nll, model)
    largest = max(float(g.abs().max()) for g in expected)
    assert_close(got, expected, rtol=0, atol=1e-10 * max(1.0, largest))


def test_label_smoothing_breaks_that_identity(generator: torch.Generator) -> None:
    hard, soft = (
        make_model("mlp", objective={"beta": 1 / 3, "label_smoothing": a}) for a in (0.0, 0.05)
    )
    x, y = draw(hard, generator)
    pairs = zip(
        gradients(hard.loss(x, y)["total"], hard),
        gradients(soft.loss(x, y)["total"], soft),
        strict=True,
    )
    assert max(float((a - b).abs().max()) for a, b in pairs) > 1e-3


def test_learned_weights_learn_from_the_rate_alone(generator: torch.Generator) -> None:
    model = make_model("mlp", beta=4.0, mixture={"weights": "learned"})
    x, y = draw(model, generator)
    logits = model.mixture.weight_logits
    terms = model.loss(x, y)
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


def test_accuracy_is_reported_beside_the_terms(generator: torch.Generator) -> None:
    model = make_model("mlp")
    x, y = draw(model, generator)
    expected = (model.predict(x) == y).double().mean()
    assert float(model.loss(x, y)["accuracy"]) == pytest.approx(float(expected))
