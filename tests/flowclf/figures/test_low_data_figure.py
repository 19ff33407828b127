"""Learning curves show the means they were given, with a band of one standard error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flowclf.figures import save_figure
from flowclf.figures.curves import low_data_figure

SIZES = (50, 100, 500)


def row(system: str, size: int, accuracy: float, error: float | None = 0.01) -> dict[str, Any]:
    found = {"system": system, "train_size": size, "accuracy": (accuracy, error)}
    return found | {"ece": (0.1, error)}


def curves() -> list[dict[str, Any]]:
    one = [row("one", size, 0.5 + 0.1 * k) for k, size in enumerate(SIZES)]
    return [*reversed(one), *(row("two", size, 0.8, None) for size in SIZES)]


def test_lines_are_means_on_a_logarithmic_axis_of_the_sizes(tmp_path: Path) -> None:
    figure = low_data_figure(curves(), title="digits")
    accuracy, ece = figure.axes
    assert [line.get_label() for line in accuracy.lines] == ["one", "two"]
    assert list(accuracy.lines[0].get_xdata()) == [50, 100, 500]
    assert list(accuracy.lines[0].get_ydata()) == pytest.approx([50, 60, 70])
    assert list(ece.lines[1].get_ydata()) == pytest.approx([10, 10, 10])
    assert accuracy.get_xscale() == ece.get_xscale() == "log"
    assert [tick.get_text() for tick in accuracy.get_xticklabels()] == ["50", "100", "500"]
    assert ece.get_ylim()[0] == 0
    save_figure(figure, tmp_path / "low-data.png")
    assert (tmp_path / "low-data.png").stat().st_size > 5000


def test_a_band_is_one_standard_error_to_both_sides() -> None:
    accuracy = low_data_figure(curves()).axes[0]
    one, two = (band.get_paths()[0].vertices for band in accuracy.collections)
    assert sorted({round(float(y), 6) for x, y in one if x == 100}) == [59, 61]
    assert {round(float(y), 6) for _, y in two} == {80}


def test_references_are_grey_and_may_lack_sizes() -> None:
    rows = [*curves(), row("QDA", 500, 0.9)]
    accuracy = low_data_figure(rows, references={"QDA"}).axes[0]
    one, two, qda = accuracy.lines
    assert list(qda.get_xdata()) == [500]
    assert qda.get_color() == "#777777" != one.get_color() != two.get_color()


def test_many_sizes_share_few_ticks() -> None:
    rows = [row("one", size, 0.5) for size in range(50, 1050, 50)]
    labels = low_data_figure(rows).axes[0].get_xticklabels()
    assert len(labels) <= 8
    assert labels[-1].get_text() == "1,000"
