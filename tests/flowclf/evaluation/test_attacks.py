"""Attacks: within the ball, of the right direction, and as strong as they should be."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

import flowclf
from flowclf.classifier import GenerativeClassifier
from flowclf.data import Split
from flowclf.evaluation import evaluate
from flowclf.evaluation.attacks import attack_curve, attack_loss, evading_pgd, fgsm, pgd
from flowclf.support.errors import UserError

LEVELS = 17
EPSILONS = [0.0, 0.05, 0.1, 0.2]


class Linear(torch.nn.Module):
    """Logits of pixels scaled by 1/16, times a scale."""

    def __init__(self, weight: Tensor, scale: float = 1.0) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(scale * weight)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T


def linear(weight: Tensor, scale: float = 1.0) -> GenerativeClassifier:
    """A softmax of linear logits: latents z = W x before unit means, so logits z up to a constant.

    log q(k|z) ∝ z_k with means e_k of unit covariance.
    """
    classes = len(weight)
    model = flowclf.build(
        "gm", shape=(1, 2, 2), classes=classes, levels=LEVELS,
        backbone=Linear(weight, scale), preprocess={"per": "range"},
    )  # fmt: skip
    model.mixture.set_means(torch.eye(classes))
    return model.eval()


def pixels(generator: torch.Generator, count: int = 40) -> Tensor:
    return 2 + 12 * torch.rand(count, 1, 2, 2, generator=generator)


@pytest.mark.parametrize("loss", ["ce", "margin"])
def test_fgsm_of_a_linear_softmax_is_the_closed_form(loss: Any, generator: torch.Generator) -> None:
    weight = torch.randn(3, 4, generator=generator)
    model = linear(weight)
    x, y = pixels(generator), torch.arange(40) % 3
    logits = (x.flatten(1) / 8 - 1) @ weight.T
    posterior = logits.softmax(1)
    torch.testing.assert_close(model.log_posterior(x).exp(), posterior)
    other = (logits - 1e9 * one_hot(y, 3)).argmax(1)
    pushed = posterior if loss == "ce" else one_hot(other, 3).float()
    gradient = (pushed - one_hot(y, 3)) @ weight
    expected = x + 0.1 * 16 * gradient.sign().reshape(x.shape)
    got = fgsm(model, x, y, 0.1, loss=loss, levels=LEVELS)
    torch.testing.assert_close(got, expected.clamp(0, 16))


def test_the_margin_moves_on_where_the_cross_entropy_is_flat(generator: torch.Generator) -> None:
    """The scale of the logits changes no decision, but can round q(k|x) to 0 and 1."""
    weight = torch.randn(3, 4, generator=generator)
    sane, steep = linear(weight), linear(weight, 10_000.0)
    x = pixels(generator)
    y = sane.predict(x)
    sure = (steep.log_posterior(x).exp() == one_hot(y, 3)).all(1)
    assert sure.float().mean() > 0.8
    assert torch.equal(fgsm(steep, x, y, 0.3, levels=LEVELS)[sure], x[sure])
    moved = fgsm(steep, x, y, 0.3, loss="margin", levels=LEVELS)
    assert bool((moved != x).flatten(1).any(1).all())
    torch.testing.assert_close(moved, fgsm(sane, x, y, 0.3, loss="margin", levels=LEVELS))
    rows = [
        attack_curve(steep, x, y, [0.3], "pgd", loss, levels=LEVELS)[0] for loss in ("ce", "margin")
    ]
    assert rows[1]["accuracy"] < rows[0]["accuracy"]


def test_the_margin_is_a_difference_of_logits() -> None:
    logits = torch.tensor([[1.0, 4.0, 2.0], [1.0, 4.0, 2.0]])
    margin = attack_loss(logits.log_softmax(1), torch.tensor([1, 2]), "margin")
    torch.testing.assert_close(margin, torch.tensor([-2.0, 2.0]))
    ce = attack_loss(logits.log_softmax(1), torch.tensor([1, 2]))
    torch.testing.assert_close(ce[1] - ce[0], torch.tensor(2.0))


@pytest.mark.parametrize("epsilon", EPSILONS)
def test_the_bound_and_the_range_hold_exactly(
    classifier: GenerativeClassifier, test_split: Split, epsilon: float
) -> None:
    x, y = test_split.x[:64], test_split.y[:64]
    middle = classifier.noise.level_middle
    centre, radius = x.float() + middle, epsilon * (LEVELS - 1)
    draw = torch.Generator().manual_seed(0)
    for attacked in (
        fgsm(classifier, x, y, epsilon, levels=LEVELS),
        pgd(classifier, x, y, epsilon, levels=LEVELS, steps=5, generator=draw),
    ):
        assert bool((attacked >= (centre - radius).clamp_min(middle)).all())
        assert bool((attacked <= (centre + radius).clamp_max(middle + LEVELS - 1)).all())
        assert attacked.dtype == torch.float32
        if epsilon:
            assert (attacked - centre).abs().max().item() == pytest.approx(radius)


def test_floats_are_taken_as_they_are(classifier: GenerativeClassifier, test_split: Split) -> None:
    x = test_split.x[:8].float()
    assert torch.equal(fgsm(classifier, x, test_split.y[:8], 0.0, levels=LEVELS), x)
    attacked = fgsm(classifier, x, test_split.y[:8], 0.3, levels=LEVELS)
    assert attacked.min() == 0
    assert attacked.max() == LEVELS - 1


def test_nothing_stays_behind(classifier: GenerativeClassifier, test_split: Split) -> None:
    state = {name: value.clone() for name, value in classifier.state_dict().items()}
    before = torch.get_rng_state()
    classifier.zero_grad()
    classifier.train()
    attack_curve(classifier, test_split.x[:20], test_split.y[:20], [0.1], "pgd", levels=LEVELS)
    assert {module.training for module in classifier.modules()} == {True}
    classifier.eval()
    assert all(p.grad is None for p in classifier.parameters())
    assert all(torch.equal(v, state[name]) for name, v in classifier.state_dict().items())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("loss", ["ce", "margin"])
def test_curves_fall_from_the_clean_accuracy_and_pgd_is_stronger(
    classifier: GenerativeClassifier, test_split: Split, loss: Any
) -> None:
    x, y = test_split.x, test_split.y
    weak, strong = (
        attack_curve(classifier, x, y, EPSILONS, kind, loss, levels=LEVELS, steps=10)
        for kind in ("fgsm", "pgd")
    )
    clean = evaluate(classifier, test_split)
    for rows in (weak, strong):
        assert [row["epsilon"] for row in rows] == EPSILONS
        assert rows[0]["accuracy"] == clean["accuracy"]
        assert rows[0]["ece"] == pytest.approx(clean["ece"])
        assert rows[0]["accuracy"] > 0.9
        assert {(row["log_prob_change_nats"], row["auroc"]) for row in rows} == {(None, None)}
    accuracies = [row["accuracy"] for row in strong]
    assert accuracies == sorted(accuracies, reverse=True)
    assert accuracies[-1] < 0.3
    assert all(s["accuracy"] <= w["accuracy"] for s, w in zip(strong, weak, strict=True))
    assert strong[2]["accuracy"] < weak[2]["accuracy"]


def test_the_seed_decides_the_start(classifier: GenerativeClassifier, test_split: Split) -> None:
    def attacked(seed: int) -> Tensor:
        draw = torch.Generator().manual_seed(seed)
        x, y = test_split.x[:20], test_split.y[:20]
        return pgd(classifier, x, y, 0.1, levels=LEVELS, steps=2, generator=draw)

    assert torch.equal(attacked(0), attacked(0))
    assert not torch.equal(attacked(0), attacked(1))


def test_a_density_notices(digits_flow: GenerativeClassifier, test_split: Split) -> None:
    rows = attack_curve(digits_flow, test_split.x, test_split.y, [0.0, 0.05, 0.2], levels=LEVELS)
    assert rows[0]["accuracy"] == evaluate(digits_flow, test_split)["accuracy"] > 0.9
    assert rows[0]["log_prob_change_nats"] == pytest.approx(0, abs=1e-3)
    assert rows[0]["auroc"] == pytest.approx(0.5, abs=1e-3)
    assert rows[2]["accuracy"] < rows[1]["accuracy"] < rows[0]["accuracy"]
    assert rows[2]["log_prob_change_nats"] < rows[1]["log_prob_change_nats"] < 0
    assert 0.5 < rows[1]["auroc"] < rows[2]["auroc"]
    assert rows[2]["auroc"] > 0.9


@pytest.mark.parametrize("system", ["vib", "bvae", "untapped"])
def test_systems_that_average_draws_are_attacked_too(system: str, test_split: Split) -> None:
    model = on_digits(system)
    model.fit_statistics(test_split.x, test_split.y)
    x, y = test_split.x[:30], test_split.y[:30]
    first, again = (attack_curve(model, x, y, [0.0, 0.1], "pgd", levels=LEVELS, steps=2)
                    for _ in range(2))  # fmt: skip
    assert first == again
    assert (first[1]["auroc"] is not None) == (model.has_density or model.has_elbo)


def test_mistakes_are_refused(classifier: GenerativeClassifier, test_split: Split) -> None:
    x, y = test_split.x[:4], test_split.y[:4]
    with pytest.raises(UserError, match="expected kind out of fgsm, pgd, got 'bim'"):
        attack_curve(classifier, x, y, [0.1], "bim", levels=LEVELS)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="expected loss out of ce, margin, got 'hinge'"):
        fgsm(classifier, x, y, 0.1, loss="hinge", levels=LEVELS)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="an epsilon from 0 to 1 .* and 8"):
        fgsm(classifier, x, y, 8, levels=LEVELS)
    with pytest.raises(UserError, match="at least 1 step, got 0"):
        pgd(classifier, x, y, 0.1, levels=LEVELS, steps=0)
    with pytest.raises(UserError, match="at least one sample to attack"):
        attack_curve(classifier, x[:0], y[:0], [0.1], levels=LEVELS)
    with pytest.raises(UserError, match="expected images"):
        fgsm(flowclf.build("ce", shape=(3,), classes=2), torch.zeros(1, 3), y[:1], 0.1)
    with pytest.raises(UserError, match="expected a posterior with a gradient, got"):
        fgsm(on_digits("vae", branch={"kind": "knn"}), x, y, 0.1, levels=LEVELS)


def on_digits(system: str, **settings: Any) -> GenerativeClassifier:
    shape = (1, 8, 8)
    return flowclf.build(
        system, shape=shape, classes=10, levels=LEVELS, preset="digits", **settings
    )


def test_a_probe_can_be_attacked_though_it_teaches_its_encoder_nothing(test_split: Split) -> None:
    x, y = test_split.x[:2], test_split.y[:2]
    model = on_digits("vae", branch={"kind": "network"})
    for parameter in model.heads.parameters():
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(fgsm(model, x, y, 0.1, levels=LEVELS), x.float())


class OnUnit(torch.nn.Sequential):
    """The log posterior of images scaled to [0, 1]."""

    def forward(self, x: Tensor) -> Tensor:
        return self[0].log_posterior(x * (LEVELS - 1))


def test_foolbox_agrees(classifier: GenerativeClassifier, test_split: Split) -> None:
    foolbox = pytest.importorskip("foolbox")
    x, y = test_split.x.float(), test_split.y
    wrapped = foolbox.PyTorchModel(OnUnit(classifier).eval(), bounds=(0, 1), device="cpu")
    attack = foolbox.attacks.LinfFastGradientAttack()
    theirs, _, _ = attack(wrapped, x / (LEVELS - 1), y, epsilons=0.1)
    ours = fgsm(classifier, x, y, 0.1, levels=LEVELS)
    # A gradient of about 0 has either sign.
    same = ((theirs * (LEVELS - 1) - ours).abs() < 1e-3).float().mean()
    assert same > 0.99


def test_an_evading_attack_stays_likely_or_leaves_the_sample_alone() -> None:
    """A flow of two Gaussians in the plane of two pixels: decisions turn where x crosses over."""
    generator = torch.Generator().manual_seed(0)
    network = {"kind": "mlp", "blocks": 1, "hidden": [4]}
    model = flowclf.build("ib-inn", shape=(1, 1, 2), classes=2, levels=LEVELS, network=network)
    y = torch.arange(200) % 2
    x = (4 + 8 * y[:, None, None, None] + torch.randn(200, 1, 1, 2, generator=generator)).clamp(
        0, 16
    )
    model.fit_statistics(x, y)
    model.fit_latents(x, y)
    model.mixture.set_means(model.mixture.data_means)
    model.eval()
    nll = -model.log_prob(x).detach() / 2
    limit = float(nll.quantile(0.99))

    def excess(x: Tensor) -> Tensor:
        return -model.log_prob(x) / 2 - limit

    found = evading_pgd(model, x, y, 0.5, excess, levels=LEVELS)
    assert float((found - x).abs().max()) <= 0.5 * 16 + 1e-4
    changed = (found != x).flatten(1).any(1)
    assert bool((-model.log_prob(found).detach() / 2)[changed].le(limit + 1e-5).all())
    wrong = model.predict(found) != y
    assert float(wrong.double().mean()) > 0.4
    # In a small ball the other class is out of reach, and what is between is unlikely.
    near = evading_pgd(model, x, y, 0.05, excess, levels=LEVELS)
    assert float((model.predict(near) != y).double().mean()) < 0.05
