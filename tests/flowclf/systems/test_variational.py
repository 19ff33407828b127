"""CE, GM and VC: which term teaches which parameters, and that each contains the one before."""

from typing import Any

import pytest
import torch
from small_systems import check_all_grouped, group_gradients
from torch import Generator, Tensor, nn
from torch.testing import assert_close

from couplings.testing import randomize
from flowclf import build
from flowclf.latent.vmf import VonMisesFisherMixture
from flowclf.objectives import with_margin
from flowclf.support.errors import UserError
from flowclf.systems.variational import VariationalClassifier

K, F, B = 3, 6, 8
LEARNED = {"weights": "learned", "covariance": "per-class", "start": "normal"}
GM_WEIGHTS = {"prior_logprob": 0.3}
VC_WEIGHTS = {**GM_WEIGHTS, "ratio": 0.7}
EXACT: dict[str, Any] = {"rtol": 0, "atol": 1e-12}

every_encoder = pytest.mark.parametrize("encoder", ["delta", "gaussian"])


def make_model(
    system: str = "vc",
    encoder: str = "delta",
    mixture: dict[str, Any] = LEARNED,
    objective: dict[str, Any] = VC_WEIGHTS,
    **settings: Any,
) -> VariationalClassifier:
    """Random weights in float64; eval mode, no dropout."""
    network = {"kind": "mlp", "hidden": [16, 8], "dropout": 0.0}
    settings |= {"encoder": encoder, "mixture": mixture, "objective": objective, "network": network}
    model = build(system, shape=(F,), classes=K, preset="mlp", **settings).double().eval()
    randomize(model, torch.Generator().manual_seed(1), 0.2)
    assert isinstance(model, VariationalClassifier)
    return model


def draw(generator: Generator) -> tuple[Tensor, Tensor]:
    return torch.randn(B, F, generator=generator, dtype=torch.float64), torch.arange(B) % K


def loss(model: VariationalClassifier, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    return model.loss(x, y, torch.Generator().manual_seed(2))


def groups_of(model: VariationalClassifier) -> dict[str, list[nn.Parameter]]:
    return {
        "encoder": list(model.encoder.network.parameters()),
        "means": [model.mixture.means],
        "log_var": [model.mixture.log_var] if model.mixture.log_var.numel() else [],
        "weight_logits": [model.mixture.weight_logits],
        "heads": list(model.heads.parameters()),
    }


@pytest.mark.parametrize("ratio", ["affine", "quadratic", "mlp"])
@pytest.mark.parametrize("to_weights", [True, False], ids=["weights-learn", "weights-fixed"])
@pytest.mark.parametrize("to_encoder", [True, False], ids=["prior-moves-z", "prior-stays"])
@every_encoder
def test_each_term_reaches_its_parameters(
    encoder: str, to_encoder: bool, to_weights: bool, ratio: str, generator: Generator
) -> None:
    routing = {"prior_grad_to_encoder": to_encoder, "posterior_grad_to_weights": to_weights}
    discriminator = {"kind": ratio, "hidden": 5}
    model = make_model("vc", encoder, LEARNED, VC_WEIGHTS | routing, discriminator=discriminator)
    model.train()
    terms, groups = loss(model, *draw(generator)), groups_of(model)
    check_all_grouped(model, groups)
    names = terms.keys() - {"accuracy", "total"}
    assert {name: set(group_gradients(terms[name], groups)) for name in names} == {
        "decision": {"encoder", "means", "log_var"} | ({"weight_logits"} if to_weights else set()),
        "prior_nats": {"means", "log_var"} | ({"encoder"} if to_encoder else set()),
        "class_prior": {"weight_logits"},
        "ratio": {"encoder"},
        "discriminator": {"heads"},
    }


def test_a_softmax_layer_learns_its_biases_whatever_the_routing(generator: Generator) -> None:
    affine = {"weights": "affine", "start": "linear"}
    model = make_model("ce", "delta", affine, {"posterior_grad_to_weights": False})
    (x, y), groups = draw(generator), groups_of(model)
    terms = loss(model, x, y)
    assert set(group_gradients(terms["decision"], groups)) == {"encoder", "means", "weight_logits"}
    assert_close(terms["total"], terms["decision"], **EXACT)


@pytest.mark.parametrize("to_encoder", [True, False], ids=["prior-moves-z", "prior-stays"])
@every_encoder
def test_the_total_is_the_weighted_sum_of_its_parts(
    encoder: str, to_encoder: bool, generator: Generator
) -> None:
    weights = {"ce": 0.9, "class_prior": 0.5, **VC_WEIGHTS}
    routing = {"prior_grad_to_encoder": to_encoder}
    model = make_model("vc", encoder, LEARNED, weights | routing).train()
    terms = loss(model, *draw(generator))
    factors = {
        "decision": 0.9, "prior_nats": 0.3, "ratio": 0.7, "class_prior": 0.5, "discriminator": 1.0
    }  # fmt: skip
    parts = [factor * terms[name] for name, factor in factors.items()]
    assert_close(terms["total"], torch.stack(parts).sum(), **EXACT)
    groups = groups_of(model)
    total = group_gradients(terms["total"], groups)
    by_part = [group_gradients(part, groups) for part in parts]
    assert total.keys() == groups.keys()
    for name, expected in total.items():
        given = [part[name] for part in by_part if name in part]
        assert_close([sum(same) for same in zip(*given, strict=True)], expected, **EXACT)


def test_the_terms_are_what_their_names_say(generator: Generator) -> None:
    model, (x, y) = make_model(), draw(generator)
    terms, z, rows = loss(model, x, y), model.encode(x).z, torch.arange(B)
    given_class = torch.distributions.Normal(model.mixture.means, model.mixture.std())
    own = given_class.log_prob(z[:, None]).sum(2)[rows, y]
    assert_close(terms["prior_nats"], -own.mean(), **EXACT)
    assert_close(terms["decision"], -model.log_posterior(x)[rows, y].mean(), **EXACT)
    assert_close(terms["class_prior"], -model.mixture.log_weights[y].mean(), **EXACT)
    ratio = model.heads["ratio"](z, model.mixture)
    assert_close(terms["ratio"], ratio[rows, y].mean(), **EXACT)


@every_encoder
def test_vc_is_gm_and_a_ratio_gm_is_ce_and_a_prior(encoder: str, generator: Generator) -> None:
    x, y = draw(generator)
    objectives = {"vc": GM_WEIGHTS | {"ratio": 0.0}, "gm": GM_WEIGHTS, "ce": {}}
    models = (make_model(name, encoder, LEARNED, each) for name, each in objectives.items())
    in_vc, in_gm, in_ce = (loss(model, x, y) for model in models)
    assert in_vc == in_gm
    assert "ratio" not in in_gm
    in_vc = loss(make_model("vc", encoder), x, y)
    extra = 0.7 * in_vc["ratio"] + in_vc["discriminator"]
    assert_close(in_vc["total"], in_gm["total"] + extra, **EXACT)
    assert_close(in_gm["total"], in_ce["total"] + 0.3 * in_gm["prior_nats"], **EXACT)
    assert_close(in_ce["total"], in_ce["decision"] + in_ce["class_prior"], **EXACT)


@pytest.mark.parametrize("weights", ["uniform", "learned"])
@pytest.mark.parametrize("covariance", ["unit", "shared", "per-class"])
def test_the_margin_lengthens_the_way(covariance: str, weights: str, generator: Generator) -> None:
    """log w_k - ½ log|Σ_k| - (1 + m [k = y]) d_k, normalised; d_k half the squared distance."""
    mixture = {"covariance": covariance, "weights": weights, "start": "normal"}
    model = make_model("gm", mixture=mixture, objective={"margin": 0.4})
    x, y = draw(generator)
    z, std = model.encode(x).z, model.mixture.std()
    distances = 0.5 * ((z[:, None] - model.mixture.means) / std).square().sum(2)
    given_class = model.mixture.log_prob_given_class(z)
    assert_close(model.mixture.half_mahalanobis(given_class), distances, **EXACT)
    longer = distances * (1 + 0.4 * torch.eye(K, dtype=torch.float64)[y])
    scores = model.mixture.log_weights - std.log().sum(1) - longer
    expected = scores.log_softmax(1)
    assert_close(with_margin(model.log_posterior(x), distances, y, 0.4), expected, **EXACT)
    decision = loss(model, x, y)["decision"]
    assert_close(decision, -expected[torch.arange(B), y].mean(), **EXACT)
    plain = make_model("gm", mixture=mixture, objective={"margin": 0.0})
    assert float((decision - loss(plain, x, y)["decision"]).detach()) > 0.1
    assert with_margin(scores, torch.full((B, K), float("nan")), y, 0.0) is scores


def test_latents_on_the_sphere_can_be_classified(generator: Generator) -> None:
    model = make_model("ce", mixture={"kind": "vmf"}, objective={})
    x, y = draw(generator)
    terms = loss(model, x, y)
    assert_close(model.log_posterior(x).exp().sum(1), torch.ones(B).double(), **EXACT)
    assert_close(terms["total"], terms["decision"], **EXACT)
    assert isinstance(model.mixture, VonMisesFisherMixture)
    parameters = [model.mixture.means, model.mixture.log_kappa]
    assert all(bool(each.any()) for each in torch.autograd.grad(terms["total"], parameters))


@pytest.mark.parametrize("objective", [{"ratio": 0.1}, {"margin": 0.1}], ids=["ratio", "margin"])
@pytest.mark.parametrize("system", ["ce", "gm", "vc"])
def test_the_sphere_has_neither_ratio_nor_margin(system: str, objective: dict[str, float]) -> None:
    message = "mixture.kind=gaussian for objective.ratio and objective.margin, got vmf"
    with pytest.raises(UserError, match=message):
        make_model(system, mixture={"kind": "vmf"}, objective=objective)


def widened() -> VariationalClassifier:
    """Build a model whose latents have a spread that is not small."""
    model = make_model("vc", "gaussian")
    model.encoder.shift = 0.0  # type: ignore[assignment]
    return model


@torch.no_grad()
def test_posteriors_of_a_gaussian_encoder_are_each_rows_own(generator: Generator) -> None:
    model, (x, _) = widened(), draw(generator)
    log_posterior = model.log_posterior(x)
    assert torch.equal(log_posterior, model.log_posterior(x))
    assert_close(log_posterior.exp().sum(1), torch.ones(B).double(), **EXACT)
    assert_close(model.log_posterior(x[:3]), log_posterior[:3], **EXACT)
    assert_close(model.log_posterior(x.flip(0)), log_posterior.flip(0), **EXACT)
    of_the_mean = model.mixture.log_posterior(model.encode(x).z)
    assert float((log_posterior - of_the_mean).abs().max()) > 0.01
    # They average over twelve draws of the latents, here against many of our own.
    encoding = model.encode(x)
    assert encoding.mean is not None
    assert encoding.log_var is not None
    noise = torch.randn(4000, B, model.mixture.dims, generator=generator, dtype=torch.float64)
    z = encoding.mean + (0.5 * encoding.log_var).exp() * noise
    given_z = model.mixture.log_posterior(z.flatten(0, 1)).exp().unflatten(0, (4000, B))
    error = (log_posterior.exp() - given_z.mean(0)).abs()
    assert bool((error < 5 * given_z.std(0) / 12**0.5 + 1e-3).all())


@torch.no_grad()
def test_latents_are_drawn_in_training_and_means_in_evaluation(generator: Generator) -> None:
    model, (x, _) = widened(), draw(generator)

    def latents(seed: int) -> Tensor:
        return model.encode(x, torch.Generator().manual_seed(seed)).z

    assert torch.equal(latents(0), latents(1))
    assert_close(latents(0), model.encode(x).mean, **EXACT)
    model.train()
    assert torch.equal(latents(0), latents(0))
    assert not torch.equal(latents(0), latents(1))
