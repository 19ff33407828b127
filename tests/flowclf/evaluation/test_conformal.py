"""Nonconformity scores and thresholds against their definitions, against MAPIE, and by coverage."""

from math import log

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from torch import Tensor

from flowclf.evaluation.conformal import (
    NONCONFORMITIES,
    aps,
    class_thresholds,
    lac,
    least_samples,
    p_values,
    raps,
    threshold,
)
from flowclf.support.errors import UserError

K = 4


def posteriors(count: int, seed: int = 0, sharpness: float = 2.0) -> tuple[Tensor, Tensor]:
    """Return log posteriors (N, K) and labels that are drawn from them."""
    generator = torch.Generator().manual_seed(seed)
    log_posterior = (sharpness * torch.randn(count, K, generator=generator)).log_softmax(1)
    return log_posterior, torch.multinomial(log_posterior.exp(), 1, generator=generator)[:, 0]


def test_lac_is_the_logarithm_of_what_the_other_classes_have(generator: torch.Generator) -> None:
    log_posterior, _ = posteriors(50)
    expected = (1 - log_posterior.double().exp()).log()
    torch.testing.assert_close(lac(log_posterior, torch.zeros(50)), expected, rtol=1e-6, atol=1e-7)


def test_lac_of_a_certain_sample_is_not_rounded() -> None:
    certain = torch.tensor([[0.0, -40.0, -80.0]])
    expected = torch.tensor([[-40.0, 0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(lac(certain, torch.zeros(1)), expected, rtol=1e-12, atol=1e-12)


def test_aps_and_raps_by_hand() -> None:
    log_posterior = torch.tensor([[0.2, 0.5, 0.3]]).log()
    u = torch.tensor([0.5])
    expected = torch.tensor([[0.8 + 0.1, 0.25, 0.5 + 0.15]], dtype=torch.float64)
    torch.testing.assert_close(aps(log_posterior, u), expected, rtol=1e-6, atol=0)
    penalties = torch.tensor([[0.2, 0.0, 0.1]], dtype=torch.float64)
    found = raps(log_posterior, u, penalty=0.1, free=1)
    torch.testing.assert_close(found, expected + penalties, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", NONCONFORMITIES)
@pytest.mark.parametrize("coverage", [0.8, 0.95])
def test_sets_cover_as_much_as_was_asked_for(name: str, coverage: float) -> None:
    score, covered = NONCONFORMITIES[name], []  # type: ignore[index]
    for seed in range(60):
        log_posterior, y = posteriors(600, seed)
        u = torch.rand(600, generator=torch.Generator().manual_seed(seed))
        own = score(log_posterior, u).gather(1, y[:, None])[:, 0]
        covered.append(float((own[200:] <= threshold(own[:200], coverage)).float().mean()))
    error = np.std(covered) / len(covered) ** 0.5
    assert coverage - 3 * error < np.mean(covered) < coverage + 1 / 201 + 3 * error


def test_the_threshold_of_scores_that_say_nothing_covers_too_little_without_the_correction() -> (
    None
):
    # The plain 0.9-quantile of 9 scores covers 0.9 - 0.09 or so: the correction is what is tested.
    scores = torch.rand(9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert threshold(scores, 0.9) == float(scores.max())


def test_class_thresholds_are_those_of_each_class() -> None:
    scores = torch.arange(60, dtype=torch.float64)
    y = torch.arange(60) % 3
    found = class_thresholds(scores, y, 3, 0.9)
    assert found.tolist() == [threshold(scores[y == k], 0.9) for k in range(3)]


def test_too_few_samples_are_refused_with_the_number_that_is_needed() -> None:
    with pytest.raises(
        UserError, match=r"at least 19 calibration samples for coverage 0.95, got 18"
    ):
        threshold(torch.rand(18), 0.95)
    threshold(torch.rand(19), 0.95)
    with pytest.raises(UserError, match=r"at least 9 .* of each class .* got 0 of class 2"):
        class_thresholds(torch.rand(40), torch.arange(40) % 2, 3, 0.9)


@pytest.mark.parametrize(("level", "least"), [(0.05, 19), (0.01, 99), (0.1, 9), (0.5, 1)])
def test_least_samples_is_where_the_smallest_p_value_reaches_the_level(
    level: float, least: int
) -> None:
    assert least_samples(level) == least
    assert 1 / (least + 1) <= level < 1 / least


def test_p_values_count_what_is_not_below() -> None:
    calibration = torch.tensor([3.0, 1.0, 2.0, 2.0])
    scores = torch.tensor([0.0, 1.0, 2.0, 2.5, 9.0])
    assert p_values(calibration, scores).tolist() == [1.0, 1.0, 0.8, 0.4, 0.2]


def test_p_values_of_alike_samples_are_valid_at_every_level() -> None:
    generator = torch.Generator().manual_seed(1)
    levels = torch.tensor([0.01, 0.05, 0.2, 0.5])
    alarms = torch.stack(
        [
            (p_values(*torch.randn(2, 199, generator=generator))[:, None] <= levels)
            .double()
            .mean(0)
            for _ in range(200)
        ]
    )
    assert bool((alarms.mean(0) <= levels + 3 * alarms.std(0) / 200**0.5).all())


class Posterior(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Classifier whose features are its probabilities."""

    def __init__(self) -> None:
        self.classes_ = np.arange(K)

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        return X

    def predict(self, X: np.ndarray) -> np.ndarray:
        return X.argmax(1)


@pytest.mark.parametrize("seed", range(3))
def test_sets_are_those_of_mapie(seed: int) -> None:
    """Its aps draws another u when it calibrates, and cannot be the same."""
    mapie = pytest.importorskip("mapie.classification", reason="mapie is in the extra dev")
    log_posterior, y = posteriors(400, seed, sharpness=1.0)
    x, own = log_posterior.double().exp().numpy(), lac(log_posterior[:200], torch.zeros(200))
    theirs = mapie.SplitConformalClassifier(
        Posterior(), confidence_level=0.9, conformity_score="lac", prefit=True
    ).conformalize(x[:200], y[:200].numpy())
    limit = threshold(own.gather(1, y[:200, None])[:, 0], 0.9)
    sets = lac(log_posterior[200:], torch.zeros(200)) <= limit + 1e-12
    assert sets.tolist() == theirs.predict_set(x[200:])[1][:, :, 0].tolist()


def test_scores_of_a_class_that_has_no_mass_are_the_largest() -> None:
    log_posterior = torch.tensor([[log(0.6), log(0.4), -torch.inf]])
    for score in NONCONFORMITIES.values():
        assert int(score(log_posterior, torch.tensor([0.5])).argmax()) == 2
