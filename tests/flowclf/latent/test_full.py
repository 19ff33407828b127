"""Full covariances: exact densities, draws and residuals, and the start between LDA and QDA."""

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

import flowclf
from flowclf.latent.full import SHARES, FullMixture
from flowclf.support.errors import UserError

K, D = 3, 4


@pytest.fixture
def mixture(generator: torch.Generator) -> FullMixture:
    mixture = FullMixture(K, D, weights="empirical").double()
    with torch.no_grad():
        for values in (mixture.means, mixture.log_diagonal, mixture.lower, mixture.weight_logits):
            values.normal_(generator=generator)
    return mixture


def covariances(mixture: FullMixture) -> Tensor:
    factors = mixture.factors()
    return torch.linalg.inv(factors.mT @ factors).detach()


def test_densities_are_those_of_gaussians(mixture: FullMixture, generator: torch.Generator) -> None:
    z = torch.randn(20, D, generator=generator, dtype=torch.float64)
    known = MultivariateNormal(mixture.means.detach(), covariances(mixture))
    given = known.log_prob(z[:, None])
    found = mixture.densities(z)
    torch.testing.assert_close(found.log_prob_given_class, given)
    joint = given + mixture.log_weights.detach()
    torch.testing.assert_close(found.log_prob, joint.logsumexp(1))
    torch.testing.assert_close(found.log_posterior, joint.log_softmax(1))
    away = z[:, None] - mixture.means.detach()
    half = 0.5 * (away[..., None, :] @ torch.linalg.inv(covariances(mixture)) @ away[..., None])
    torch.testing.assert_close(mixture.half_mahalanobis(given), half[..., 0, 0])
    y = torch.arange(20) % K
    squares = mixture.residuals(z, y).square().sum(1)
    torch.testing.assert_close(0.5 * squares, half[torch.arange(20), y, 0, 0])


def test_draws_have_the_covariance(mixture: FullMixture, generator: torch.Generator) -> None:
    y = torch.full((40_000,), 1)
    drawn = mixture.sample(y, 0.5, generator)
    expected = covariances(mixture)[1]
    scale = expected.diagonal().max()
    torch.testing.assert_close(4 * drawn.T.cov() / scale, expected / scale, atol=0.05, rtol=0.05)
    std = mixture.std().detach()[1]
    torch.testing.assert_close(std, expected.diagonal().sqrt())


def drawn(same: bool, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw from classes of one covariance, or of one each."""
    y = torch.arange(600) % K
    maps = torch.randn(K, D, D, generator=generator, dtype=torch.float64)
    maps = maps[:1].expand(K, -1, -1) if same else maps
    noise = torch.randn(600, D, generator=generator, dtype=torch.float64)
    means = torch.randn(K, D, generator=generator, dtype=torch.float64)
    return (maps[y] @ noise[..., None])[..., 0] + means[y], y


def test_the_start_is_between_linear_and_quadratic(generator: torch.Generator) -> None:
    found = {}
    for same in (True, False):
        z, y = drawn(same, generator)
        mixture = FullMixture(K, D).double()
        mixture.fit(z, y)
        own = torch.stack([z[y == k].T.cov(correction=0) for k in range(K)])
        pooled = own.mean(0)
        away = covariances(mixture) - pooled
        # The part of the way from the pooled covariance to those of the classes.
        found[same] = float((away * (own - pooled)).sum() / (own - pooled).square().sum())
        torch.testing.assert_close(
            mixture.means.detach(), torch.stack([z[y == k].mean(0) for k in range(K)])
        )
    assert found[True] < 0.3
    assert found[False] == pytest.approx(1 - SHARES[0], abs=0.06)


def test_a_model_starts_as_a_discriminant(generator: torch.Generator) -> None:
    z, y = drawn(False, generator)
    x = (10 * z + 3).float()
    model = flowclf.build("ib-inn", shape=(D,), classes=K)
    assert model.settings.mixture.covariance == "full"
    model.fit_statistics(x, y)
    model.eval()
    own = MultivariateNormal(
        torch.stack([x[y == k].mean(0) for k in range(K)]),
        torch.stack([x[y == k].T.cov(correction=0) for k in range(K)]),
    )
    expected = own.log_prob(x[:, None]).argmax(1)
    assert float((model.predict(x) == expected).float().mean()) > 0.9
    copied = flowclf.build("ib-inn", shape=(D,), classes=K)
    copied.load_state_dict(model.state_dict())
    torch.testing.assert_close(copied.eval().log_prob(x), model.log_prob(x))


@pytest.mark.parametrize("other", [{"weights": "affine"}, {"rank": 1}])
def test_what_does_not_go_with_it(other: dict[str, object]) -> None:
    mixture = {"covariance": "full", "start": "data", **other}
    with pytest.raises(UserError, match="expected mixture"):
        flowclf.build("ib-inn", shape=(D,), classes=K, preset="table", mixture=mixture)
