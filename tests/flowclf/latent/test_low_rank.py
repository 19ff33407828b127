"""Class means of low rank: the full mixture with the same means, in less memory."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor
from torch.testing import assert_close

import flowclf
from benchmarks.measure import peak_bytes
from flowclf.cli.app import run
from flowclf.latent.gaussian import GaussianMixture
from flowclf.latent.low_rank import LowRankMixture
from flowclf.support.errors import UserError

K, D, B = 5, 12, 9
SIZES = [(3, 4), (2, 0), (0, 4)]  # rank, full_dims

every_size = pytest.mark.parametrize(("rank", "full"), SIZES)


def make_pair(
    rank: int, full: int, covariance: str = "unit", weights: str = "learned"
) -> tuple[LowRankMixture, GaussianMixture]:
    """Build two random mixtures in float64, the second with the first's means in full."""
    generator = torch.Generator().manual_seed(1)
    options: dict[str, Any] = {"covariance": covariance, "weights": weights}
    low = LowRankMixture(K, D, rank, full, generator=generator, **options).double()
    dense = GaussianMixture(K, D, **options).double()
    with torch.no_grad():
        for each in (low.coordinates, low.mean_basis, low.log_var, low.weight_logits):
            each.normal_(generator=generator)
        dense.means.copy_(low.means)
        dense.log_var.copy_(low.log_var)
        dense.weight_logits.copy_(low.weight_logits)
    return low, dense


@pytest.mark.parametrize("weights", ["uniform", "learned", "affine"])
@pytest.mark.parametrize("covariance", ["unit", "shared"])
@every_size
def test_densities_and_gradients_are_those_of_the_full_mixture(
    rank: int, full: int, covariance: str, weights: str, generator: Generator
) -> None:
    low, dense = make_pair(rank, full, covariance, weights)
    z = (2 * torch.randn(B, D, generator=generator, dtype=torch.float64)).requires_grad_()
    got, expected = low.densities(z), dense.densities(z)
    exact = {"rtol": 0, "atol": 1e-10}
    assert_close(tuple(got), tuple(expected), **exact)
    assert_close(low.log_weights, dense.log_weights, **exact)
    assert_close(low.mean_distance(), dense.mean_distance(), **exact)

    def loss(found: Any) -> Tensor:
        given, log_prob, log_posterior = found
        return (given.square().sum() + log_prob.sum() - log_posterior.exp()[:, 0].sum()) / 100

    shared = [p for p in (low.log_var, low.weight_logits) if p.requires_grad]
    own = [p for p in (low.coordinates, low.mean_basis) if p.numel()]
    of_dense = [p for p in (dense.log_var, dense.weight_logits) if p.requires_grad]
    gradients = torch.autograd.grad(loss(got), [z, *shared, *own])
    (to_means, *others) = torch.autograd.grad(loss(expected), [dense.means, z, *of_dense])
    chained = torch.autograd.grad(low.means, own, to_means)  # through [m, u V]
    assert_close(gradients, (*others, *chained), **exact)


@every_size
def test_samples_and_means_of_a_class_are_those_of_the_full_mixture(rank: int, full: int) -> None:
    (low, dense), y = make_pair(rank, full, "shared"), torch.tensor([3, 0, 0, 2])
    assert_close(low.class_means(y), dense.means[y])
    drawn = [each.sample(y, 0.7, torch.Generator().manual_seed(0)) for each in (low, dense)]
    assert_close(*drawn)


@every_size
def test_averages_keep_what_the_basis_spans(rank: int, full: int, generator: Generator) -> None:
    low, dense = make_pair(rank, full)
    z, y = torch.randn(40, D, generator=generator, dtype=torch.float64), torch.arange(40) % K
    average = dense.class_averages([(z, y)])
    low.set_data_means(low.class_averages([(z[:17], y[:17]), (z[17:], y[17:])]))
    left = average - low.data_means
    assert_close(left[:, :full], torch.zeros_like(left[:, :full]))
    assert_close(left[:, full:] @ low.mean_basis.T, torch.zeros_like(low.coordinates[:, full:]))
    before = low.means.clone()
    low.set_means(before)
    assert_close(low.means, before)
    low.set_means(low.class_averages([(z, y)]))
    assert_close(low.means, low.data_means)


def test_it_starts_with_the_distance_asked_for() -> None:
    for rank, full in [(0, 8), (8, 0), (5, 6)]:
        assert_close(LowRankMixture(4, 30, rank, full).mean_distance(), torch.tensor(5.0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "together 1 to 11"),
        ({"rank": 6, "full_dims": 6}, "together 1 to 11 for 12 dimensions, got 6 and 6"),
        ({"rank": 2, "covariance": "per-class"}, "unit or shared"),
    ],
)
def test_impossible_ranks_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        LowRankMixture(K, D, **options)


@pytest.mark.parametrize(
    "settings",
    [
        {"mixture": {"full_dims": 4}},
        {"mixture": {"rank": 4, "kind": "vmf"}},
        {"mixture": {"rank": 4}, "network": {"condition": "beta", "batch_norm": False}},
    ],
)
def test_settings_that_have_no_low_rank_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"mixture\.rank"):
        flowclf.build("ib-inn", shape=(1, 8, 8), classes=K, **settings)


def test_memory_is_linear_in_the_rank_and_never_classes_times_dimensions() -> None:
    classes, dims, full, batch = 500, 20_000, 100, 4
    z = torch.randn(batch, dims, generator=torch.Generator().manual_seed(0)).requires_grad_()
    y, peaks = torch.arange(classes).split(batch), []
    for rank in (8, 16, 24):
        mixture = LowRankMixture(classes, dims, rank, full, start="normal")
        numbers = sum(p.numel() for p in mixture.parameters() if p.requires_grad)
        assert numbers == classes * (full + rank) + rank * (dims - full)

        def step(mixture: LowRankMixture = mixture) -> None:
            found = mixture.densities(z)
            (found.log_prob.sum() + found.log_posterior[:, 0].sum()).backward()
            mixture.zero_grad()
            mixture.sample(y[0])
            with torch.no_grad():
                averages = mixture.class_averages([(z, each) for each in y])
            mixture.set_data_means(averages)

        peaks.append(peak_bytes(step))
    assert peaks[2] < classes * dims * 4 / 2
    assert peaks[1] - peaks[0] == pytest.approx(peaks[2] - peaks[1], rel=0.1)


@pytest.mark.slow
def test_a_run_trains_resumes_and_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(tmp_path / "run")
    quick = ["network.kind=mlp", "network.blocks=2", "train.epochs=3", "data.train_size=600"]
    own = ["mixture.rank=4", "mixture.full_dims=6", "mixture.start=data", "data.test_size=200"]
    options = [word for each in quick + own for word in ("--set", each)]
    assert run(["train", "ib-inn", "--data", "digits", "--out", folder, *options]) == 0
    model = flowclf.load(folder)
    assert isinstance(model.mixture, LowRankMixture)
    assert model.mixture.coordinates.shape == (10, 10)
    data = flowclf.load_dataset("digits").test
    assert float((model.predict(data.x) == data.y).float().mean()) > 0.6
    assert bool(model.mixture.data_means.any())
    model.save(tmp_path / "saved")
    assert run(["train", "--resume", folder]) == 0
    for again in (flowclf.load(tmp_path / "saved"), flowclf.load(folder)):
        assert torch.equal(again.log_prob(data.x[:5]), model.log_prob(data.x[:5]))
    picture = ["--out", str(tmp_path / "picture.png")]
    assert run(["evaluate", folder, "--suite", "accuracy,clustering,explain", "--json"]) == 0
    assert run(["sample", folder, "--per-class", "1", *picture]) == 0
    for between in ("images", "means", "classes"):
        assert run(["interpolate", folder, "--pairs", "1", "--between", between, *picture]) == 0
