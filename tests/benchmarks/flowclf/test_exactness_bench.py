"""The inverse survives training, as its benches measure it; their columns are the recorded ones."""

import csv

from benchmarks.flowclf import depth, trained_exactness
from benchmarks.results import FOLDER
from flowclf.evaluation.exactness import TOLERANCE


def columns(name: str) -> list[str]:
    """Return the columns of the recorded rows."""
    with (FOLDER / name).open(encoding="utf-8", newline="") as file:
        return next(csv.reader(file))


def test_a_preset_is_exact_after_500_steps() -> None:
    row = trained_exactness.measure_preset("ib-inn", "mlp")
    assert row["steps"] >= 500
    assert 0 < row["inverse_error_before"] < 1e-4
    assert 0 < row["inverse_error"] < TOLERANCE
    assert columns("exactness.csv")[: len(row)] == list(row)


def test_30_blocks_stay_exact_with_a_bound_on_each() -> None:
    """Take 60 steps at five times the default rate; unbounded, the inverse is lost (depth.csv)."""
    row = depth.survey("affine, limit 0.2, clipped", seed=0)
    assert 0 < row["inverse_error"] < TOLERANCE
    assert columns("depth.csv")[: len(row)] == list(row)
