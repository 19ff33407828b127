"""Calibration measures against torchmetrics, scikit-learn, plain loops and calibrated draws."""

from collections.abc import Callable
from functools import partial
from math import log, sqrt

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss
from torch import Tensor
from torch.testing import assert_close
from torchmetrics.classification import MulticlassCalibrationError

from flowclf.evaluation.calibration import (
    bootstrap_interval,
    brier_score,
    classwise_calibration_error,
    expected_calibration_error,
    overconfidence,
    paper_calibration,
    reliability,
    wilson_interval,
)
from flowclf.evaluation.metrics import accuracy
from flowclf.support.errors import UserError

Sample = tuple[Tensor, Tensor]
Simulate = Callable[..., Sample]
equal_mass_error = partial(expected_calibration_error, equal_mass=True)


@pytest.fixture
def random_logits(simulate: Simulate, generator: torch.Generator) -> Sample:
    """Posteriors that know nothing of their labels."""
    log_posterior, _ = simulate(500, 4, 2.0)
    return log_posterior, torch.randint(0, 4, (500,), generator=generator)


def looped(p: np.ndarray, hit: np.ndarray, edges: np.ndarray) -> list[tuple[float, float]]:
    """(share of samples, |accuracy - confidence|) of each bin that is closed on the right."""
    found = []
    for b, (low, high) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
        inside = (p > low) & (p <= high) | ((b == 0) & (p == low))
        if inside.any():
            found.append((inside.mean(), abs(hit[inside].mean() - p[inside].mean())))
    return found


@pytest.mark.parametrize("bins", [15, 7])
@pytest.mark.parametrize("sharpness", [0.5, 2.0, 20.0])
def test_ece_is_that_of_guo(
    sharpness: float, bins: int, simulate: Simulate, generator: torch.Generator
) -> None:
    """Guo et al. 2017, Eqs. 2 and 3: the bin m holds confidences in ((m-1)/M, m/M]."""
    log_posterior, _ = simulate(400, 5, sharpness)
    y = torch.randint(0, 5, (400,), generator=generator)
    confidence, predicted = log_posterior.exp().max(1)
    edges = np.linspace(0, 1, bins + 1)
    binned = looped(confidence.numpy(), (predicted == y).numpy(), edges)
    got = expected_calibration_error(log_posterior, y, bins)
    assert got == pytest.approx(sum(share * gap for share, gap in binned), abs=1e-12)
    assert got > 0.05


@pytest.mark.parametrize(
    ("p", "y", "bins", "expected"),
    [
        # Two of three right at confidence 0.9, one of one at 0.6: (3·|2/3-0.9| + |1-0.6|)/4.
        ([0.9, 0.9, 0.1, 0.4], [0, 1, 1, 1], 15, (3 * (0.9 - 2 / 3) + 0.4) / 4),
        # 1.0, wrong half the time, and 0.95, always right, cancel in the bin that they share.
        ([1.0, 1.0, 0.95, 0.95], [0, 1, 0, 0], 15, abs(3 / 4 - (1 + 1 + 0.95 + 0.95) / 4)),
        # The lower of two bins holds 0.5: a right guess there and a wrong one at 0.75 add up.
        ([0.5, 0.75], [0, 1], 2, (0.5 + 0.75) / 2),
    ],
)
def test_ece_by_hand(p: list[float], y: list[int], bins: int, expected: float) -> None:
    first = torch.tensor(p, dtype=torch.float64)
    found = expected_calibration_error(
        torch.stack([first, 1 - first], 1).log(), torch.tensor(y), bins
    )
    assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("bins", [5, 15])
def test_equal_widths_are_those_of_torchmetrics(random_logits: Sample, bins: int) -> None:
    log_posterior, y = random_logits
    binned = reliability(log_posterior, y, bins)
    mean = MulticlassCalibrationError(num_classes=4, n_bins=bins, norm="l1")
    most = MulticlassCalibrationError(num_classes=4, n_bins=bins, norm="max")
    # They bin in float32.
    for metric, got in ((mean, binned.expected_error), (most, binned.maximum_error)):
        assert got == pytest.approx(float(metric(log_posterior.exp(), y)), abs=1e-6)
    same = expected_calibration_error(log_posterior, y, bins)
    assert binned.expected_error == pytest.approx(same, abs=1e-12)
    assert binned.maximum_error > 0.3
    assert int(binned.count.sum()) == 500


@pytest.mark.parametrize("equal_mass", [False, True])
def test_bins_are_those_of_scikit_learn(random_logits: Sample, equal_mass: bool) -> None:
    log_posterior, y = random_logits
    binned = reliability(log_posterior, y, 12, equal_mass)
    confidence, predicted = log_posterior.exp().max(1)
    strategy = "quantile" if equal_mass else "uniform"
    kept, claimed = calibration_curve(predicted == y, confidence, n_bins=12, strategy=strategy)
    filled = binned.count > 0
    assert_close(binned.accuracy[filled], torch.from_numpy(kept))
    assert_close(binned.confidence[filled], torch.from_numpy(claimed))
    assert binned.confidence.isnan().tolist() == (~filled).tolist()


def test_equal_masses_are_equal(random_logits: Sample) -> None:
    binned = reliability(*random_logits, bins=7, equal_mass=True)
    assert int(binned.count.max() - binned.count.min()) <= 1
    assert equal_mass_error(*random_logits, bins=7) == binned.expected_error


def test_equal_confidences_share_a_bin() -> None:
    """Half of the samples of confidence 0.9 are right, in an order that must not matter."""
    log_posterior = torch.tensor([[0.9, 0.1]] * 8).double().log()
    y = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    binned = reliability(log_posterior, y, bins=4, equal_mass=True)
    assert sorted(binned.count.tolist()) == [0, 0, 0, 8]
    assert equal_mass_error(log_posterior, y, bins=4) == pytest.approx(0.4)


def test_the_classwise_error_is_that_of_a_loop(random_logits: Sample) -> None:
    log_posterior, y = random_logits
    expected = 0.0
    for k in range(4):
        p, hit = log_posterior[:, k].exp().numpy(), (y == k).numpy()
        expected += sum(share * gap for share, gap in looped(p, hit, np.linspace(0, 1, 16))) / 4
    got = classwise_calibration_error(log_posterior, y)
    assert got == pytest.approx(expected, abs=1e-12)
    assert got > 0.1


def test_the_brier_score_is_that_of_scikit_learn(random_logits: Sample) -> None:
    log_posterior, y = random_logits
    expected = brier_score_loss(y, log_posterior.exp(), labels=range(4), scale_by_half=False)
    assert brier_score(log_posterior, y) == pytest.approx(expected, rel=1e-12)
    certain = torch.full((4, 4), -200.0).fill_diagonal_(0)
    assert brier_score(certain, torch.arange(4)) == pytest.approx(0)
    assert brier_score(certain, torch.arange(4).roll(1)) == pytest.approx(2)


def test_overconfidence_by_hand_and_no_ece_below_it(random_logits: Sample) -> None:
    signed = overconfidence(*random_logits)
    assert 0 < abs(signed) <= expected_calibration_error(*random_logits) + 1e-12
    log_posterior = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6]], dtype=torch.float64).log()
    y = torch.tensor([0, 1, 1])
    assert overconfidence(log_posterior, y) == pytest.approx((0.9 + 0.8 + 0.6) / 3 - 2 / 3)


@pytest.mark.parametrize("classes", [2, 10])
def test_a_calibrated_predictor_has_no_error_by_any_standard_measure(
    classes: int, simulate: Simulate
) -> None:
    log_posterior, y = simulate(100_000, classes, 1.5)
    measures: list[tuple[Callable[..., float], float, float]] = [
        (expected_calibration_error, 0.006, 0.05),
        (equal_mass_error, 0.008, 0.032),
        (classwise_calibration_error, 0.004, 0.016),
        (overconfidence, 0.004, 0.016),
    ]
    sharper = (3 * log_posterior).log_softmax(1)
    for measure, most, least in measures:
        assert abs(measure(log_posterior, y)) < most
        assert measure(sharper, y) > least
    assert reliability(log_posterior, y, equal_mass=True).maximum_error < 0.025


@pytest.mark.parametrize(
    ("version", "classes", "artefact"),
    [("published", 10, 0.45), ("published", 100, 0.57), ("draft", 10, 0.20), ("draft", 100, 0.13)],
)
def test_the_papers_error_of_a_calibrated_predictor_is_its_bin_centres(
    version: str, classes: int, artefact: float, simulate: Simulate
) -> None:
    log_posterior, y = simulate(20_000, classes, 4.0)
    scores = paper_calibration(log_posterior, y, version)
    assert scores["ece_percent"] == pytest.approx(artefact, abs=0.06)


def looped_paper(log_posterior: Tensor, y: Tensor, edges: np.ndarray) -> list[np.ndarray]:
    """Centre, share of true classes and count of each bin of more than 20 entries."""
    p = log_posterior.exp().numpy().ravel()
    hit = np.eye(log_posterior.shape[1])[y.numpy()].ravel()
    rows = []
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        inside = (p > low) & (p <= high)
        if inside.sum() > 20:
            rows.append(((low + high) / 2, hit[inside].mean(), inside.sum()))
    return list(np.array(rows).T)


@pytest.mark.parametrize(
    ("version", "outer", "middle", "bins"), [("published", 5, 10, 17), ("draft", 16, 22, 51)]
)
def test_the_papers_scores_are_those_of_a_loop(
    version: str, outer: int, middle: int, bins: int, simulate: Simulate
) -> None:
    log_posterior, y = simulate(700, 5, 4.0)
    log_posterior = (2 * log_posterior).log_softmax(1)
    low = np.linspace(-1e-6, 0.05, outer)
    edges = np.concatenate([low, np.linspace(0.05, 0.95, middle)[1:-1], (1 - low)[::-1]])
    assert len(edges) == bins + 1
    p, q, n = looped_paper(log_posterior, y, edges)
    assert 5 < len(p) < bins or version == "published"
    scores = paper_calibration(log_posterior, y, version)
    ece, mce, ice = 100 * np.average(abs(q - p), weights=n), 100 * abs(q - p).max(), 0.0
    for i in range(len(p) - 1):
        ice += 50 * (abs(q - p)[i] + abs(q - p)[i + 1]) * (p[i + 1] - p[i])
    assert scores["ece_percent"] == pytest.approx(ece)
    assert scores["mce_percent"] == pytest.approx(mce)
    assert scores["ice_percent"] == pytest.approx(ice)
    confidence, predicted = log_posterior.exp().max(1)
    wrong = float((predicted != y)[confidence > 0.997].double().mean())
    ovc = (1 - q[-2:].mean()) / 0.00333 if version == "draft" else wrong / 0.003
    assert ovc > 2
    assert scores["ovc"] == pytest.approx(ovc)
    third = ovc if version == "draft" else ice
    assert scores["geometric_mean"] == pytest.approx(np.cbrt(ece * mce * third))


def test_the_drafts_mean_counts_an_overconfidence_of_one_or_more() -> None:
    """All right in the two last bins: an OVC of 0 counts as 1. By hand, of four bins of 1/300."""
    p = torch.tensor([1e-4, 0.005], dtype=torch.float64).repeat(50)
    log_posterior, y = torch.stack([p, 1 - p], 1).log(), torch.ones(100, dtype=torch.long)
    scores = paper_calibration(log_posterior, y, "draft")
    assert scores["ovc"] == pytest.approx(0)
    ece, mce = 100 * (1 / 600 + 3 / 600) / 2, 100 * 3 / 600
    assert scores["ece_percent"] == pytest.approx(ece, abs=1e-3)
    assert scores["mce_percent"] == pytest.approx(mce, abs=1e-3)
    assert scores["geometric_mean"] == pytest.approx(np.cbrt(ece * mce), abs=1e-3)


def test_all_wrong_and_sure_is_the_largest_overconfidence_and_never_sure_has_none() -> None:
    even = torch.full((50, 2), log(0.5), dtype=torch.float64)
    assert paper_calibration(even, torch.arange(50) % 2)["ovc"] is None
    log_posterior = torch.tensor([[-20.0, 0.0]] * 50)
    y = torch.zeros(50, dtype=torch.long)
    assert paper_calibration(log_posterior, y)["ovc"] == pytest.approx(1 / 0.003)
    assert paper_calibration(log_posterior, y)["mce_percent"] == pytest.approx(100, abs=1)


@pytest.mark.parametrize(("correct", "total"), [(0, 10), (7, 10), (10, 10), (953, 1000)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_wilsons_interval_is_that_of_scipy(correct: int, total: int, level: float) -> None:
    expected = scipy.stats.binomtest(correct, total).proportion_ci(level, method="wilson")
    assert wilson_interval(correct, total, level) == pytest.approx(tuple(expected), abs=1e-12)


def test_the_bootstrap_of_an_accuracy_is_near_its_standard_error(random_logits: Sample) -> None:
    def interval(level: float) -> tuple[float, float]:
        own = torch.Generator().manual_seed(1)
        return bootstrap_interval(accuracy, *random_logits, own, draws=1000, level=level)

    low, high = interval(0.95)
    share = accuracy(*random_logits)
    half = 1.96 * sqrt(share * (1 - share) / 500)
    assert (low, high) == pytest.approx((share - half, share + half), abs=0.1 * 2 * half)
    assert interval(0.95) == (low, high)
    narrow = interval(0.5)
    assert low < narrow[0] < share < narrow[1] < high


def test_float32_and_extremes_are_taken() -> None:
    """A float32 sum may exceed one, and a probability may be zero."""
    log_posterior = torch.tensor([[1e-7, -float("inf")], [-float("inf"), 0.0]])
    y = torch.tensor([0, 0])
    assert reliability(log_posterior, y).count[-1] == 2
    assert equal_mass_error(log_posterior, y) == pytest.approx(0.5, abs=1e-6)
    assert brier_score(log_posterior, y) == pytest.approx(1, abs=1e-6)


def test_what_cannot_be_measured_is_refused(random_logits: Sample) -> None:
    log_posterior, y = random_logits
    own = torch.Generator()
    refused: list[tuple[str, Callable[[], object]]] = [
        (r"\(500, 4\) and \(499,\)", lambda: reliability(log_posterior, y[1:])),
        ("N > 0", lambda: brier_score(log_posterior[:0], y[:0])),
        ("bins >= 1", lambda: reliability(log_posterior, y, bins=0)),
        ("published or draft", lambda: paper_calibration(log_posterior, y, "final")),
        ("more than 20", lambda: paper_calibration(log_posterior[:2], y[:2])),
        ("draws >= 1", lambda: bootstrap_interval(accuracy, log_posterior, y, own, draws=0)),
        ("0 < level < 1", lambda: bootstrap_interval(accuracy, log_posterior, y, own, level=95)),
        ("0 < level < 1", lambda: wilson_interval(1, 2, level=1.0)),
        ("3 of 2", lambda: wilson_interval(3, 2)),
        ("0 of 0", lambda: wilson_interval(0, 0)),
    ]
    for message, call in refused:
        with pytest.raises(UserError, match=message):
            call()
