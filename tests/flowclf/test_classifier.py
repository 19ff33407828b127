"""`GenerativeClassifier` on small IB-INNs: densities that integrate to one, in data units."""

from functools import cache
from math import log, pi
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import flowclf
from couplings import Chain
from couplings.testing import assert_invertible, randomize
from flowclf import build
from flowclf.classifier import GenerativeClassifier

K = 3
IMAGES: dict[str, dict[str, Any]] = {
    "conv": {"kind": "conv", "blocks": [1, 1], "width": [4], "dense_hidden": [8]},
    "mlp": {"kind": "mlp", "blocks": 2, "hidden": [8]},
    "paper": {"kind": "paper", "variant": "mnist"},
}
EXACT = {"rtol": 0, "atol": 1e-9}


def make_model(
    shape: tuple[int, ...], network: dict[str, Any], scale: float = 0.3, **settings: Any
) -> GenerativeClassifier:
    """Random weights in float64, eval mode; the first stage is not fitted yet."""
    model = build("ib-inn", shape=shape, classes=K, seed=2, network=network, **settings)
    model = model.double().eval()
    generator = torch.Generator().manual_seed(3)
    randomize(model.encoder, generator, scale)
    randomize(model.mixture, generator, 0.3)
    return model


def draw_images(shape: tuple[int, ...], count: int = 40) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    x = torch.randint(0, 256, (count, *shape), generator=generator, dtype=torch.uint8)
    return x, torch.arange(count) % K


@cache
def image_model(kind: str) -> GenerativeClassifier:
    shape = (1, 8, 8)
    # The paper's 48 blocks shrink some directions to 1e-8 as they are: no larger weights.
    model = make_model(shape, IMAGES[kind], 0.01 if kind == "paper" else 0.3)
    model.fit_statistics(*draw_images(shape))
    return model


def draw_table(count: int = 200) -> tuple[Tensor, Tensor]:
    """Draw two columns of very different units."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(count, 2, generator=generator, dtype=torch.float64)
    return x * torch.tensor([0.02, 30.0]) + torch.tensor([5.0, -7.0]), torch.arange(count) % K


@cache
def table_model(covariance: str = "per-class", weights: str = "learned") -> GenerativeClassifier:
    mixture = {"covariance": covariance, "weights": weights, "start": "equidistant"}
    network = {"kind": "mlp", "blocks": 2, "hidden": [16], "whiten": 0.0}
    model = make_model((2,), network, mixture=mixture)
    model.fit_statistics(*draw_table())
    return model


every_kind = pytest.mark.parametrize("kind", IMAGES)


@torch.no_grad()
def grid(model: GenerativeClassifier, points: int = 700) -> tuple[Tensor, float]:
    """Points of a rectangle that holds (nearly) all samples of the model, and a cell's area."""
    y = torch.arange(30_000) % K
    samples = model.sample(y, generator=torch.Generator().manual_seed(0))
    low, high = samples.min(0).values, samples.max(0).values
    low, high = low - 0.1 * (high - low), high + 0.1 * (high - low)
    ends = zip(low.tolist(), high.tolist(), strict=True)
    axes = [torch.linspace(*each, points).double() for each in ends]
    return torch.cartesian_prod(*axes), float(((high - low) / (points - 1)).prod())


@pytest.mark.parametrize("covariance", ["unit", "per-class"])
def test_densities_integrate_to_one(covariance: str) -> None:
    model = table_model(covariance)
    x, area = grid(model)
    with torch.no_grad():
        assert float(model.log_prob(x).exp().sum() * area) == pytest.approx(1, abs=2e-3)
        for k in range(K):
            given_class = model.log_prob(x, torch.full((len(x),), k))
            assert float(given_class.exp().sum() * area) == pytest.approx(1, abs=2e-3)


def joint(model: GenerativeClassifier, x: Tensor) -> Tensor:
    """log q(x|k) + log w_k, (B, K), from `log_prob(x, y)` alone."""
    rows = [model.log_prob(x, torch.full((len(x),), k)) for k in range(K)]
    return torch.stack(rows, dim=1) + model.mixture.log_weights


@pytest.mark.parametrize("weights", ["uniform", "learned"])
@pytest.mark.parametrize("covariance", ["unit", "shared", "per-class"])
def test_marginal_and_posterior_follow_from_the_class_densities(
    covariance: str, weights: str
) -> None:
    model, (x, _) = table_model(covariance, weights), draw_table()
    assert_close(model.log_prob(x), joint(model, x).logsumexp(1), **EXACT)
    assert_close(model.log_posterior(x), joint(model, x).log_softmax(1), **EXACT)
    assert torch.equal(model.predict(x), joint(model, x).argmax(1))


def test_empirical_weights_come_from_the_labels() -> None:
    model = make_model((2,), {"kind": "mlp"}, mixture={"weights": "empirical"})
    x, y = draw_table(8)
    model.fit_statistics(x, y)
    assert_close(model.mixture.log_weights.exp(), torch.tensor([3.0, 3.0, 2.0]).double() / 8)


def test_noise_is_measured_in_the_spread_of_each_column() -> None:
    x, y = draw_table()
    model = make_model((2,), {"kind": "mlp"}, noise={"sigma": 0.1})
    model.fit_statistics(x, y)
    noise = model.perturb(x.repeat(50, 1), torch.Generator().manual_seed(0)) - x.repeat(50, 1)
    assert_close(noise.std(0), 0.1 * x.std(0), rtol=0.03, atol=0)


@pytest.mark.parametrize("units", [1000.0, torch.tensor([50.0, 1e-3])])
def test_densities_follow_the_units_of_the_data(units: float | Tensor) -> None:
    """log q(cx) = log q(x) - Σ log c, for models fitted in either unit."""
    c = torch.as_tensor(units).double().expand(2)
    (x, y), models = draw_table(), []
    for data in (x, c * x):
        models.append(make_model((2,), {"kind": "mlp", "blocks": 2}))
        models[-1].fit_statistics(data, y)
    given, scaled = models
    expected = given.log_prob(x) - c.log().sum()
    assert_close(scaled.log_prob(c * x), expected, rtol=1e-9, atol=1e-9)
    assert_close(scaled.log_prob(c * x, y), given.log_prob(x, y) - c.log().sum(), rtol=1e-9, atol=0)
    assert_close(scaled.log_posterior(c * x), given.log_posterior(x), rtol=1e-9, atol=1e-9)


@every_kind
def test_the_whole_encoder_has_an_exact_log_det(kind: str) -> None:
    model = image_model(kind)
    encoder = model.encoder
    x = draw_images(model.shape, 1)[0] + 0.3137
    assert_invertible(Chain([encoder.preprocess, encoder.network]), x.double(), tolerance=1e-9)


@every_kind
def test_latents_decode_to_the_data_and_log_dets_of_both_stages_add(kind: str) -> None:
    model = image_model(kind)
    x = draw_images(model.shape)[0].double() + 0.5
    z = model.encode(x).z
    assert z.shape == (40, 64)
    assert_close(model.decode(z), x, rtol=0, atol=1e-7)
    assert_close(model.encode(model.decode(z)).z, z, rtol=1e-8, atol=1e-8)
    u, first = model.encoder.preprocess(x)
    z, second = model.encoder.network(u)
    encoding = model.encode(x)
    assert encoding.log_det is not None
    assert torch.equal(encoding.z, z)
    assert_close(encoding.log_det, first + second)
    if kind == "conv":
        assert float(first.detach().abs().min()) > 1
        assert float(second.detach().abs().min()) > 1e-3


def test_samples_are_decoded_draws_from_their_classes() -> None:
    model, generator = image_model("conv"), torch.Generator()
    y = torch.tensor([2, 0, 0, 1])
    x = model.sample(y, 0.5, generator.manual_seed(7))
    assert x.shape == (4, *model.shape)
    assert not x.requires_grad
    z = model.mixture.sample(y, 0.5, generator.manual_seed(7))
    assert_close(model.encode(x).z, z, rtol=0, atol=1e-6)
    modes = model.sample(y, temperature=0.0)
    assert_close(model.encode(modes).z, model.mixture.means[y], rtol=0, atol=1e-6)
    assert torch.equal(model.predict(modes), y)


def test_interpolation_runs_from_one_to_the_other() -> None:
    model = image_model("conv")
    x = draw_images(model.shape)[0]
    strip = model.interpolate(x[:3], x[3:6], 5)
    assert strip.shape == (5, 3, *model.shape)
    assert_close(strip[0], x[:3].double() + 0.5, rtol=0, atol=1e-7)
    assert_close(strip[-1], x[3:6].double() + 0.5, rtol=0, atol=1e-7)
    z0, z1 = model.encode(x[:3]).z, model.encode(x[3:6]).z
    assert_close(model.encode(strip[1]).z, 0.75 * z0 + 0.25 * z1, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_an_integer_stands_for_the_middle_of_its_grey_level(dtype: torch.dtype) -> None:
    model, (x, y) = image_model("conv"), draw_images((1, 8, 8))
    middle = x.double() + 0.5
    x = x.to(dtype)
    assert torch.equal(model.encode(x).z, model.encode(middle).z)
    assert torch.equal(model.log_prob(x, y), model.log_prob(middle, y))
    assert torch.equal(model.log_posterior(x), model.log_posterior(middle))


@every_kind
def test_the_papers_rate_is_in_standardised_units_without_the_constant(kind: str) -> None:
    """L_X/d = [-log Σ w_k exp(-½‖z - μ_k‖²) - J]/d, J of the network alone."""
    model = image_model(kind)
    x = draw_images(model.shape)[0].double() + 0.5
    z, log_det = model.encoder.network(model.encoder.preprocess(x)[0])
    squares = (z[:, None] - model.mixture.means).square().sum(2)
    mixture = (model.mixture.log_weights - squares / 2).logsumexp(1)
    expected = -(mixture + log_det) / model.dims
    assert_close(model.paper_rate_per_dim(x), expected, **EXACT)
    scales = model.encoder.preprocess(x)[1] / model.dims
    derived = -model.log_prob(x) / model.dims - log(2 * pi) / 2 + scales
    assert_close(expected, derived, **EXACT)


def test_means_can_start_at_the_average_latents(generator: torch.Generator) -> None:
    x = torch.randn(40, 3, generator=generator)
    y = torch.arange(40) % 4
    settings = {"mixture": {"start": "data"}}
    model = flowclf.build("ib-inn", shape=(3,), classes=4, preset="mlp", **settings)
    model.fit_statistics(x, y)
    z = model.eval().encode(x).z
    for k in range(4):
        assert_close(model.mixture.means[k], z[y == k].mean(0))


def test_a_uniform_prior_at_test_time_leaves_training_and_density_alone(
    generator: torch.Generator,
) -> None:
    even, weighed = (
        flowclf.build(
            "ib-inn", shape=(4,), classes=3, mixture={"weights": "learned", "predict": predict}
        )
        for predict in ("uniform", "weights")
    )
    x = torch.randn(5, 4, generator=generator)
    for model in (even, weighed):
        model.mixture.weight_logits.data = torch.tensor([3.0, 0.0, 0.0])
    assert_close(even.train().densities(x).log_posterior, weighed.train().densities(x)[2])
    even, weighed = even.eval(), weighed.eval()
    assert_close(even.log_prob(x), weighed.log_prob(x))
    joint = torch.stack([even.log_prob(x, torch.full((5,), k)) for k in range(3)], 1)
    assert_close(even.log_posterior(x), joint.log_softmax(1))
    weights = torch.tensor([3.0, 0.0, 0.0]).log_softmax(0)
    assert_close(weighed.log_posterior(x), (joint + weights).log_softmax(1))


def test_a_model_is_called_like_other_networks_and_classifiers() -> None:
    model = build("ib-inn", shape=(4,), classes=3, network={"kind": "mlp", "blocks": 1}).eval()
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model(x), model.log_posterior(x))
    assert model(x).requires_grad
    probabilities = model.predict_proba(x)
    assert not probabilities.requires_grad
    torch.testing.assert_close(probabilities, model(x).exp().detach())
    assert torch.equal(model.predict(x), probabilities.argmax(1))
    each = torch.full((5,), 2)
    assert torch.equal(model.log_prob(x, 2), model.log_prob(x, each))
    first, again = (model.sample(7, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    assert first.shape == (7, 4)
    assert torch.equal(first, again)
    with pytest.raises(flowclf.UserError, match="expected y of at least 1, got 0"):
        model.sample(0)
    with pytest.raises(flowclf.UserError, match="expected integer labels 0..2, got 3"):
        model.log_prob(x, 3)
