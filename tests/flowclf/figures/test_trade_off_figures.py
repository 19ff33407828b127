"""Curves against β̃ and the information plane show the rows they were given."""

from itertools import combinations
from math import inf, log
from pathlib import Path
from typing import Any

import pytest
from drawn import band_at, texts, titles

from flowclf.figures import save_figure
from flowclf.figures.trade_off import information_plane_figure, trade_off_figure
from flowclf.support.errors import UserError


def row(system: str, beta: float | str | None, accuracy: float, **more: Any) -> dict[str, Any]:
    return {"system": system, "beta": beta, "accuracy": accuracy, **more}


ROWS = [
    row("ib-inn", 1.0, 0.7, ece="0.02"),
    row("ib-inn", 1.0, 0.9, ece=None),
    row("ib-inn", 0.1, 0.6, ece=""),
    row("ib-inn", 0.0, 0.1, ece=0.4),
    row("ib-inn", inf, 0.95, ece=0.1),
    row("vib", "1.0", 0.5, ece=float("nan")),
    row("vib", "10", 0.6, ece=0.2),
    row("QDA", "", 0.99, ece=0.01),
]


def test_lines_are_means_on_a_logarithmic_axis_with_detached_ends(tmp_path: Path) -> None:
    figure = trade_off_figure(ROWS, ["accuracy", "ece"], title="digits")
    accuracy, ece = figure.axes
    assert accuracy.get_title() == "accuracy in % ↑"
    assert ece.get_title() == "ECE (15 bins) in % ↓"
    curve, zero, infinity, vib, level = accuracy.lines[:5]
    assert list(curve.get_xdata()) == [0.1, 1.0]
    assert list(curve.get_ydata()) == pytest.approx([60, 80])
    assert zero.get_xdata()[0] < 0.1 < 10 < infinity.get_xdata()[0]
    assert zero.get_linestyle() == infinity.get_linestyle() == "None"
    assert list(infinity.get_ydata()) == pytest.approx([95])
    assert (curve.get_linestyle(), vib.get_linestyle()) == ("-", ":")
    assert list(level.get_ydata()) == pytest.approx([99, 99])
    assert accuracy.get_xscale() == "log"
    assert texts(ece.get_xticklabels()) == ["0", "0.1", "1", "10", "∞"]
    (legend,) = figure.legends
    assert texts(legend.get_texts()) == ["ib-inn", "vib", "QDA"]
    # A band is one standard error; missing values are left out.
    assert band_at(accuracy.collections[0], 1.0) == [70, 90]
    assert list(ece.lines[0].get_xdata()) == [1.0]
    assert list(ece.lines[0].get_ydata()) == pytest.approx([2])
    save_figure(figure, tmp_path / "f.png")
    assert (tmp_path / "f.png").stat().st_size > 5000


def test_panels_that_are_too_many_are_removed_and_few_betas_are_their_own_ticks() -> None:
    rows = [row("vib", beta, 0.5, a=1, b=2, c=3) for beta in (2, 3)]
    figure = trade_off_figure(rows, ["accuracy", "a", "b", "c", "beta"])
    assert titles(figure) == ["accuracy in % ↑", "a", "b", "c", "β̃"]
    assert texts(figure.axes[3].get_xticklabels()) == ["2", "3"]
    shown = [bool(axes.get_xlabel()) for axes in figure.axes]
    assert shown == [False, False, True, True, True]


def test_metrics_that_no_row_has_are_refused() -> None:
    for metrics in ([], ["accuracy", "nll"]):
        with pytest.raises(UserError, match="metrics that the rows have"):
            trade_off_figure(ROWS, metrics)
    with pytest.raises(UserError, match="suite 'information'"):
        information_plane_figure(ROWS)


def test_the_plane_joins_points_along_beta_and_labels_them() -> None:
    known = {"input_information_nats": None, "mi_nats": None}
    rows = [
        row("ib-inn", beta, 0, **known | {"input_information_nats": x}, label_information_nats=y)
        for beta, x, y in ((1, 120, 2.0), (0, 100, -3.0), (0.5, 100.1, 0.001), (inf, 200, 2.2))
    ]
    rows += [
        row("vib", beta, 0, **known | {"mi_nats": x}, label_information_nats=y)
        for beta, x, y in ((1, 3.0, 1.0), (2, 5.0, 1.5))
    ]
    figure = information_plane_figure(rows, classes=10)
    flow, gaussian = figure.axes
    assert (flow.get_xlabel(), gaussian.get_xlabel()) == ("CI(X; Z) in nats", "I(X; Z) in nats")
    assert list(flow.lines[0].get_xdata()) == [100, 100.1, 120, 200]
    assert list(flow.lines[0].get_ydata()) == [0, 0.001, 2.0, 2.2]
    assert texts(flow.texts) == ["0, 0.5", "1", "∞"]
    assert texts(gaussian.texts) == ["1", "2"]
    assert flow.lines[-1].get_ydata()[0] == pytest.approx(log(10))
    dotted = [line.get_xdata() for line in gaussian.lines if line.get_linestyle() == ":"]
    assert list(next(filter(len, dotted))) == [3.0, 5.0]
    names = texts(figure.legends[0].get_texts())
    assert names == ["ib-inn", "vib", "H(Y) = log 10"]


def test_labels_of_two_systems_cover_neither_each_other_nor_the_curves() -> None:
    betas = 0.1, 0.46416, 2.1544, 10
    curves = {
        "one": ((112.8, 1.70), (125.0, 1.93), (154.4, 2.03), (199.6, 2.03)),
        "two": ((111.4, 1.89), (121.6, 2.04), (142.7, 2.08), (171.4, 2.08)),
    }
    rows = [
        row(name, beta, 0, input_information_nats=across, label_information_nats=up)
        for name, curve in curves.items()
        for beta, (across, up) in zip(betas, curve, strict=True)
    ]
    rows.append(row("vib", 1, 0, mi_nats=1.0, label_information_nats=0.0))
    figure = information_plane_figure(rows, classes=10)
    figure.draw_without_rendering()
    axes = figure.axes[0]
    assert sorted(texts(axes.texts)) == sorted(["0.1", "0.46", "2.2", "10"] * 2)
    boxes = [text.get_window_extent() for text in axes.texts]
    assert not [(a, b) for a, b in combinations(boxes, 2) if a.overlaps(b)]
    for line in axes.lines:
        path = line.get_transform().transform_path(line.get_path())
        assert not any(path.intersects_bbox(box, filled=False) for box in boxes)


def test_a_legend_of_long_names_stays_within_the_figure() -> None:
    same = [{"input_information_nats": k, "label_information_nats": k} for k in range(100, 105)]
    rows = [row(f"ib-inn, network.hidden=[{k}]", 1, 0, **both) for k, both in enumerate(same, 100)]
    figure = information_plane_figure(rows)
    figure.draw_without_rendering()
    (legend,) = figure.legends
    low, high = legend.get_window_extent().intervalx
    assert 0 <= low < high <= figure.bbox.width
