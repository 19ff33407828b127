"""The mixture of logistics against its distribution function, scipy's, and where it is steep."""

import pytest
import scipy.stats
import torch
from torch import Tensor
from torch.testing import assert_close

from couplings import LogisticMixture
from couplings.logistic_mixture import _definition, _Logit

MAP = LogisticMixture(components=3)


def draw(scale: float = 1.0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    parameters = scale * torch.randn(50, 4 * MAP.parameters_per_dim, 3, generator=generator)
    return 3 * torch.randn(50, 4, 3, generator=generator).to(dtype), parameters.to(dtype)


def test_zero_parameters_are_the_identity() -> None:
    x, parameters = draw(0.0)
    for function in (MAP.forward, MAP.inverse):
        y, log_det = function(x, parameters)
        assert_close(y, x, rtol=0, atol=1e-12)
        assert_close(log_det, torch.zeros(50).double(), rtol=0, atol=1e-12)


def test_components_leave_the_identity_at_rates_of_their_own() -> None:
    x, parameters = draw(0.0)
    parameters.requires_grad_()
    y, log_det = MAP.forward(x, parameters)
    (y.square().sum() - log_det.sum()).backward()
    assert parameters.grad is not None
    means = parameters.grad.unflatten(1, (MAP.parameters_per_dim, 4))[:, 3:6]
    assert_close(means[:, 0] * 3, means[:, 2])
    assert float(means[:, 0].abs().min()) > 0


def test_it_is_the_logit_of_the_distribution_function() -> None:
    x, parameters = draw()
    mixture, scale, shift = MAP._mixture(parameters, x)
    weights, means, log_scales = (part.numpy() for part in mixture)
    components = scipy.stats.logistic(loc=means, scale=torch.tensor(log_scales).exp().numpy())
    points = x[:, None].numpy()
    shares = torch.tensor(weights).exp()
    below = (shares * torch.tensor(components.cdf(points))).sum(1)
    density = (shares * torch.tensor(components.pdf(points))).sum(1)
    y, log_det = MAP.forward(x, parameters)
    assert_close(y, below.logit() * scale.exp() + shift, rtol=1e-6, atol=1e-6)
    slope = density / (below * (1 - below)) * scale.exp()
    assert_close(log_det, slope.log().flatten(1).sum(1), rtol=1e-6, atol=1e-6)


def test_gradients_by_hand() -> None:
    x, parameters = draw()
    mixture, _, _ = MAP._mixture(parameters, x)
    arguments = [value[:4].detach().requires_grad_() for value in (x, *mixture)]
    assert torch.autograd.gradcheck(_Logit.apply, arguments)
    for value, other in zip(_Logit.apply(*arguments), _definition(*arguments), strict=True):
        assert torch.equal(value, other)


def test_gradients_of_the_inverse() -> None:
    x, parameters = (value[:3].requires_grad_() for value in draw(0.5))
    assert torch.autograd.gradcheck(MAP.inverse, (x, parameters), atol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 10.0, 1000.0])
def test_the_inverse_is_safe_in_float32(scale: float) -> None:
    """Also at the bounds of all parameters, and in the tails."""
    x, parameters = draw(scale, torch.float32)
    x = torch.cat((x, 50 * x))
    parameters = parameters.repeat(2, 1, 1).unflatten(1, (MAP.parameters_per_dim, 4))
    parameters[:, -1].clamp_(-10, 10)
    parameters = parameters.flatten(1, 2)
    y, log_det = MAP.forward(x, parameters)
    back, inverse_log_det = MAP.inverse(y, parameters)
    assert bool(y.isfinite().all() and log_det.isfinite().all())
    assert float(((back - x).abs() / (1 + x.abs())).quantile(0.99)) < 1e-5
    exact, exact_log_det = MAP.forward(x.double(), parameters.double())
    assert_close(y.double(), exact, rtol=1e-4, atol=1e-4)
    assert_close(log_det.double(), exact_log_det, rtol=1e-5, atol=1e-3)
    assert_close(MAP.forward(back, parameters)[0], y, rtol=1e-4, atol=1e-4)
    assert bool(inverse_log_det.isfinite().all())


@pytest.mark.parametrize("options", [{"components": 0}, {"bound": -1.0}, {"limit": float("inf")}])
def test_other_mixtures_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="LogisticMixture: expected at least one component"):
        LogisticMixture(**options)  # type: ignore[arg-type]
