"""Classifiers whose classes are Gaussians of full covariance behind a trained encoder."""

from pathlib import Path

import pytest
import torch
from scipy.stats import multivariate_normal
from torch import Tensor

from flowclf import GenerativeClassifier, UserError, build, load
from flowclf.classifier import latents
from flowclf.latent.full import ClassMoments
from flowclf.models import with_gaussians

DIMS = 3


@pytest.fixture
def rows(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return 90 rows of three classes."""
    y = torch.arange(90) % 3
    x = torch.randn(90, DIMS, generator=generator) * (1 + y[:, None]) + y[:, None]
    return x, y


@pytest.fixture
def model(rows: tuple[Tensor, Tensor]) -> GenerativeClassifier:
    """Return a flow that knows the first two classes."""
    made = build("ib-inn", shape=(DIMS,), classes=2, network={"kind": "mlp", "blocks": 2})
    x, y = rows
    made.fit_statistics(x[y < 2], y[y < 2])
    return made.eval()


def test_each_class_is_a_gaussian_of_its_latents(
    model: GenerativeClassifier, rows: tuple[Tensor, Tensor]
) -> None:
    """Against scipy; the class that came later has been seen by nothing but its moments."""
    x, y = rows
    z, before = latents(model, x).double(), model.log_prob(x)
    later = ClassMoments.of(z[y == 2], y[y == 2] - 2, 1)
    moments = ClassMoments.of(z[y < 2], y[y < 2], 2).joined(later)
    made = with_gaussians(model, moments, ("a", "b", "c"), share=0.0)
    assert made.info is not None
    assert made.info.class_names == ("a", "b", "c")
    encoding = made.encode(x)
    torch.testing.assert_close(encoding.z, model.encode(x).z, rtol=0, atol=0)
    given = torch.stack(
        [
            torch.from_numpy(
                multivariate_normal(z[y == k].mean(0), z[y == k].T.cov(correction=0)).logpdf(z)
            )
            for k in range(3)
        ],
        dim=1,
    )
    expected = given.logsumexp(1) - torch.tensor(3.0).log()
    assert encoding.log_det is not None
    log_prob = made.log_prob(x).double() - encoding.log_det.double()
    torch.testing.assert_close(log_prob, expected, rtol=1e-4, atol=1e-4)
    posterior = made.log_posterior(x).double()
    torch.testing.assert_close(posterior, given.log_softmax(1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.log_prob(x), before, rtol=0, atol=0)
    assert model.classes == 2


def test_it_is_saved_and_loaded(
    model: GenerativeClassifier, rows: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    x, y = rows
    made = with_gaussians(model, ClassMoments.of(latents(model, x), y, 3))
    made.save(tmp_path / "model")
    assert torch.equal(load(tmp_path / "model").log_posterior(x), made.log_posterior(x))


def test_what_does_not_fit_is_refused(
    model: GenerativeClassifier, rows: tuple[Tensor, Tensor]
) -> None:
    x, y = rows
    with pytest.raises(UserError, match="expected moments of 3 dimensions, got 2"):
        with_gaussians(model, ClassMoments.of(x[:, :2], y, 3))
    with pytest.raises(UserError, match="expected 3 class_names, one for each class, got 2"):
        with_gaussians(model, ClassMoments.of(x, y, 3), ("a", "b"))
    branched = build("bvae", shape=(DIMS,), classes=2, latent=DIMS)
    with pytest.raises(UserError, match="expected a network for any number of classes, got"):
        with_gaussians(branched, ClassMoments.of(x, y, 3))
    with pytest.raises(UserError, match=r"expected a sample of every class, got none of \[3\]"):
        ClassMoments.of(x, y, 4)
