"""Scores of tiny models against what the common face says directly."""

from math import inf

import pytest
import torch
from sklearn.covariance import ledoit_wolf
from small_systems import is_flow
from torch import Tensor

from flowclf import build
from flowclf.classifier import GenerativeClassifier
from flowclf.data import Split
from flowclf.evaluation.detection import auroc
from flowclf.evaluation.discriminant import Discriminant
from flowclf.evaluation.scores import (
    SCORES,
    Reference,
    density_of_states,
    ensemble_scores,
    joint_distance,
    model_scores,
    negative_log_prob_per_dim,
    scores_of,
    surprise,
    waic,
)
from flowclf.evaluation.statistics import COSTLY, STATISTICS, anderson_darling, statistics
from flowclf.latent.vmf import VonMisesFisherMixture
from flowclf.support.errors import UserError
from flowclf.support.seeding import hashed_uniform

K, DIMS = 3, 16
SHAPE = (1, 4, 4)
NETWORK = {"kind": "conv", "blocks": [1], "width": [4], "dense_hidden": [8], "dropout": 0.5}


def images(count: int = 40, seed: int = 0) -> Split:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (count, *SHAPE), generator=generator, dtype=torch.uint8)
    return Split(x, torch.arange(count) % K)


def made(system: str = "ib-inn", seed: int = 0) -> GenerativeClassifier:
    settings = {"network": NETWORK} if is_flow(system) else {}
    model = build(system, shape=SHAPE, classes=K, seed=seed, **settings)
    model.fit_statistics(images().x, images().y)
    return model


@pytest.fixture(scope="module")
def flow() -> GenerativeClassifier:
    return made()


def close(got: Tensor, expected: Tensor, rtol: float = 1e-5) -> None:
    torch.testing.assert_close(got, expected.detach().double(), rtol=rtol, atol=1e-6)


def test_the_table_says_what_each_needs() -> None:
    assert {name: score.name for name, score in SCORES.items()} == {name: name for name in SCORES}
    assert {score.needs for score in SCORES.values()} == {
        "density", "posterior", "latents", "Gaussian encoder", "training samples",
        "one model for all β̃", "another model", "several runs",
    }  # fmt: skip
    known = {*STATISTICS, *COSTLY, "runs_nll_per_dim", "general_nll_per_dim"}
    assert all(known.issuperset(score.uses) for score in SCORES.values())
    assert all(score({}) is None for score in SCORES.values())


def test_scores_are_those_computed_directly(flow: GenerativeClassifier) -> None:
    x = images().x
    reference = Reference.fit(flow, images(seed=1).x)
    scores = model_scores(flow, x, reference)
    others = {"waic", "rate", "ratio", "across-beta", "layer-gradients", "local-dimension"}
    assert scores.keys() == SCORES.keys() - others
    assert {(s.shape, s.dtype, s.device.type) for s in scores.values()} == {
        ((len(x),), torch.float64, "cpu")
    }
    posterior = flow.eval().log_posterior(x).detach().double().exp()
    encoding, mixture = flow.encode(x), flow.mixture
    z = encoding.z
    close(scores["negative-log-prob"], -flow.log_prob(x) / DIMS)
    close(negative_log_prob_per_dim(flow, x), -flow.log_prob(x) / DIMS)
    centre = reference.statistics["nll_per_dim"].mean()
    close(scores["typicality"], (scores["negative-log-prob"] - centre).abs())
    close(scores["latent-negative-log-prob"], -mixture.log_prob(z))
    energy = -(mixture.log_prob_given_class(z) + mixture.log_weights).logsumexp(1)
    close(scores["latent-negative-log-prob"], energy)
    close(scores["latent-distance"], torch.cdist(z, mixture.means).min(1).values, rtol=1e-3)
    close(scores["entropy"], -(posterior * posterior.log()).nan_to_num().sum(1))
    close(scores["max-probability"].exp(), 1 - posterior.max(1).values)
    told = statistics(flow, x)
    close(told["stage_log_dets_per_dim"].sum(1) * DIMS + preprocessed(flow, x), encoding.log_det)
    dequantised = x + hashed_uniform(x, each=True)
    noisy = flow.encode(dequantised.to(z.dtype)).z
    residuals = mixture.residuals(noisy, mixture.log_prob_given_class(noisy).argmax(1))
    close(told["normality"], anderson_darling(residuals), rtol=1e-3)
    parts = ("density-and-complexity", "relative-distance")
    known = scores_of(reference.statistics, reference)
    close(scores["auto"], sum(surprise(known[name], scores[name]) for name in parts))
    unsure, odd = (surprise(known[n], scores[n]) for n in ("max-probability", "auto"))
    close(scores["doubt"], unsure + 0.3 * odd)


def test_auto_without_a_density_asks_the_posterior_and_both_tails_of_the_latents() -> None:
    generator = torch.Generator().manual_seed(0)
    told, known = (
        {
            "log_posterior": torch.randn(40, K, generator=generator).double().log_softmax(1),
            "relative_distance": torch.randn(40, generator=generator).double(),
            "latent_nll": torch.randn(40, generator=generator).double(),
        }
        for _ in range(2)
    )
    names = ("max-probability", "latent-typicality", "relative-distance")
    parts = (SCORES[name] for name in names)
    expected = sum(surprise(part(known, known), part(told, known)) for part in parts)  # type: ignore[arg-type]
    close(SCORES["auto"](told, known), expected)
    centre = known["latent_nll"].median()
    close(SCORES["latent-typicality"](told, known), (told["latent_nll"] - centre).abs())


def preprocessed(model: GenerativeClassifier, x: Tensor) -> Tensor:
    return model.encoder.preprocess(model.noise.to_points(x))[1]


def test_an_answer_depends_on_its_own_sample_alone(flow: GenerativeClassifier) -> None:
    x, reference = images(600).x, Reference.fit(flow, images(seed=1).x)
    together, alone = (model_scores(flow, part, reference) for part in (x, x[530:540]))
    for name, values in together.items():
        torch.testing.assert_close(values[530:540], alone[name], rtol=1e-4, atol=1e-4)


def test_a_reference_is_written_and_read(flow: GenerativeClassifier) -> None:
    reference = Reference.fit(flow, images(seed=1).x)
    again = Reference.from_tensors(reference.tensors())
    first, second = (model_scores(flow, images().x, each) for each in (reference, again))
    assert all(torch.equal(first[name], second[name]) for name in first)
    with pytest.raises(UserError, match="at least 3 training samples to fit scores to, got 2"):
        Reference.fit(flow, images(2).x)


def test_the_joint_distance_is_mahalanobis(generator: torch.Generator) -> None:
    known = torch.randn(200, 3, generator=generator).double()
    new = torch.randn(5, 3, generator=generator).double()
    precision = torch.linalg.inv(torch.cov(known.T))
    away = new - known.mean(0)
    found = joint_distance(known[:, 0], known[:, 1:], new[:, 0], new[:, 1:])
    close(found, ((away @ precision) * away).sum(1), rtol=1e-3)
    assert joint_distance(known[:, 0], torch.tensor([inf, 0.0]).double()).tolist()[0] == inf


def test_the_relative_distance_is_that_of_two_gaussians(generator: torch.Generator) -> None:
    k = torch.arange(600) % 3
    z = torch.randn(600, 4, generator=generator).double() + 2 * torch.eye(4).double()[k]
    means = torch.stack([z[k == each].mean(0) for each in range(3)])
    within = torch.from_numpy(ledoit_wolf((z - means[k]).numpy(), assume_centered=True)[0])
    between = (means - z.mean(0)).T @ (means - z.mean(0)) / 3

    def squares(away: Tensor, covariance: Tensor) -> Tensor:
        return ((away @ torch.linalg.inv(covariance)) * away).sum(-1)

    own = squares(z[:, None] - means, within).min(1).values
    expected = own - squares(z - z.mean(0), within + between)
    plane = Discriminant.fit(z, k)
    assert plane is not None
    torch.testing.assert_close(plane.relative_distance(z), expected, rtol=1e-5, atol=1e-5)


def test_surprise_is_the_log_of_a_rank_and_goes_on_beyond() -> None:
    known = torch.arange(1000, dtype=torch.float64)
    inside = surprise(known, torch.tensor([-5.0, 500.0, 900.0]).double())
    close(inside, torch.tensor([1001 / 1001, 1001 / 501, 1001 / 101]).log())
    beyond = surprise(known, torch.tensor([985.0, 1e3, 1e4, 1e6]).double())
    assert bool((beyond.diff() > 0).all())
    assert float(beyond[0]) > float(inside[-1])


def test_the_density_of_states_is_a_sum_of_kernel_densities(generator: torch.Generator) -> None:
    known, new = torch.randn(300, generator=generator).double(), torch.tensor([0.0, 2.0]).double()
    width = known.std() * 300**-0.2
    kernels = torch.distributions.Normal(known, width).log_prob(new[:, None])
    expected = -(kernels.logsumexp(1) - torch.tensor(300.0).log())
    close(density_of_states(known, known, new, new), 2 * expected)


def test_anderson_darling_is_that_of_scipy(generator: torch.Generator) -> None:
    """scipy fits mean and deviation, so rows are given that are standardised already."""
    from scipy.stats import anderson

    u = torch.randn(4, 200, generator=generator).double()
    u[3] = u[3].exp()
    u = (u - u.mean(1, keepdim=True)) / u.std(1, keepdim=True)
    expected = [anderson(row.numpy(), "norm", method="interpolate").statistic for row in u]
    close(anderson_darling(u), torch.tensor(expected), rtol=1e-6)


def test_the_distance_is_in_standard_deviations() -> None:
    model = build("gm", shape=(2,), classes=2, mixture={"covariance": "per-class"}).eval()
    model.mixture.log_var.data.normal_(generator=torch.Generator().manual_seed(0))
    x = torch.randn(9, 2, generator=torch.Generator().manual_seed(1))
    z, mixture = model.encode(x).z, model.mixture
    expected = ((z[:, None] - mixture.means) / mixture.std()).norm(dim=2).min(1).values
    close(model_scores(model, x)["latent-distance"], expected, rtol=1e-3)


def test_nothing_global_is_touched(flow: GenerativeClassifier) -> None:
    before = torch.get_rng_state()
    flow.train()
    scores = model_scores(flow, images().x)
    assert flow.training
    assert torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(values.requires_grad for values in scores.values())
    with pytest.raises(UserError, match="expected x of shape"):
        model_scores(flow, torch.zeros(2, 1, 5, 5, dtype=torch.uint8))
    assert flow.training
    assert torch.is_grad_enabled()


def test_each_system_gives_what_it_can() -> None:
    x = images().x
    always = {"latent-negative-log-prob", "latent-distance", "max-probability", "entropy"}
    for system in ("resnet", "i-revnet", "ce"):
        assert model_scores(made(system), x).keys() == always
    model = made("vib").eval()
    scores, encoding = model_scores(model, x), model.encode(x)
    assert scores.keys() == always | {"rate"}
    assert encoding.mean is not None
    assert encoding.log_var is not None
    normal = torch.distributions.Normal(encoding.mean, (0.5 * encoding.log_var).exp())
    standard = torch.distributions.Normal(0.0, 1.0)
    close(scores["rate"], torch.distributions.kl_divergence(normal, standard).sum(1), rtol=1e-4)
    model = made("vae").eval()
    scores = model_scores(model, x)
    assert scores.keys() == always | {"negative-log-prob", "complexity", "rate"}
    close(scores["negative-log-prob"], -model.elbo(x) / DIMS)


def test_directions_have_no_distance() -> None:
    model = made("ce")
    model.mixture = VonMisesFisherMixture(K, model.mixture.dims)
    scores = model_scores(model, images().x)
    assert scores.keys() == {"latent-negative-log-prob", "max-probability", "entropy"}


def test_samples_models_and_a_density_are_needed(flow: GenerativeClassifier) -> None:
    with pytest.raises(UserError, match="expected samples to score, got none"):
        model_scores(flow, images().x[:0])
    with pytest.raises(UserError, match="at least one trained model, got none"):
        ensemble_scores([], images().x)
    with pytest.raises(UserError, match="expected a system with a density or a bound of it, got"):
        negative_log_prob_per_dim(made("resnet"), images().x)


def test_waic_is_mean_and_variance_over_runs() -> None:
    models, x = [made(seed=seed) for seed in (0, 1, 2)], images().x
    rows = torch.stack([model_scores(model, x)["negative-log-prob"] for model in models])
    scores = ensemble_scores(iter(models), x)
    assert scores.keys() == {"waic"}
    close(scores["waic"], rows.mean(0) + (rows - rows.mean(0)).square().mean(0))
    close(ensemble_scores(models[:1], x)["waic"], rows[0])
    assert waic(torch.tensor([[inf, 1.0], [0.0, 3.0]])).tolist() == [inf, 3.0]


def test_sure_predictions_are_still_ranked() -> None:
    """In float32, 1 - max is zero for all of them."""
    log_posterior = torch.tensor([[0.0, -5000.0], [0.0, -900.0], [-20.0, 0.0]]).double()
    told = {"log_posterior": log_posterior}
    assert SCORES["max-probability"](told).tolist() == [-5000, -900, -20]  # type: ignore[union-attr]
    assert SCORES["entropy"](told).isfinite().all()  # type: ignore[union-attr]


def test_noise_is_found_by_a_flow_of_gaussians() -> None:
    """A toy whose answer is known: latents far out are outlying by all scores but the posterior."""
    model = build("ib-inn", shape=(8,), classes=2)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 8, generator=generator)
    model.fit_statistics(x, torch.arange(300) % 2)
    far = 5 * torch.randn(300, 8, generator=generator)
    reference = Reference.fit(model, x)
    inside, outside = (model_scores(model, part, reference) for part in (x, far))
    found = ("auto", "negative-log-prob", "typicality", "latent-negative-log-prob")
    for name in (*found, "latent-distance", "parts-of-density", "density-of-states"):
        assert auroc(inside[name], outside[name]).value > 0.95, name
