"""The identities that the systems rest on, exact in float64."""

from math import log, pi
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.distributions import Independent, Normal, kl_divergence
from torch.nn.functional import nll_loss
from torch.testing import assert_close

from couplings.testing import randomize
from flowclf import build
from flowclf.classifier import GenerativeClassifier
from flowclf.latent.gaussian import GaussianMixture
from flowclf.nn.density_ratio import DensityRatio
from flowclf.objectives import variational_loss
from flowclf.support.errors import UserError

K, D, B = 4, 6, 9
EXACT: dict[str, Any] = {"rtol": 0, "atol": 1e-12}

y = torch.arange(B) % K


def normal(generator: Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def make_mixture(covariance: str, weights: str = "learned", dims: int = D) -> GaussianMixture:
    generator = torch.Generator().manual_seed(1)
    options: dict[str, Any] = {"covariance": covariance, "weights": weights, "generator": generator}
    mixture = GaussianMixture(K, dims, **options).double()
    randomize(mixture, generator, 0.7)
    if weights == "empirical":
        mixture.set_weights(torch.arange(1, mixture.classes + 1))
    return mixture


def loss_and_gradients(log_posterior: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    loss = nll_loss(log_posterior, y)
    return loss, *torch.autograd.grad(loss, inputs)


@pytest.mark.parametrize("weights", ["uniform", "empirical", "learned", "affine"])
@pytest.mark.parametrize("covariance", ["unit", "shared"])
def test_equal_covariances_make_an_affine_softmax(
    covariance: str, weights: str, generator: Generator
) -> None:
    """I1: w_y = μ_y/σ², b_y = log π_y - ½ Σ μ_y²/σ²."""
    mixture, z = make_mixture(covariance, weights), normal(generator, B, D).requires_grad_()
    precision = mixture.std().square().reciprocal()
    weight = mixture.means * precision
    bias = mixture.log_weights - 0.5 * (mixture.means.square() * precision).sum(1)
    affine = (z @ weight.T + bias).log_softmax(1)
    assert_close(mixture.log_posterior(z), affine, **EXACT)
    got = loss_and_gradients(mixture.log_posterior(z), z)
    assert_close(got, loss_and_gradients(affine, z), **EXACT)
    layer = mixture.to_linear()
    assert_close(layer(z).log_softmax(1), affine, **EXACT)
    assert_close(GaussianMixture.from_linear(layer).log_posterior(z), affine, **EXACT)


@pytest.mark.parametrize("bias", [True, False])
def test_any_softmax_layer_learns_as_a_mixture(bias: bool, generator: Generator) -> None:
    """I1b: μ_y = w_y, log π_y = b_y + ½|w_y|² up to a constant; with weights "affine"."""
    layer = nn.utils.skip_init(nn.Linear, D, K, bias=bias).double()
    for parameter in layer.parameters():
        parameter.data.normal_(generator=generator)
    z = normal(generator, B, D).requires_grad_()
    mixture = GaussianMixture.from_linear(layer)
    assert_close(mixture.log_posterior(z), layer(z).log_softmax(1), **EXACT)
    if not bias:
        return
    back = mixture.to_linear()
    assert_close(back.weight, layer.weight, **EXACT)
    assert_close(back.bias.log_softmax(0), layer.bias.log_softmax(0), **EXACT)
    prior = (layer.bias + 0.5 * layer.weight.square().sum(1)).log_softmax(0)
    assert_close(mixture.log_weights, prior, **EXACT)
    parameters = (mixture.means, mixture.weight_logits)
    got = loss_and_gradients(mixture.log_posterior(z), z, *parameters)
    expected = loss_and_gradients(layer(z).log_softmax(1), z, layer.weight, layer.bias)
    assert_close(got, expected, **EXACT)


def test_affine_scores_of_several_covariances_are_refused() -> None:
    with pytest.raises(UserError, match="one covariance for all classes"):
        make_mixture("per-class").to_linear()
    with pytest.raises(UserError, match="unit or shared for mixture.weights=affine"):
        make_mixture("per-class", "affine")


def affine_residual(z: Tensor, values: Tensor) -> float:
    """Largest error of the best affine fit to values (B, n) at z (B, D)."""
    design = torch.cat((z, torch.ones_like(z[:, :1])), dim=1)
    fit = torch.linalg.lstsq(design, values).solution
    return float((design @ fit - values).abs().max())


@torch.no_grad()
def test_covariances_per_class_are_no_affine_softmax(generator: Generator) -> None:
    """I1c: the identity must fail; log-ratios to the first class have a quadratic part."""
    z = 2 * normal(generator, 100, D)

    def residual(covariance: str) -> float:
        log_posterior = make_mixture(covariance).log_posterior(z)
        return affine_residual(z, log_posterior[:, 1:] - log_posterior[:, :1])

    assert residual("unit") < 1e-10
    assert residual("shared") < 1e-10
    assert residual("per-class") > 1


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
@torch.no_grad()
def test_the_best_latents_are_tilted_by_the_posterior(beta: float, generator: Generator) -> None:
    """I2: q ∝ p(z|y) p(y|z)^(1/β) maximises E_q log p(y|z) - β KL(q ‖ p(z|y)), on a grid."""
    mixture = make_mixture("per-class", dims=1)
    z = torch.linspace(-15, 15, 501, dtype=torch.float64)[:, None]
    own = mixture.log_posterior(z)[:, 1]
    prior = mixture.log_prob_given_class(z)[:, 1].log_softmax(0)

    def value(log_q: Tensor) -> Tensor:
        return (log_q.exp() * (own - beta * (log_q - prior))).sum(-1)

    best = (prior + own / beta).log_softmax(0)
    assert_close(value(best), beta * (prior + own / beta).logsumexp(0), **EXACT)
    sizes = torch.logspace(-4, 1, 100, dtype=torch.float64)[:, None]
    others = (best + sizes * normal(generator, 100, 501)).log_softmax(1)
    gaps, divergences = value(best) - value(others), (others.exp() * (others - best)).sum(1)
    assert bool((gaps > 0).all())
    assert_close(gaps, beta * divergences, rtol=1e-9, atol=1e-12)
    assert float(value(best) - value(prior)) > 1e-3


def flow(
    system: str, covariance: str, weights: str = "uniform", **options: Any
) -> GenerativeClassifier:
    options |= {"network": {"kind": "mlp", "blocks": 2, "hidden": [8]}}
    options |= {"mixture": {"covariance": covariance, "weights": weights}}
    model = build(system, shape=(D,), classes=K, preset="mlp", **options).double().eval()
    randomize(model, torch.Generator().manual_seed(1))
    if weights == "empirical":
        model.mixture.set_weights(torch.arange(1, K + 1))
    return model


def total_and_gradients(model: GenerativeClassifier, x: Tensor, y: Tensor) -> list[Tensor]:
    total = model.loss(x, y)["total"]
    parameters = [p for p in model.parameters() if p.requires_grad and p.numel()]
    return [total.detach(), *torch.autograd.grad(total, parameters)]


@pytest.mark.parametrize("weights", ["uniform", "empirical"])
@pytest.mark.parametrize("labels", ["all", "some"])
@pytest.mark.parametrize("covariance", ["unit", "shared", "per-class"])
def test_class_nll_is_ib_inn_at_beta_one_over_d(
    covariance: str, labels: str, weights: str, generator: Generator
) -> None:
    """I7: totals differ by the factor 1 + 1/d and by -2 mean(log w_y)/d.

    Where labels are missing the cross-entropy counts the labelled samples alone, so that β̃ must be
    their share over d.
    """
    given = y.clone()
    if labels == "some":
        given[::3] = -1
    share = float((given >= 0).double().mean())
    x, beta = normal(generator, B, D), share / D
    ib_inn = total_and_gradients(flow("ib-inn", covariance, weights, beta=beta), x, given)
    model = flow("class-nll", covariance, weights)
    total, *gradients = total_and_gradients(model, x, given)
    scaled_total, *scaled = ((1 + beta) * each for each in ib_inn)
    constant = -2 * share * model.mixture.log_weights[given[given >= 0]].mean() / D
    assert_close(scaled_total - total, constant, **EXACT)
    assert max(float(gradient.abs().max()) for gradient in scaled) > 0.1
    assert_close(scaled, gradients, rtol=1e-10, atol=1e-10)


def test_with_smoothed_labels_it_is_not(generator: Generator) -> None:
    x, objective = normal(generator, B, D), {"beta": 1 / D, "label_smoothing": 0.1}
    _, *smoothed = total_and_gradients(flow("ib-inn", "unit", objective=objective), x, y)
    _, *class_nll = total_and_gradients(flow("class-nll", "unit"), x, y)
    gaps = [(1 + 1 / D) * a - b for a, b in zip(smoothed, class_nll, strict=True)]
    assert max(float(gap.abs().max()) for gap in gaps) > 1e-3


@pytest.mark.parametrize("place", [{"distance": 0.0}, {"start": "zero"}])
@pytest.mark.parametrize("classes", [1, 7])
@pytest.mark.parametrize("covariance", ["unit", "shared", "per-class"])
def test_components_at_zero_are_the_standard_normal(
    covariance: Any, classes: int, place: dict[str, Any], generator: Generator
) -> None:
    """I9, of one component; and of several."""
    mixture = GaussianMixture(classes, D, covariance=covariance, **place).double()
    z = normal(generator, B, D)
    expected = Normal(0.0, 1.0).log_prob(z).sum(1)
    assert_close(mixture.log_prob(z), expected, **EXACT)
    assert_close(mixture.log_prob_given_class(z), expected[:, None].expand(-1, classes), **EXACT)
    if classes == 1:
        assert not mixture.log_posterior(z).any()


class Latents:
    """q(z|k) = N(m_k, diag s_k²), as the latents of class k might be."""

    def __init__(self, mixture: GaussianMixture, same_std: bool) -> None:
        generator = torch.Generator().manual_seed(2)
        std = mixture.std().detach()
        self.mean = mixture.means.detach() + normal(generator, K, D)
        self.std = std if same_std else std * (0.4 * normal(generator, K, D)).exp()

    def log_ratio(self, z: Tensor, mixture: GaussianMixture) -> Tensor:
        """log q(z|k) - log p(z|k), (B, K)."""
        log_q = Normal(self.mean, self.std).log_prob(z[:, None]).sum(2)
        return log_q - mixture.log_prob_given_class(z)


@torch.no_grad()
def best_ratio(latents: Latents, mixture: GaussianMixture, kind: Any) -> DensityRatio:
    """T of log q/p in u = (z - μ)/σ: with r = σ/s and δ = (μ - m)/s,

    T = Σ (½ (1 - r²) u² - r δ u + log r - ½ δ²).
    """
    ratio = DensityRatio(K, D, kind).double()
    r = mixture.std() / latents.std
    delta = (mixture.means - latents.mean) / latents.std
    ratio.weight[:, :D] = -r * delta
    if kind == "quadratic":
        ratio.weight[:, D:] = 0.5 * (1 - r.square())
    ratio.bias.copy_((r.log() - 0.5 * delta.square()).sum(1))
    return ratio


@pytest.mark.parametrize("same_std", [True, False], ids=["same-std", "other-std"])
@pytest.mark.parametrize("covariance", ["unit", "shared", "per-class"])
@torch.no_grad()
def test_quadratic_ratios_are_exact_and_affine_ones_with_equal_covariances(
    covariance: str, same_std: bool, generator: Generator
) -> None:
    """I11."""
    mixture, z = make_mixture(covariance), 2 * normal(generator, 100, D)
    latents = Latents(mixture, same_std)
    expected = latents.log_ratio(z, mixture)
    quadratic = best_ratio(latents, mixture, "quadratic")(z, mixture)
    assert_close(quadratic, expected, rtol=0, atol=1e-10)
    affine = best_ratio(latents, mixture, "affine")(z, mixture)
    if same_std:
        assert_close(affine, expected, rtol=0, atol=1e-10)
        assert affine_residual(z, expected) < 1e-10
    else:
        assert affine_residual(z, expected) > 1
        assert float((affine - expected).abs().max()) > 1


def test_prior_and_ratio_together_have_the_gradients_of_the_divergence() -> None:
    """With T = log q/p: λ KL(q(z|y) ‖ p(z|y)) in latents and mixture, if the first is routed so.

    Averages of z = m ± s are exact, as all is quadratic in z.
    """
    mixture, rate = make_mixture("per-class"), 0.3
    latents = Latents(mixture, same_std=False)
    ratio = best_ratio(latents, mixture, "quadratic")
    mean, std = latents.mean.requires_grad_(), latents.std.requires_grad_()
    z, labels = torch.cat((mean + std, mean - std)), torch.arange(2 * K) % K
    terms = variational_loss(
        torch.zeros((), dtype=torch.float64),
        mixture.log_prob_given_class(z.detach()),
        ratio.frozen(z, mixture),
        mixture.log_weights,
        labels,
        {"ce": 1.0, "prior_logprob": rate, "ratio": rate, "class_prior": 0.0},
    )
    p = Independent(Normal(mixture.means, mixture.std()), 1)
    divergence = kl_divergence(Independent(Normal(mean, std), 1), p).mean()
    assert_close(terms["ratio"], divergence, **EXACT)
    inputs = [mean, std, mixture.means, mixture.log_var]
    totals = (terms["total"], rate * divergence)
    assert_close(*(torch.autograd.grad(total, inputs) for total in totals), **EXACT)


@pytest.mark.parametrize(("prior", "ratio"), [(0.1, 0.2), (0.1, 0.1), (0.0, 0.3)])
def test_how_far_latents_fill_their_gaussian(prior: float, ratio: float) -> None:
    """ratio · E log q - (prior + ratio) · E log p of N(0, s²) and N(0, 1): s² = ratio/(both)."""
    std = torch.linspace(0.2, 2, 18_001, dtype=torch.float64)
    q = Normal(torch.zeros_like(std), std)
    log_p = -0.5 * (std.square() + log(2 * pi))  # on average over q
    best = (-ratio * q.entropy() - (prior + ratio) * log_p).argmin()
    assert float(std[best].square()) == pytest.approx(ratio / (prior + ratio), abs=1e-3)
