"""Frozen features beside probes: rows, and differences with their intervals."""

import torch

from benchmarks.flowclf.frozen_features import _difference, _paired, compared
from flowclf.data import Dataset, Split


def test_a_difference_is_that_of_pairs() -> None:
    right = torch.tensor([1.0, 1.0, 0.0, 1.0])
    assert _difference(right, right) == {"accuracy_gain": 0.0, "gain_low": 0.0, "gain_high": 0.0}
    found = _difference(right, torch.zeros(4))
    assert found["accuracy_gain"] == 0.75
    assert found["gain_low"] < 0.75 < found["gain_high"]
    inside, outside = torch.arange(50.0), torch.arange(50.0) + 30
    assert _paired((inside, outside), (inside, outside)) == (0.0, 0.0, 0.0)
    gain, low, high = _paired((inside, outside), (outside, inside))
    assert low < gain < high
    assert gain > 0.5


def test_each_probe_has_a_row_of_the_same_columns() -> None:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(120) % 2
    raw = torch.randn(120, 6, generator=generator) + 2 * y[:, None]
    data = Dataset("x", Split(raw[:80], y[:80]), Split(raw[80:], y[80:]), ("a", "b"))
    rows = [*compared(data, -raw[80:], (raw[:80], raw[80:], -raw[80:]), 0)]
    names = [row["system"].split(",")[0] for row in rows]
    assert names == [
        "ib-inn", "logistic regression of all", "QDA", "logistic regression", "k-NN",
        "Mahalanobis", "k-NN of all", "Mahalanobis of all",
    ]  # fmt: skip
    assert len({tuple(row) for row in rows}) == 1
    assert all(row["accuracy"] > 0.8 for row in rows)
    assert rows[0]["gain_low"] <= rows[0]["accuracy_gain"] <= rows[0]["gain_high"]
