"""Tables at default settings: their splits, their rows, and what is said of them."""

import pytest

from benchmarks.flowclf.tables import DISCRIMINANTS, FLOW, load, people, survey, verdicts


def test_people_are_the_same_each_time_and_mixed() -> None:
    frame = people(500)
    assert frame.equals(people(500))
    assert 0.1 < (frame["income"] == "high").mean() < 0.6
    assert {"school", "work", "home", "job", "age", "gain"} < set(frame.columns)


def test_each_seed_is_a_split() -> None:
    one, other = load("wine", 0), load("wine", 1)
    assert (len(one.train), len(one.test), one.shape) == (124, 54, (13,))
    assert one.sha256 != other.sha256
    assert load("adult", 0).shape == (3 + 5 + 4 + 3 + 6,)


def test_the_flow_is_no_worse_than_a_discriminant_on_wine() -> None:
    rows = {row["system"]: row for row in survey("wine", 0)}
    assert rows.keys() >= {FLOW, "logistic regression", "gradient boosting"}
    best = max(rows[name]["accuracy"] for name in DISCRIMINANTS if name in rows)
    assert rows[FLOW]["accuracy"] >= best - 0.04  # two of 54 rows
    assert rows[FLOW]["log_loss"] < 0.2


def test_verdicts_are_paired_with_the_best_of_all_splits() -> None:
    def row(system: str, seed: int, accuracy: float) -> dict[str, str]:
        values = {"accuracy": accuracy, "log_loss": 1 - accuracy, "ece": 0.0}
        names = {"table": "t", "system": system, "seed": str(seed)}
        return names | {name: str(value) for name, value in values.items()}

    rows = [row(FLOW, 0, 0.8), row(FLOW, 1, 0.7), row("QDA", 0, 1.0)]
    rows += [row("logistic regression", 0, 0.7), row("logistic regression", 1, 0.6)]
    (line,) = verdicts(rows)  # QDA lacks a split
    assert line.startswith("t: ib-inn - logistic regression, n = 2: accuracy +10.000 ± 0.000")
    assert "log_loss -0.100" in line
    assert pytest.approx(0) == float(line.rpartition("ece ")[2].split()[0])
