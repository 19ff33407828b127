"""Robustness curves show the rows they were given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flowclf.figures import save_figure
from flowclf.figures.curves import attack_figure, corruption_figure


def table(drop: float) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [{"family": "clean", "severity": 0, "accuracy": 0.9, "ece": 0.02}]
    for place, family in enumerate(("fog", "snow", "contrast")):
        rows += [
            {"family": family, "severity": s, "accuracy": 0.9 - drop * s * place, "ece": 0.01 * s}
            for s in range(1, 6)
        ]
    mean = {"family": "mean", "accuracy": 0.0, "ece": 9.0}
    return [*rows, mean | {"severity": 1}, mean | {"severity": None}]


def curve(auroc: float | None) -> list[dict[str, Any]]:
    rows = [(0.1, 0.4), (0.0, 0.9), (0.2, 0.1)]
    return [{"epsilon": e, "accuracy": a, "auroc": auroc} for e, a in rows]


def test_corruption_lines_are_means_over_families(tmp_path: Path) -> None:
    figure = corruption_figure({"one": table(0.05), "two": table(0.1)})
    accuracy, ece = figure.axes
    assert [line.get_label() for line in accuracy.lines] == ["one", "two"]
    assert list(accuracy.lines[0].get_xdata()) == [0, 1, 2, 3, 4, 5]
    expected = [0.9 - 0.05 * s for s in range(6)]
    assert list(accuracy.lines[0].get_ydata()) == pytest.approx(expected)
    assert list(ece.lines[1].get_ydata())[1:] == pytest.approx([0.01 * s for s in range(1, 6)])
    band = accuracy.collections[0].get_paths()[0].vertices
    at_two = sorted({round(float(y), 6) for x, y in band if x == 2})
    assert at_two == pytest.approx([0.8 - 0.1 / 3**0.5, 0.8 + 0.1 / 3**0.5], abs=1e-5)
    save_figure(figure, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 5000


def test_attack_lines_run_with_epsilon(tmp_path: Path) -> None:
    figure = attack_figure({"plain": curve(None), "flow": curve(0.8)})
    accuracy, auroc = figure.axes
    assert list(accuracy.lines[0].get_xdata()) == [0.0, 0.1, 0.2]
    assert list(accuracy.lines[0].get_ydata()) == [0.9, 0.4, 0.1]
    chance, flow = auroc.lines
    assert flow.get_label() == "flow"
    assert flow.get_color() == accuracy.lines[1].get_color() != accuracy.lines[0].get_color()
    assert list(flow.get_ydata()) == [0.8] * 3
    assert chance.get_ydata()[0] == 0.5
    save_figure(figure, tmp_path / "curves.svg")


def test_without_densities_there_is_one_panel() -> None:
    assert len(attack_figure({"plain": curve(None)}).axes) == 1
