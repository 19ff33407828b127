"""Generic checks of every system, and VIB's own objective."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from small_systems import check_gradients, is_flow
from torch import Generator, Tensor, nn
from torch.distributions import Independent, Normal, kl_divergence
from torch.testing import assert_close

from couplings.networks import mlp_network
from couplings.testing import randomize
from flowclf import build
from flowclf.classifier import GenerativeClassifier
from flowclf.config import preset_names
from flowclf.models import load_weights, save_weights, systems_with
from flowclf.nn.encoders import log_softplus
from flowclf.objectives import cross_entropy, gaussian_kl, trade_off
from flowclf.support.errors import NoExactDensity, UserError
from flowclf.systems import SYSTEMS
from flowclf.systems.assemble import FeedForwardSettings
from flowclf.systems.vib import alemi_beta

K, B, LEVELS = 3, 12, 17
DATA: dict[str, dict[str, Any]] = {
    "image": {"shape": (1, 8, 8), "levels": LEVELS},
    "table": {"shape": (5,)},
}
FLOWS = [system for system in SYSTEMS if is_flow(system)]
FEED_FORWARD = [system for system in SYSTEMS if not is_flow(system)]
SEMI_SUPERVISED = systems_with("accepts_unlabelled")
# What the published systems can; any other system is told by its models alone.
PUBLISHED = {
    "has_density": "ib-inn class-nll",
    "has_elbo": "ib-inn class-nll vae bvae vae-as m2 untapped",
    "can_sample": "ib-inn class-nll vae bvae vae-as m2 untapped",
    "can_decode": "ib-inn class-nll i-revnet vae bvae vae-as m2 untapped",
    "accepts_unlabelled": "ib-inn class-nll vib vae bvae vae-as m2 untapped",
    "posterior_is_mixture": "ib-inn class-nll i-revnet vib resnet ce gm vc",
}

every_system = pytest.mark.parametrize("system", SYSTEMS)
every_data = pytest.mark.parametrize("data", DATA)
every_case = pytest.mark.parametrize(("system", "data"), list(product(SYSTEMS, DATA)))


def make_model(system: str, data: str, seed: int = 0, **settings: Any) -> GenerativeClassifier:
    return build(system, classes=K, seed=seed, samples=B, **DATA[data], **settings)


def draw(data: str) -> tuple[Tensor, Tensor]:
    generator, y = torch.Generator().manual_seed(1), torch.arange(B) % K
    if data == "table":
        return torch.randn(B, 5, generator=generator), y
    return torch.randint(LEVELS, (B, 1, 8, 8), generator=generator, dtype=torch.uint8), y


def fitted(system: str, data: str, **options: Any) -> GenerativeClassifier:
    model = make_model(system, data, **options)
    model.fit_statistics(*draw(data))
    return model


def randomized(model: GenerativeClassifier) -> GenerativeClassifier:
    """Randomize weights, so that no map is the identity that it starts as."""
    randomize(model, torch.Generator().manual_seed(4), 0.05)
    return model.eval()


def loss(model: GenerativeClassifier, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    return model.loss(x, y, torch.Generator().manual_seed(2), torch.arange(len(x)))


def trained(model: GenerativeClassifier) -> list[nn.Parameter]:
    """Return the parameters that an optimizer gets."""
    return [p for p in model.parameters() if p.requires_grad and p.numel()]


@pytest.mark.parametrize("capability", PUBLISHED)
def test_what_the_published_systems_can(capability: str) -> None:
    published = set(" ".join(PUBLISHED.values()).split())
    assert set(systems_with(capability)) & published == set(PUBLISHED[capability].split())


@every_case
def test_weights_come_from_the_seed_alone(system: str, data: str) -> None:
    before = torch.get_rng_state()
    first, again, other = (make_model(system, data, seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert any(not torch.equal(value, other[name]) for name, value in first.items())


@every_case
def test_every_trained_parameter_gets_a_finite_gradient(system: str, data: str) -> None:
    model = fitted(system, data)
    terms = loss(model, *draw(data))
    assert {"total", "accuracy"} < terms.keys()
    assert all(value.dim() == 0 and bool(value.isfinite()) for value in terms.values())
    assert 0 <= float(terms["accuracy"]) <= 1
    check_gradients(model, terms["total"])


@every_case
def test_a_few_steps_lower_the_loss(system: str, data: str) -> None:
    model, (x, y) = fitted(system, data).eval(), draw(data)
    optimizer = torch.optim.Adam(trained(model), lr=1e-3)
    first = float(loss(model, x, y)["total"].detach())
    for _ in range(5):
        optimizer.zero_grad()
        loss(model, x, y)["total"].backward()
        optimizer.step()
    assert float(loss(model, x, y)["total"].detach()) < first


@every_case
@torch.no_grad()
def test_weights_survive_a_file(system: str, data: str, tmp_path: Path) -> None:
    model, (x, _) = randomized(fitted(system, data)), draw(data)
    save_weights(model, tmp_path / "model.safetensors")
    again = make_model(system, data, seed=1).eval()
    assert not torch.equal(again.log_posterior(x), model.log_posterior(x))
    load_weights(again, tmp_path / "model.safetensors")
    assert torch.equal(again.log_posterior(x), model.log_posterior(x))
    state = again.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@every_case
@torch.no_grad()
def test_posteriors_are_normalised_and_predictions_theirs(system: str, data: str) -> None:
    model, (x, _) = randomized(fitted(system, data)), draw(data)
    log_posterior = model.log_posterior(x)
    assert_close(log_posterior.exp().sum(1), torch.ones(B))
    assert torch.equal(model.predict(x), log_posterior.argmax(1))
    assert torch.equal(model.log_posterior(x), log_posterior)


@every_case
@torch.no_grad()
def test_densities_are_exact_or_refused(system: str, data: str) -> None:
    model, (x, y) = randomized(fitted(system, data)), draw(data)
    if model.has_density:
        assert model.has_elbo
        assert model.log_prob(x, y).shape == (B,)
        log_prob = model.log_prob(x)
        assert bool(log_prob.isfinite().all())
        assert torch.equal(model.elbo(x), log_prob)
        rates = model.extra_rates(x, log_prob)
        assert all(rate.shape == (B,) for rate in rates.values())
        assert_close(model.extra_rates(x), rates)
        return
    assert model.extra_rates(x) == {}
    if model.has_elbo:
        assert bool(model.elbo(x).isfinite().all())
    for arguments in ((x,), (x, y)):
        with pytest.raises(NoExactDensity, match=r"no exact log_prob.*elbo\(x\) is a lower bound"):
            model.log_prob(*arguments)


@every_case
def test_samples_have_the_shape_of_the_data_or_are_refused(system: str, data: str) -> None:
    model, y = randomized(fitted(system, data)), torch.tensor([2, 0])
    if model.can_sample:
        x = model.sample(y, generator=torch.Generator().manual_seed(0))
        assert x.shape == (2, *model.shape)
        assert bool(x.isfinite().all())
    else:
        message = "can generate, got .*; train one of: ib-inn, class-nll, v"
        with pytest.raises(UserError, match=message):
            model.sample(y)


@every_case
@torch.no_grad()
def test_what_has_an_inverse_or_a_decoder_decodes(system: str, data: str) -> None:
    model, (x, _) = randomized(fitted(system, data)), draw(data)
    z = model.encode(x).z
    if not model.can_decode:
        message = "can decode, got .*; train one of: ib-inn, class-nll, i-"
        with pytest.raises(UserError, match=message):
            model.decode(z)
    elif model.encoder_kind == "invertible":
        middle = x.float() + (0.5 if data == "image" else 0.0)
        assert_close(model.decode(z), middle, rtol=0, atol=1e-3)
    else:
        assert model.decode(z).shape == x.shape


def unlabelled(data: str, given: int) -> tuple[Tensor, Tensor]:
    """Only the first few have their labels."""
    x, y = draw(data)
    return x, torch.where(torch.arange(B) < given, y, -1)


@every_data
@pytest.mark.parametrize("system", SEMI_SUPERVISED)
def test_samples_without_a_label_are_learned_from(system: str, data: str) -> None:
    model = make_model(system, data)
    assert model.accepts_unlabelled
    model.fit_statistics(*unlabelled(data, 3))
    x, y = unlabelled(data, 0)
    terms = loss(model, x, y)
    assert float(terms["accuracy"]) == 0
    check_gradients(model, terms["total"])
    gradients = [p.grad for p in model.encoder.parameters() if p.requires_grad]
    assert any(bool(gradient.any()) for gradient in gradients if gradient is not None)


@pytest.mark.parametrize("system", SEMI_SUPERVISED)
def test_decisions_and_accuracy_count_the_labelled_alone(system: str) -> None:
    model, (x, y) = fitted(system, "table").eval(), unlabelled("table", 5)
    some, labelled = loss(model, x, y), loss(model, x[:5], y[:5])
    assert_close(some["accuracy"], labelled["accuracy"])
    if "decision" in labelled:
        assert_close(some["decision"], labelled["decision"])
    assert float((some["total"] - labelled["total"]).detach().abs()) > 1e-4


def as_guess(y: Tensor) -> Tensor:
    """Return log-probabilities (B, K) that are sure of labels (B,)."""
    return torch.eye(K)[y].log().clamp_min(-50)


@pytest.mark.parametrize("system", SEMI_SUPERVISED)
def test_guesses_of_the_true_label_cost_what_the_label_does(system: str) -> None:
    """The term is the cross-entropy as the objective weighs it, unsmoothed, times the setting."""
    options = {"pseudo_labels": {"cross_entropy": 0.5, "threshold": 0.0}, "preset": "mlp"}
    model, (x, y) = fitted(system, "table", **options).eval(), draw("table")
    without, generator = loss(model, x, torch.full_like(y, -1)), torch.Generator().manual_seed(2)
    index = torch.arange(B)
    terms = model.loss(x, torch.full_like(y, -1), generator, index, as_guess(y))
    assert_close(terms["total"], without["total"] + terms["pseudo_labels"])
    if "decision" in without:
        labelled = loss(model, x, y)["decision"]
        assert_close(terms["pseudo_labels"], 0.5 * model.term_weights[1] * labelled)
    check_gradients(model, terms["total"])


@pytest.mark.parametrize("system", FLOWS[:2])
def test_consistency_is_the_likelihood_given_the_guess(system: str) -> None:
    options = {"pseudo_labels": {"consistency": 0.5}}
    model, (x, y) = fitted(system, "table", **options).eval(), draw("table")
    mixed = torch.where(torch.arange(B) < 4, y, -1)
    generator = torch.Generator().manual_seed(2)
    terms = model.loss(x, mixed, generator, torch.arange(B), as_guess(y[4:]))
    rate, noisy = model.term_weights[0], x[4:]
    expected = -model.log_prob(noisy, y[4:]).mean() / model.dims
    assert_close(terms["consistency"], 0.5 * rate * expected)
    assert_close(terms["total"], loss(model, x, mixed)["total"] + terms["consistency"])


@every_data
@pytest.mark.parametrize("system", [name for name in SYSTEMS if name not in SEMI_SUPERVISED])
def test_others_refuse_samples_without_a_label(system: str, data: str) -> None:
    model = make_model(system, data)
    assert not model.accepts_unlabelled
    message = rf"but 9 of {B} training samples have none .*one of: ib-inn, class-nll, vib, vae"
    with pytest.raises(UserError, match=message):
        model.fit_statistics(*unlabelled(data, 3))


@every_system
def test_presets_are_for_images_and_tables_and_custom_networks_for_modules(system: str) -> None:
    with pytest.raises(UserError, match="expected a module of yours as backbone"):
        make_model(system, "table", network={"kind": "custom"})
    names, lender = preset_names(system), SYSTEMS[system].borrows
    assert {"image", "mlp"} <= set(names)
    assert names == sorted(names)
    assert lender is None or set(preset_names(lender)) <= set(names)


class Pair(nn.LayerNorm):
    """The first two features."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :2] * self.weight


@every_data
@pytest.mark.parametrize("system", FEED_FORWARD)
def test_a_network_of_the_users_is_trained_as_the_own_ones_are(system: str, data: str) -> None:
    backbone = Pair(2)
    model = fitted(system, data, backbone=backbone)
    assert isinstance(model.settings, FeedForwardSettings)
    if model.settings.latent is None:
        assert model.mixture.dims == 2
    loss(model, *draw(data))["total"].backward()
    assert backbone.weight.grad is not None
    assert bool(backbone.weight.grad.any())
    assert backbone.training


@pytest.mark.parametrize("system", ["resnet", "ce", "gm", "vc"])
def test_a_linear_layer_ends_it_where_asked_for(system: str) -> None:
    model = make_model(system, "table", backbone=Pair(2), latent=4)
    assert model.encode(draw("table")[0]).z.shape == (B, 4)


@pytest.mark.parametrize("system", FLOWS)
def test_a_flow_takes_an_invertible_one_of_its_shape(system: str) -> None:
    flow = mlp_network((5,), torch.Generator().manual_seed(7), blocks=2, hidden=(6,))
    model = fitted(system, "table", backbone=flow)
    assert model.encoder.network is flow
    before = [p.clone() for p in flow.parameters()]
    loss(model, *draw("table"))["total"].backward()
    assert any(bool(p.grad.any()) for p in flow.parameters() if p.requires_grad)
    assert all(torch.equal(p, q) for p, q in zip(before, flow.parameters(), strict=True))
    with pytest.raises(UserError, match=r"expected a couplings.Invertible of samples \(5,\).*Pair"):
        make_model(system, "table", backbone=Pair(2))
    with pytest.raises(UserError, match=r"samples \(1, 8, 8\) as backbone, got Chain of \(5,\)"):
        make_model(system, "image", backbone=flow)


def test_a_network_of_the_users_keeps_its_modes_and_type() -> None:
    frozen = nn.BatchNorm1d(5).eval()
    make_model("ce", "table", backbone=nn.Sequential(frozen, nn.Linear(5, 2)).double())
    assert not frozen.training


@pytest.mark.parametrize("system", FEED_FORWARD)
def test_features_that_are_no_rows_are_refused(system: str) -> None:
    with pytest.raises(UserError, match=r"a backbone from .* to \(B, D\), got \(2, 1, 8, 8\)"):
        make_model(system, "image", backbone=nn.Identity())


def test_the_rate_of_vib_is_the_divergence_from_a_standard_normal(generator: Generator) -> None:
    mean, log_var = torch.randn(2, B, 4, generator=generator, dtype=torch.float64)
    given = Independent(Normal(mean, (0.5 * log_var).exp()), 1)
    prior = Independent(Normal(torch.zeros_like(mean), torch.ones_like(mean)), 1)
    assert_close(gaussian_kl(mean, log_var), kl_divergence(given, prior), rtol=0, atol=1e-12)
    assert not gaussian_kl(torch.zeros(3, 4), torch.zeros(3, 4)).any()


@pytest.mark.parametrize("beta", [0.25, 1.0, 40.0])
def test_the_trade_off_is_alemis_but_for_a_factor(beta: float) -> None:
    """2/(1+β̃) (KL/d + β̃ CE) = 2β̃/(1+β̃) (CE + KL/(β̃ d)), on a VIB's parameters."""
    model = make_model("vib", "table", beta=beta, latent=4).double().eval()
    (x, y), dims = draw("table"), 5
    model.fit_statistics(x, y)
    terms, encoding = loss(model, x.double(), y), model.encode(x.double())
    assert encoding.mean is not None
    assert encoding.log_var is not None
    kl = gaussian_kl(encoding.mean, encoding.log_var).mean()
    decision = cross_entropy(model.mixture.log_posterior(encoding.z), y)
    assert_close(terms["kl_nats"], kl)
    assert_close(terms["decision"], decision)
    assert_close(terms["total"], trade_off(kl / dims, decision, beta)["total"])
    alemi = decision + alemi_beta(beta, dims) * kl
    factor, parameters = 2 * beta / (1 + beta), trained(model)
    totals = (terms["total"], factor * alemi)
    gradients = (torch.autograd.grad(total, parameters) for total in totals)
    assert_close(*gradients, rtol=1e-10, atol=1e-12)


def test_latents_of_vib_start_with_little_noise_and_learn_it() -> None:
    model, (x, y) = fitted("vib", "table"), draw("table")
    log_var = model.encode(x, torch.Generator().manual_seed(0)).log_var
    assert log_var is not None
    assert_close((0.5 * log_var.detach()).exp(), torch.full((B, 128), 0.0067), atol=1e-4, rtol=0)
    loss(model, x, y)["total"].backward()
    *_, bias = model.encoder.network.parameters()
    assert bias.grad is not None
    assert bool(bias.grad.chunk(2)[1].all())


@pytest.mark.parametrize("system", ["vib", "ce", "gm", "vc"])
def test_an_outlier_costs_much_but_not_infinitely_much(system: str) -> None:
    gaussian = {} if system == "vib" else {"encoder": "gaussian"}
    model = randomized(fitted(system, "table", **gaussian)).train()
    x, y = draw("table")
    check_gradients(model, loss(model, 1000 * x, y)["total"])


def test_the_logarithm_of_softplus() -> None:
    r = torch.linspace(-30, 30, 61, dtype=torch.float64, requires_grad=True)
    assert_close(log_softplus(r), torch.log1p(r.exp()).log(), rtol=1e-9, atol=1e-12)
    assert torch.autograd.gradcheck(log_softplus, [r])
    far = torch.tensor([-1e4], requires_grad=True)
    log_softplus(far).backward()
    assert float(log_softplus(far.detach())) == -1e4
    assert far.grad == 1
