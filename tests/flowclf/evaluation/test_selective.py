"""Selective prediction against hand-made curves and scikit-learn."""

import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, f1_score

from flowclf.evaluation.selective import (
    accuracy_at_coverage,
    balanced_accuracy,
    macro_f1,
    risk_coverage,
)


def test_the_curve_by_hand() -> None:
    curve = risk_coverage(torch.tensor([0.4, 0.1, 0.3, 0.2]), torch.tensor([0, 1, 1, 0]).bool())
    assert curve.coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert curve.risk.tolist() == pytest.approx([0, 1 / 2, 1 / 3, 1 / 2])
    assert curve.area == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)
    best = (0 + 0 + 1 / 3 + 1 / 2) / 4
    assert curve.excess_area == pytest.approx(curve.area - best)
    assert accuracy_at_coverage(curve, 0.5) == 0.5
    assert accuracy_at_coverage(curve, 1.0) == 0.5


def test_equal_doubts_share_their_risk_in_any_order() -> None:
    doubt, correct = torch.tensor([1.0, 1.0, 1.0, 0.0]), torch.tensor([0, 1, 1, 1]).bool()
    first = risk_coverage(doubt, correct)
    second = risk_coverage(doubt.flip(0), correct.flip(0))
    assert first.risk.tolist() == second.risk.tolist()
    assert first.risk.tolist() == pytest.approx([0, 1 / 6, 2 / 9, 1 / 4])


def test_the_best_order_has_no_excess() -> None:
    correct = torch.arange(10) < 7
    assert risk_coverage(torch.arange(10), correct).excess_area == pytest.approx(0)


def test_balanced_accuracy_and_f1_are_those_of_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    y, predicted = torch.randint(4, (2, 200), generator=generator)
    y[y == 3] = 2  # a class without samples, which is predicted all the same
    confusion = (y * 4 + predicted).bincount(minlength=16).view(4, 4)
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        expected = balanced_accuracy_score(y, predicted)
    assert balanced_accuracy(confusion) == pytest.approx(expected)
    assert macro_f1(confusion) == pytest.approx(f1_score(y, predicted, average="macro"))
