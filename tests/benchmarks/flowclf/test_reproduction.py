"""The reproduction page: its numbers are the rows', and a verdict needs an interval."""

from typing import Any

import pytest

from benchmarks.flowclf import reproduction
from benchmarks.flowclf.reproduction import PAGE, VERDICTS, judge, page, read_claims


def test_the_page_is_what_the_rows_say() -> None:
    """After new rows: python -m benchmarks.flowclf.reproduction."""
    assert PAGE.read_text("utf-8") == page()


def test_no_claim_is_without_a_verdict() -> None:
    claims = [claim for each in read_claims().values() for claim in each]
    assert len(claims) >= 60
    assert all(judge(claim).verdict in VERDICTS for claim in claims)
    assert all({"claim", "where", "theirs"} <= claim.keys() for claim in claims)


ROWS = [
    {"variant": name, "seed": str(seed), "accuracy": str(value), "beta": str(seed)}
    for name, values in {
        "good": [0.90, 0.91, 0.92, 0.93],
        "bad": [0.80, 0.81, 0.82, 0.835],
        "alike": [0.91, 0.90, 0.93, 0.92],
        "once": [0.9],
    }.items()
    for seed, value in enumerate(values)
]


@pytest.mark.parametrize(
    ("ours", "verdict", "text"),
    [
        ({"of": "good", "minus": "bad", "expect": "higher"}, "reproduced", "n = 4"),
        ({"of": "good", "minus": "bad", "expect": "lower"}, "refuted", "n = 4"),
        ({"of": "good", "minus": "alike", "expect": "higher"}, "undecided", "seeds would"),
        ({"of": "good", "minus": "alike", "within": 0.05}, "reproduced", "n = 4"),
        ({"of": "good", "minus": "bad", "within": 0.05}, "refuted", "n = 4"),
        ({"of": "good", "than": 0.5, "expect": "higher"}, "reproduced", "0.92 ± "),
        ({"of": "once", "expect": "higher"}, "undecided", "one seed"),
        ({"of": "once", "than": 1, "within": 0.2, "alone": True}, "reproduced", "0.90"),
        ({"of": "good", "range": True, "within": 0.05}, "reproduced", "0.030"),
        ({"of": "good", "trend": "beta", "expect": "higher"}, "undecided", "1.00 over 4 values"),
        ({"of": ["once", "bad", "good"], "trend": "order", "expect": "higher"}, "undecided", "9"),
    ],
)
def test_a_verdict_follows_from_the_rows(
    ours: dict[str, Any], verdict: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reproduction, "read_rows", lambda path: ROWS)
    found = judge({"ours": {"rows": "any", "metric": "accuracy", **ours}})
    assert found.verdict == verdict
    assert text in found.text


def test_rows_that_are_not_there_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reproduction, "read_rows", lambda path: ROWS)
    with pytest.raises(ValueError, match="no row with variant = other has accuracy"):
        judge({"ours": {"rows": "any", "metric": "accuracy", "of": "other", "expect": "higher"}})
