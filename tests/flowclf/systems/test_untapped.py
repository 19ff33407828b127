"""M2 and Untapped: bounds below what they bound, and which term teaches which parameters."""

from dataclasses import replace
from itertools import product
from math import log, pi
from typing import Any

import numpy as np
import pytest
import torch
from small_systems import check_all_grouped, check_gradients, group_gradients
from torch import Generator, Tensor, nn
from torch.testing import assert_close

from couplings.testing import randomize
from flowclf import build
from flowclf.classifier import GenerativeClassifier
from flowclf.config import make_config
from flowclf.data import Split, load_dataset
from flowclf.nn.likelihoods import make_likelihood
from flowclf.nn.relaxed_label import close_corners, concrete_log_prob
from flowclf.objectives import (
    clipped_cross_entropy,
    labelled_bound,
    marginal_bound,
    mean_of,
    relaxed_bound,
    reverse_bound,
)
from flowclf.support.errors import UserError
from flowclf.systems.untapped import Untapped
from flowclf.training import train

K, SHAPE, B = 3, (1, 2, 2), 12
PIXELS = 4
TINY: dict[str, Any] = {
    "network": {"kind": "mlp", "hidden": [8], "nonlinearity": "tanh"},
    "decoder": {"kind": "mlp", "hidden": [8], "nonlinearity": "tanh"},
    "style": {"hidden": [6], "nonlinearity": "tanh"},
    "latent": 1,
}
WEIGHTS = {"labelled": 0.3, "unlabelled": 0.7, "ce": 1.1, "reverse": 0.5, "l2": 0.2}
EXACT: dict[str, Any] = {"rtol": 0, "atol": 1e-12}

every_box = pytest.mark.parametrize("box", [1.5, None], ids=["box", "line"])
every_sampling = pytest.mark.parametrize("sampling", ["detached", "straight-through", "relaxed"])


def make_model(system: str = "untapped", *, scale: float = 0.6, **settings: Any) -> Untapped:
    """Build a model of binary images, random weights in float64, in training mode."""
    options = {"shape": SHAPE, "classes": K, "levels": 2} | TINY | settings
    model = build(system, **options).double()
    randomize(model, torch.Generator().manual_seed(1), scale)
    assert isinstance(model, Untapped)
    return model.train()


def every_image() -> Tensor:
    rows = torch.tensor(list(product((0.0, 1.0), repeat=PIXELS)), dtype=torch.float64)
    return rows.view(-1, *SHAPE)


def draw(rows: int = B) -> tuple[Tensor, Tensor]:
    """Binary images; every fourth has no label."""
    generator, row = torch.Generator().manual_seed(2), torch.arange(rows)
    x = torch.randint(2, (rows, *SHAPE), generator=generator).double()
    return x, torch.where(row % 4 < 3, row % K, -1)


def loss(model: GenerativeClassifier, x: Tensor, y: Tensor, seed: int = 3) -> dict[str, Tensor]:
    return model.loss(x, y, torch.Generator().manual_seed(seed))


def groups_of(model: Untapped) -> dict[str, list[nn.Parameter]]:
    return {
        "label": list(model.encoder.network.parameters()),
        "latent": list(model.encoder.latent.parameters()),
        "decoder": list(model.decoder.parameters()),
    }


def reached(model: Untapped, term: Tensor) -> set[str]:
    return set(group_gradients(term, groups_of(model))) if term.requires_grad else set()


def exact_joint(model: Untapped, x: Tensor) -> Tensor:
    """log p(x, k), (B, K), by integrating over z."""
    side = model.encoder.box or 8.0
    z = side * (2 * (torch.arange(4000, dtype=torch.float64)[:, None] + 0.5) / 4000 - 1)
    log_z = model.encoder.prior_log_prob(z) + log(2 * side / len(z)) - log(K)
    columns = []
    for y in torch.eye(K, dtype=torch.float64):
        out = model.decoder(torch.cat((y.expand(len(z), -1), z), 1))
        given_z = [model.likelihood.log_prob(each.expand(len(z), *SHAPE), out) for each in x]
        columns.append((torch.stack(given_z) + log_z).logsumexp(1))
    return torch.stack(columns, 1)


def quadrature_bounds(model: Untapped, x: Tensor) -> Tensor:
    """Expected labelled bounds, (B, K), by Gauss-Hermite quadrature over z."""
    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.hermite_e.hermegauss(60))
    bounds = torch.zeros(len(x), K, dtype=torch.float64)
    for k, one in enumerate(torch.eye(K, dtype=torch.float64)):
        y = one.expand(len(x), -1)
        for node, weight in zip(nodes, weights / (2 * pi) ** 0.5, strict=True):
            z, log_q = model.encoder.given(x, y).at(node.view(1, 1))
            log_x = model.likelihood.log_prob(x, model.decoder(torch.cat((y, z), 1)))
            prior = model.encoder.prior_log_prob(z)
            bounds[:, k] += weight * labelled_bound(log_x, prior, log_q, K)
    return bounds


@every_box
@torch.no_grad()
def test_forward_bounds_lie_below_what_they_bound(box: float | None) -> None:
    model, x = make_model(box=box), every_image()
    joint, bounds = exact_joint(model, x), quadrature_bounds(model, x)
    assert float(joint.logsumexp((0, 1))) == pytest.approx(0, abs=1e-6)
    assert bool((bounds < joint).all())
    log_posterior = model.log_posterior(x)
    marginal = marginal_bound(bounds, log_posterior)
    assert bool((marginal < joint.logsumexp(1)).all())
    assert_close(marginal_bound(joint, joint.log_softmax(1)), joint.logsumexp(1), **EXACT)


@torch.no_grad()
def test_the_elbo_approximates_them_and_repeats_itself() -> None:
    model, x = make_model().eval(), every_image()
    bounds = quadrature_bounds(model, x)
    expected = marginal_bound(bounds, model.log_posterior(x))
    assert_close(model.elbo(x), expected, rtol=0, atol=0.15)
    assert torch.equal(model.elbo(x), model.elbo(x))
    assert_close(model.elbo(x[3:5]), model.elbo(x)[3:5], **EXACT)
    y = torch.arange(len(x)) % K
    assert_close(model.elbo(x, y), bounds.gather(1, y[:, None])[:, 0], rtol=0, atol=0.15)


@pytest.mark.parametrize("marginalise", [True, False])
@torch.no_grad()
def test_what_is_minimised_are_these_bounds(marginalise: bool) -> None:
    """Averages over many draws."""
    model, x = make_model(objective={"marginalise": marginalise}), every_image()[5:8]
    many, y = x.repeat(20_000, 1, 1, 1), torch.arange(3).repeat(20_000)
    bounds = quadrature_bounds(model, x)
    labelled = loss(model, many, y)["labelled_nats"]
    assert_close(labelled, -bounds.diagonal().mean(), rtol=0, atol=0.02)
    if marginalise:
        unlabelled = loss(model, many, -torch.ones_like(y))["unlabelled_nats"]
        expected = -marginal_bound(bounds, model.log_posterior(x)).mean()
        assert_close(unlabelled, expected, rtol=0, atol=0.02)
        assert float(-unlabelled) < float(exact_joint(model, x).logsumexp(1).mean())


@torch.no_grad()
def test_the_relaxed_bound_lies_below_the_relaxed_models_density() -> None:
    """K = 2: labels and latents on a grid."""
    model = make_model("m2", classes=2)
    side = (torch.arange(300, dtype=torch.float64) + 0.5) / 300
    first, z = torch.cartesian_prod(side, 1.5 * (2 * side - 1)).unbind(1)
    out = model.decoder(torch.stack((first, 1 - first, z), 1))
    x = every_image()[[6]]
    exact = model.likelihood.log_prob(x.expand(len(z), *SHAPE), out).exp().mean().log()
    many = x.expand(50_000, *SHAPE)
    bound = -loss(model, many, torch.full((len(many),), -1))["unlabelled_nats"]
    assert float(exact) - 3 < float(bound) < float(exact)


@every_box
@torch.no_grad()
def test_the_reverse_bound_lies_below_the_density_of_labels(box: float | None) -> None:
    """Every image is enumerated, with the pairs of the model."""
    model, x = make_model(box=box, objective={"fixed_pairs": True}), every_image()
    y, z = close_corners(K, 0.95, model.pairs), model.pairs
    expected = []
    for each_y, each_z in zip(y, z, strict=True):
        rows_y, rows_z = each_y.expand(len(x), -1), each_z.expand(len(x), -1)
        log_x = model.likelihood.log_prob(x, model.decoder(torch.cat((rows_y, rows_z), 1)))
        log_q_y = concrete_log_prob(rows_y.log(), model.encoder.logits(x), 1.0)
        log_q_z = model.encoder.given(x, rows_y).log_prob(rows_z)
        bound = reverse_bound(log_q_y, log_q_z, log_x, -PIXELS * log(2))
        expected.append((log_x.exp() * bound).sum())
        exact = (log_q_y + log_q_z).logsumexp(0) - PIXELS * log(2)
        assert float(expected[-1]) < float(exact)
    images, labels = draw(30_000)
    got = loss(model, images, torch.full_like(labels, -1))["reverse_nats"]
    assert_close(-got, torch.stack(expected).mean(), rtol=0, atol=0.05)


def test_bounds_are_equalities_where_nothing_can_be_inferred() -> None:
    """Inferred is what the prior says: of y uniform on the simplex, and an x that tells nothing."""
    generator = torch.Generator().manual_seed(3)
    log_x, log_z = torch.randn(2, 4, dtype=torch.float64, generator=generator)
    simplex = torch.distributions.Dirichlet(torch.ones(K, dtype=torch.float64))
    log_y = simplex.log_prob(torch.tensor([[0.2, 0.3, 0.5]], dtype=torch.float64))
    assert_close(relaxed_bound(log_x, log_z, log_z, log_y, K), log_x, **EXACT)
    assert_close(labelled_bound(log_x, log_z, log_z, K), log_x - log(K), **EXACT)
    uniform = torch.full_like(log_z, -PIXELS * log(2))
    assert_close(reverse_bound(log_y, log_z, uniform, -PIXELS * log(2)), log_y + log_z, **EXACT)


def test_the_discriminative_terms_by_hand() -> None:
    sample = torch.tensor([[0.5, 0.5], [1.0, 0.0], [0.2, 0.8]])
    entropies = clipped_cross_entropy(sample, torch.tensor([0, 1, -1]))
    assert_close(entropies, torch.tensor([log(2), 6 * log(10), 0.0]))
    rows, values = torch.tensor([True, False, True]), torch.tensor([1.0, float("nan"), 4.0])
    assert float(mean_of(values, rows)) == 2.5
    assert float(mean_of(values, ~rows & rows)) == 0
    one = torch.ones(1)
    assert_close(relaxed_bound(one, -one, one, one, 4), torch.full((1,), log(6) - 2))


OPTIONS: dict[str, tuple[dict[str, Any], dict[str, set[str]]]] = {
    "default": ({}, {}),
    "without z": ({"z_term": False}, {"reverse_nats": {"label", "decoder"}}),
    "fixed": ({"fixed_pairs": True}, {}),
    "ce on sample": ({"ce_on_sample": True}, {}),
    "l2 on sample": ({"l2_on_sample": True}, {"distance": set()}),
    "l2 through sample": ({"l2_on_sample": True, "sampling": "straight-through"}, {}),
    "marginal": ({"marginalise": True}, {}),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_each_term_reaches_its_parameters(case: str) -> None:
    objective, different = OPTIONS[case]
    model, (x, y) = make_model(objective=objective), draw()
    check_all_grouped(model, groups_of(model))
    terms = loss(model, x, y)
    expected = {
        "labelled_nats": {"latent", "decoder"},
        "unlabelled_nats": {"label", "latent", "decoder"},
        "decision": {"label"},
        "reverse_nats": {"label", "latent", "decoder"},
        "distance": {"latent", "decoder"},
    } | different
    assert {name: reached(model, terms[name]) for name in expected} == expected


def test_the_total_is_the_weighted_sum() -> None:
    terms = loss(make_model(objective=WEIGHTS), *draw())
    named = ["labelled_nats", "unlabelled_nats", "decision", "reverse_nats", "distance"]
    parts = [w * terms[n] for w, n in zip(WEIGHTS.values(), named, strict=True)]
    assert_close(terms["total"], torch.stack(parts).sum(), **EXACT)


def decoder_gradient(model: Untapped, term: Tensor) -> Tensor:
    parameters = list(model.decoder.parameters())
    return torch.cat(
        [g.flatten() for g in torch.autograd.grad(term, parameters, retain_graph=True)]
    )


def test_the_detached_reverse_bound_teaches_the_decoder_nothing_on_average() -> None:
    def norm(rows: int, sampling: str) -> float:
        objective = {"fixed_pairs": True, "z_term": False, "sampling": sampling}
        (x, y), model = draw(rows), make_model(objective=objective)
        term = loss(model, x, torch.full_like(y, -1), 0)["reverse_nats"]
        return float(decoder_gradient(model, term).norm())

    many = norm(200_000, "detached")
    assert many < 0.02 * norm(200_000, "straight-through")
    assert many < 0.1 * norm(20, "detached")


@every_sampling
def test_the_pathwise_gradient_of_the_entropy_is_exact(sampling: str) -> None:
    """For log p(x'|y,z) alone: straight-through equals the enumerated gradient."""
    model = make_model()
    out = model.decoder(torch.cat((torch.eye(K, dtype=torch.float64), model.pairs), 1))
    p = out.sigmoid()
    entropy = -(p * p.log() + (1 - p) * (1 - p).log()).flatten(1).sum(1).mean()
    expected = decoder_gradient(model, entropy)
    many, generator = out.repeat(60_000, 1, 1, 1, 1), torch.Generator().manual_seed(0)
    x = model.likelihood.sample(many, generator, sampling)  # type: ignore[arg-type]
    got = decoder_gradient(model, -model.likelihood.log_prob(x, many).mean())
    error = float((got - expected).norm() / expected.norm())
    assert (error < 0.03) == (sampling == "straight-through")
    if sampling == "detached":
        assert float(got.norm()) < 0.03 * float(expected.norm())


@every_sampling
def test_images_are_drawn_from_the_likelihood(sampling: str) -> None:
    generator = torch.Generator().manual_seed(0)
    out = torch.full((40_000, 1, 1, 1, 1), 0.8, requires_grad=True)
    bernoulli = make_likelihood("bernoulli", (1, 1, 1), 5)
    x = bernoulli.sample(out, generator, sampling)  # type: ignore[arg-type]
    assert x.requires_grad == (sampling != "detached")
    assert 0 <= float(x.detach().min()) <= float(x.detach().max()) <= 4
    share = (x.detach() > 2).double().mean()
    assert float(share) == pytest.approx(torch.tensor(0.8).sigmoid().item(), abs=0.01)
    normal, mean = make_likelihood("gaussian", (1,), None), torch.full((40_000, 1, 1), 0.8)
    drawn = normal.sample(mean, generator, sampling).detach()  # type: ignore[arg-type]
    assert float(drawn.mean()) == pytest.approx(0.8, abs=0.02)
    assert float(drawn.std()) == pytest.approx(1.0, abs=0.02)


def make_preset(preset: str, **options: Any) -> Untapped:
    options = {"shape": SHAPE, "classes": K, "levels": 2, "preset": preset} | options
    model = build("untapped", **options).double().train()
    assert isinstance(model, Untapped)
    return model


def test_the_released_code_gives_its_decoder_only_the_forward_bounds() -> None:
    model = make_preset("code")
    assert model.settings.objective.fixed_pairs
    terms = loss(model, *draw())
    assert not terms["distance"].requires_grad
    assert reached(model, terms["reverse_nats"]) == {"label", "decoder"}  # of zero mean: see above
    assert reached(model, terms["decision"]) == {"label"}


def test_its_cross_entropy_is_that_of_the_noisy_label() -> None:
    (x, y), code = draw(), make_preset("code")
    a, b = (loss(code, x, y, seed)["decision"] for seed in (0, 1))
    assert not torch.equal(a, b)
    noisy = code.encode(x, torch.Generator().manual_seed(0)).z[:, :K]
    assert_close(a, clipped_cross_entropy(noisy, y)[y >= 0].mean(), **EXACT)
    a, b = (loss(make_preset("paper"), x, y, seed)["decision"] for seed in (0, 1))
    assert torch.equal(a, b)


def test_fixed_pairs_are_the_same_in_every_step_and_in_the_file() -> None:
    model = make_model(objective={"fixed_pairs": True})
    assert model.pairs.shape == (K, 1)
    assert bool((model.pairs.abs() < 1.5).all())
    assert "pairs" in model.state_dict()
    assert torch.equal(make_model().pairs, model.pairs)
    assert not torch.equal(make_model(seed=1).pairs, model.pairs)


def test_m2_is_untapped_without_the_reverse_bound() -> None:
    (x, y), m2 = draw(), make_model("m2")
    ours, theirs = (loss(each, x, y) for each in (m2, make_model(objective={"reverse": 0.0})))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert float(ours["reverse_nats"]) == 0
    assert float(loss(make_model(), x, y)["reverse_nats"].detach()) != 0


@pytest.mark.parametrize("preset", ["paper", "code"])
def test_the_papers_networks(preset: str) -> None:
    """Sizes of the recipe: x to y, (x, y) to z, (y, z) to x."""
    model = make_preset(preset, shape=(1, 28, 28), classes=10)
    parts = (model.encoder.network, model.encoder.latent, model.decoder)
    layers = [[m for m in part.modules() if isinstance(m, nn.Linear)] for part in parts]
    sizes = [[layer.out_features for layer in part] for part in layers]
    assert sizes == [[50, 50, 10], [10, 10, 2, 2], [250, 500, 784]]


def test_rows_count_in_the_term_that_they_are_of() -> None:
    model, (x, y) = make_model(), draw()
    terms = loss(model, x, y)
    labelled, bare = loss(model, x, y.clamp_min(0)), loss(model, x, torch.full_like(y, -1))
    assert float(labelled["unlabelled_nats"].detach()) == 0
    again = loss(model, torch.where((y < 0).view(-1, 1, 1, 1), 1 - x, x), y)
    for name in ("labelled_nats", "decision", "distance"):
        assert float(bare[name].detach()) == 0
        assert float(terms[name].detach()) > 0
        assert_close(again[name], terms[name], **EXACT)
    assert not torch.equal(again["unlabelled_nats"], terms["unlabelled_nats"])


@pytest.mark.parametrize("marginalise", [True, False])
@pytest.mark.parametrize("labelled", [True, False])
def test_one_kind_of_rows_is_enough(labelled: bool, marginalise: bool) -> None:
    model, (x, y) = make_model(objective={"marginalise": marginalise}), draw()
    y = y.clamp_min(0) if labelled else torch.full_like(y, -1)
    check_gradients(model, loss(model, x, y)["total"])


@every_sampling
@pytest.mark.parametrize("data", ["table", "image"])
def test_tables_and_images_of_any_kind_are_learned(data: str, sampling: str) -> None:
    shape = (5,) if data == "table" else (1, 8, 8)
    model = build("untapped", shape=shape, classes=K, objective={"sampling": sampling})
    x, y = torch.randn(B, *shape, generator=torch.Generator().manual_seed(0)), torch.arange(B) % K
    if data == "image":
        x = (128 + 50 * x).clamp(0, 255).to(torch.uint8)
    model.fit_statistics(x, y)
    check_gradients(model.train(), loss(model, x, y)["total"])


@torch.no_grad()
def test_latents_are_label_and_place() -> None:
    model, (x, _) = make_model().eval(), draw()
    z = model.encode(x).z
    assert z.shape == (B, K + 1)
    assert_close(model.log_posterior(x), z[:, :K].log(), rtol=0, atol=1e-9)
    assert_close(model.densities(z).log_posterior, model.log_posterior(x), rtol=0, atol=1e-9)
    assert torch.equal(model.predict(x), z[:, :K].argmax(1))
    assert torch.equal(model.mixture.means, torch.eye(K, K + 1).double())
    strip = model.interpolate(x[:2], x[2:4], 3)
    assert strip.shape == (3, 2, *SHAPE)
    assert_close(strip[1], model.decode(z[:2].lerp(z[2:4], 0.5)), **EXACT)


@every_box
@torch.no_grad()
def test_samples_are_decoded_labels(box: float | None, generator: Generator) -> None:
    model, y = make_model(box=box).eval(), torch.tensor([2, 0])
    x = model.sample(y, 0.0, generator)
    assert_close(x, model.decode(model.mixture.means[y]), **EXACT)
    model.mixture.data_means[:, K:] = 0.7
    there = model.mixture.means[y].clone()
    there[:, K:] = 0.7
    assert_close(model.sample(y, 0.0, around="data"), model.decode(there), **EXACT)
    first, second = (model.sample(y, 1.0, generator) for _ in range(2))
    assert not torch.equal(first, second)


def test_networks_see_images_from_zero_to_one() -> None:
    x = torch.tensor([0, 4, 16], dtype=torch.uint8)[:, None, None, None].expand(3, 1, 8, 8)
    seen = []
    for settings in ({}, {"preprocess": {"per": "dim"}}):
        model = build("untapped", shape=(1, 8, 8), classes=K, levels=17, **settings)
        model.fit_statistics(x, torch.arange(3))
        seen.append(model.encoder.preprocess(x.float())[0])
    assert seen[0][:, 0, 0, 0].tolist() == [0.0, 0.25, 1.0]
    assert float(seen[1].min()) < -0.5


def test_a_missing_class_does_not_end_the_training() -> None:
    model, (x, _) = make_model().eval(), draw()
    before = model.mixture.data_means.clone()
    model.fit_latents(x, torch.arange(B) % (K - 1))
    assert torch.equal(model.mixture.data_means, before)
    model.fit_latents(x, torch.arange(B) % K)
    assert not torch.equal(model.mixture.data_means, before)


@pytest.mark.parametrize("system", ["m2", "untapped"])
def test_digits_are_learned_from_a_few_labels(system: str) -> None:
    data = load_dataset("digits")
    y = data.train.y.clone()
    y[300:] = -1
    data = replace(data, train=Split(data.train.x, y))
    config = make_config(system, "digits", data.shape, overrides=[{"train": {"epochs": 12}}])
    results = [train(config, data, device="cpu").summary["test"] for _ in range(2)]
    assert results[0] == results[1]
    assert results[0]["accuracy"] > 0.8
    assert results[0]["bits_per_dim"] is None
    assert -60 < results[0]["elbo_nats"] < -15


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mixture": {"start": "normal"}}, "expected no mixture settings"),
        ({"noise": {"uniform": 1.0}}, "expected noise.uniform=0 for likelihood=bernoulli"),
        ({"likelihood": "logistic"}, "likelihood: input should be 'bernoulli' or 'gaussian'"),
        ({"temperature": 0}, "temperature: input should be greater than 0"),
        ({"objective": {"corner": 1.0}}, "objective.corner: input should be less than 1"),
        ({"objective": {"beta": 1.0}}, "unknown setting 'objective.beta'"),
        (
            {"shape": (4,), "likelihood": "bernoulli"},
            "likelihood=bernoulli: expected images, got a table",
        ),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build("untapped", **{"shape": SHAPE, "classes": K, **settings})
