"""The mixture on the sphere against SciPy, quadrature and closed forms."""

from math import exp, lgamma, log, pi, sinh, sqrt
from typing import Any

import pytest
import scipy.special
import torch
from torch import Generator, Tensor
from torch.nn.functional import normalize
from torch.testing import assert_close

from couplings.testing import randomize
from flowclf.latent.vmf import VonMisesFisherMixture, log_bessel_i, log_normalizer
from flowclf.support.errors import UserError

K, D, B = 4, 6, 9
ORDERS = [0, 0.5, 1, 1.5, 2, 7, 12.5, 24.5, 25, 25.5, 31, 127.5, 391, 511.5, 1024]
ARGUMENTS = torch.logspace(-3, 5, 81, dtype=torch.float64)

every_order = pytest.mark.parametrize("order", ORDERS)
every_concentration = pytest.mark.parametrize("concentration", ["shared", "per-class"])


def make_mixture(
    concentration: Any = "per-class", classes: int = K, dims: int = D, kappa: float = 3.0
) -> VonMisesFisherMixture:
    options: dict[str, Any] = {"kappa": kappa, "weights": "learned"}
    mixture = VonMisesFisherMixture(classes, dims, concentration=concentration, **options).double()
    randomize(mixture, torch.Generator().manual_seed(1), 1.0)
    return mixture


def latents(generator: Generator, batch: int = B, dims: int = D) -> Tensor:
    return 2 * torch.randn(batch, dims, generator=generator, dtype=torch.float64)


@every_order
def test_bessel_functions_are_those_of_scipy(order: float) -> None:
    scaled = torch.from_numpy(scipy.special.ive(order, ARGUMENTS.numpy()))
    known = scaled > 1e-290
    assert known.sum() > 10
    x = ARGUMENTS[known]
    error = log_bessel_i(order, x) - x - scaled[known].log()
    # The second term is two roundings of the logarithm, which reaches 1e5.
    assert (error.abs() < 1e-12 + 4.5e-16 * x).all()


@every_order
def test_bessel_functions_of_little_are_their_power_series(order: float) -> None:
    """Test where SciPy's underflow: I_v(x) = (x/2)^v / Γ(v+1) · (1 + (x²/4)/(v+1) + ...)."""
    x = ARGUMENTS[ARGUMENTS < 0.03]
    first = x.square() / 4 / (order + 1)
    second = first * x.square() / 8 / (order + 2)
    expected = order * (x / 2).log() - lgamma(order + 1) + (first + second).log1p()
    assert_close(log_bessel_i(order, x), expected, rtol=1e-15, atol=1e-11)


@every_order
def test_derivatives_are_ratios_of_scipys(order: float) -> None:
    """I_v' / I_v = I_{v+1}/I_v + v/x."""
    x = ARGUMENTS[ARGUMENTS > 1].requires_grad_()
    ours = torch.autograd.grad(log_bessel_i(order, x).sum(), x)[0]
    x = x.detach()
    lower, upper = (torch.from_numpy(scipy.special.ive(order + i, x.numpy())) for i in (0, 1))
    known = upper > 1e-290
    expected = upper[known] / lower[known] + order / x[known]
    assert_close(ours[known], expected, rtol=1e-11, atol=0)


@pytest.mark.parametrize("order", [0, 0.5, 10, 40.5])
def test_derivatives_are_finite_differences(order: float) -> None:
    x = torch.tensor([0.3, 2.0, 30.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: log_bessel_i(order, x), x)
    assert torch.autograd.gradgradcheck(lambda x: log_bessel_i(order, x), x)


def test_normaliser_in_three_dimensions() -> None:
    """C_3(κ) = κ / (4π sinh κ)."""
    log_sinh = ARGUMENTS + torch.log(-torch.expm1(-2 * ARGUMENTS) / 2)
    expected = ARGUMENTS.log() - log(4 * pi) - log_sinh
    assert_close(log_normalizer(3, ARGUMENTS), expected, rtol=1e-15, atol=1e-11)


@pytest.mark.parametrize("dims", [2, 3, 10, 784, 3072])
def test_no_concentration_is_uniform(dims: int) -> None:
    """The sphere's surface is 2 π^(D/2) / Γ(D/2)."""
    got = log_normalizer(dims, torch.tensor(1e-8, dtype=torch.float64))
    expected = lgamma(dims / 2) - log(2) - dims / 2 * log(pi)
    assert_close(got.item(), expected, rtol=1e-14, atol=1e-11)


def circle(points: int) -> tuple[Tensor, Tensor]:
    """Return directions and their shares of the length."""
    angle = torch.arange(points, dtype=torch.float64) * 2 * pi / points
    return torch.stack((angle.cos(), angle.sin()), 1), torch.full_like(angle, 2 * pi / points)


def sphere(points: int) -> tuple[Tensor, Tensor]:
    """Take equal steps around the axis and Gauss-Legendre along it."""
    height, weight = map(torch.from_numpy, scipy.special.roots_legendre(points))
    flat, share = circle(points)
    ring = (1 - height.square()).sqrt()[:, None, None] * flat
    column = height[:, None, None].expand(points, points, 1)
    return torch.cat((ring, column), 2).flatten(0, 1), (weight[:, None] * share).flatten()


@every_concentration
@pytest.mark.parametrize("dims", [2, 3])
def test_densities_integrate_to_one(dims: int, concentration: str) -> None:
    mixture = make_mixture(concentration, dims=dims)
    z, shares = {2: circle, 3: sphere}[dims](200)
    one = torch.ones((), dtype=torch.float64)
    assert_close(shares @ mixture.log_prob(z).exp(), one, rtol=0, atol=1e-12)
    totals = shares @ mixture.log_prob_given_class(z).exp()
    assert_close(totals, one.expand(K), rtol=0, atol=1e-12)


@every_concentration
def test_densities_and_posterior_by_bayes(concentration: str, generator: Generator) -> None:
    mixture, z = make_mixture(concentration), latents(generator)
    cosines = torch.cosine_similarity(z[:, None], mixture.means, dim=2)
    given_class = log_normalizer(D, mixture.kappa) + mixture.kappa * cosines
    joint = given_class + mixture.log_weights
    got = mixture.densities(z)
    expected = (given_class, joint.logsumexp(1), joint.log_softmax(1))
    assert_close(tuple(got), expected, rtol=0, atol=1e-12)
    assert_close(mixture.log_posterior(z), got.log_posterior)
    if concentration == "shared":  # a softmax of cosines
        softmax = (mixture.log_kappa.exp() * cosines + mixture.log_weights).log_softmax(1)
        assert_close(mixture.log_posterior(z), softmax, rtol=0, atol=1e-13)


def test_lengths_do_not_count(generator: Generator) -> None:
    mixture, z = make_mixture(), latents(generator)
    expected = mixture.densities(z)
    mixture.set_means(7 * mixture.means)
    assert_close(tuple(mixture.densities(z / 100)), tuple(expected), rtol=0, atol=1e-12)
    assert bool(mixture.log_prob(torch.zeros(1, D)).isfinite())


@every_concentration
def test_gradients_are_finite_differences(concentration: str, generator: Generator) -> None:
    mixture, z = make_mixture(concentration), latents(generator, 3).requires_grad_()

    def outputs(*_: Tensor) -> tuple[Tensor, Tensor]:
        densities = mixture.densities(z)
        return densities.log_prob, densities.log_posterior

    parameters = (mixture.means, mixture.log_kappa, mixture.weight_logits)
    assert torch.autograd.gradcheck(outputs, (z, *parameters))


@every_concentration
def test_float32_posterior_in_many_dimensions(concentration: str, generator: Generator) -> None:
    mixture = make_mixture(concentration, 10, 3072, 3072.0).float()
    z = latents(generator, dims=3072).float()
    got = mixture.log_posterior(z).double()
    expected = mixture.double().log_posterior(z.double())
    assert_close(got, expected, rtol=1e-6, atol=1e-3)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("kappa", [0.1, 2.0, 50.0])
@pytest.mark.parametrize("dims", [2, 3, 10, 100])
def test_samples_have_the_moments_of_their_class(
    dims: int, kappa: float, temperature: float, generator: Generator
) -> None:
    """Cosines: mean A, variance 1 - A² - (D-1) A/κ; as much in one direction across as another."""
    n, mixture = 20_000, VonMisesFisherMixture(2, dims, kappa=kappa).double()
    z = mixture.sample(torch.ones(n, dtype=torch.long), temperature, generator)
    assert_close(z.norm(dim=1), torch.ones(n, dtype=torch.float64))
    narrowed = kappa / temperature**2
    upper, lower = scipy.special.ive([dims / 2, dims / 2 - 1], narrowed)
    expected = float(upper / lower)  # A_D(κ) = I_{D/2} / I_{D/2-1}
    variance = 1 - expected**2 - (dims - 1) * expected / narrowed
    axis = normalize(mixture.means[1].detach(), dim=0)
    cosines = z @ axis
    assert abs(float(cosines.mean()) - expected) < 5 * sqrt(variance / n)
    assert_close(cosines.var().item(), variance, rtol=0.1, atol=0)
    across = (z - cosines[:, None] * axis).mean(0)
    assert float(across.norm()) < 5 / sqrt(n)


def test_cosines_on_the_sphere_are_those_of_the_closed_form(generator: Generator) -> None:
    """D = 3: P(cosine <= w) = (e^κw - e^-κ) / (e^κ - e^-κ). Kolmogorov-Smirnov."""
    n, kappa = 20_000, 2.0
    mixture = VonMisesFisherMixture(1, 3, kappa=kappa).double()
    z = mixture.sample(torch.zeros(n, dtype=torch.long), generator=generator)
    w = (z @ normalize(mixture.means.detach())[0]).sort().values
    cumulative = ((kappa * w).exp() - exp(-kappa)) / (2 * sinh(kappa))
    empirical = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    assert float((cumulative - empirical).abs().max()) < 1.95 / sqrt(n)


def test_samples_follow_seed_temperature_and_centre() -> None:
    mixture, y = make_mixture(), torch.tensor([3, 0, 0, 2])
    directions = normalize(mixture.means.detach())[y]

    def sample(temperature: float, seed: int = 5, around: str = "means") -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return mixture.sample(y, temperature, generator, around)  # type: ignore[arg-type]

    assert_close(sample(0.0), directions, rtol=0, atol=1e-15)
    for tiny in (1e-200, 1e-100, 1e-8):
        assert_close(sample(tiny), directions, rtol=0, atol=1e-6)
    assert torch.equal(sample(1.0), sample(1.0))
    assert not torch.equal(sample(1.0), sample(1.0, seed=6))
    assert float((sample(1e9).norm(dim=1) - 1).abs().max()) < 1e-12
    mixture.data_means.copy_(-3 * mixture.means.detach())
    assert_close(sample(0.0, around="data"), -directions, rtol=0, atol=1e-15)
    assert mixture.sample(y[:0]).shape == (0, D)


@pytest.mark.parametrize(
    ("dims", "kappa"), [(1, None), (3, 0.0), (3, -1.0), (3, float("inf")), (3, float("nan"))]
)
def test_impossible_mixtures_are_refused(dims: int, kappa: float | None) -> None:
    with pytest.raises(UserError, match="dims >= 2 and finite kappa > 0"):
        VonMisesFisherMixture(2, dims, kappa=kappa)


def test_what_the_sphere_has_not_is_refused() -> None:
    with pytest.raises(UserError, match="uniform, empirical or learned, got affine"):
        VonMisesFisherMixture(2, 3, weights="affine")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="not affine in z"):
        make_mixture().to_linear()
    with pytest.raises(UserError, match="no Mahalanobis distance"):
        make_mixture().half_mahalanobis(torch.zeros(1, K))
    with pytest.raises(UserError, match="one of length zero"):
        make_mixture().set_means(torch.eye(K, D) - torch.eye(1, D))


def test_samples_of_what_is_not_a_number_end() -> None:
    mixture = make_mixture()
    mixture.log_kappa.data.fill_(float("nan"))
    assert bool(mixture.sample(torch.arange(K)).isnan().all())


@every_concentration
def test_initial_state(concentration: str) -> None:
    mixture = VonMisesFisherMixture(3, 7, concentration=concentration)  # type: ignore[arg-type]
    assert_close(mixture.kappa, torch.full((3,), 7.0))
    assert_close(mixture.log_kappa.shape, torch.Size([1 if concentration == "shared" else 3]))
    assert_close(mixture.means @ mixture.means.T, torch.eye(3))
    assert_close(mixture.mean_distance(), torch.tensor(sqrt(2)))
    assert concentration in repr(mixture)


def test_averages_and_learning_recover_means_and_concentrations(generator: Generator) -> None:
    truth = make_mixture(dims=5)
    y = torch.arange(8000) % K
    z = truth.sample(y, generator=generator)
    lengths = torch.rand(len(z), 1, generator=generator, dtype=z.dtype) + 0.1
    mixture = VonMisesFisherMixture(K, 5).double()
    mixture.set_means(mixture.class_averages([(lengths * z, y)]))
    assert_close(mixture.means, torch.stack([z[y == k].mean(0) for k in range(K)]))
    assert bool((torch.cosine_similarity(mixture.means, truth.means) > 0.95).all())
    optimizer = torch.optim.LBFGS([mixture.log_kappa], max_iter=50)

    def loss() -> float:
        optimizer.zero_grad()
        value = -mixture.log_prob_given_class(z).gather(1, y[:, None]).mean()
        value.backward()
        return value.item()

    optimizer.step(loss)
    assert_close(mixture.log_kappa, truth.log_kappa, rtol=0, atol=0.1)


def test_pictures_show_directions_and_their_spread(generator: Generator) -> None:
    mixture = VonMisesFisherMixture(3, 50, kappa=400.0)
    y = torch.arange(3).repeat(2000)
    directions = mixture.embed(5 * mixture.sample(y, generator=generator))
    assert_close(directions.norm(dim=1), torch.ones(len(y)))
    stray = (directions - normalize(mixture.means.detach())[y])[:, 10:].std()
    assert_close(stray, mixture.std()[0, 0].detach(), rtol=0.1, atol=0)
