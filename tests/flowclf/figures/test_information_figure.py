"""Estimates of information against S show the rows they were given."""

from __future__ import annotations

from math import log
from typing import Any

import pytest

from flowclf.figures.curves import information_figure
from flowclf.support.errors import UserError


def row(estimator: str, samples: int | str, mi: float, md: float | str) -> dict[str, Any]:
    return {"estimator": estimator, "samples": samples, "mi_nats": mi, "md_nats": md}


ROWS = [
    row("all", 1000, 6.5, 20.0),
    row("mini-batch", 100, log(100), 22.0),
    row("mini-batch", "10", log(10), "24.0"),
    row("mini-batch", 100, log(100) - 0.2, 23.0),
]


def test_a_line_an_estimator_with_its_limits() -> None:
    figure = information_figure(ROWS, samples=2000, title="run")
    mi, md = figure.axes
    assert mi.get_ylabel() == "I(X; Z) in nats"
    assert md.get_ylabel() == "KL(q(z) ‖ p(z)) in nats"
    assert mi.get_xscale() == md.get_xscale() == "log"
    assert [t.get_text() for t in mi.get_xticklabels()] == ["10", "100", "1,000"]
    level, single, batch, below, above = mi.lines
    assert level.get_ydata()[0] == 6.5
    assert list(single.get_xdata()) == [1000]
    assert list(batch.get_xdata()) == [10, 100]
    assert list(batch.get_ydata()) == pytest.approx([log(10), log(100) - 0.1])
    assert list(below.get_ydata()) == pytest.approx([log(10), log(100), log(1000)])
    assert above.get_ydata()[0] == pytest.approx(log(2000))
    assert list(md.lines[2].get_ydata()) == pytest.approx([24, 22.5])
    band = md.collections[1].get_paths()[0].vertices
    assert sorted({round(float(y), 6) for x, y in band if x == 100}) == [22, 23]
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["all", "mini-batch", "log S", "log N, N = 2,000"]


def test_the_largest_size_is_the_training_set_and_no_rows_are_refused() -> None:
    assert information_figure(ROWS).axes[0].lines[-1].get_ydata()[0] == pytest.approx(log(1000))
    with pytest.raises(UserError, match=r"benchmarks\.flowclf\.information"):
        information_figure([])
