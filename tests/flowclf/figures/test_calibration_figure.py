"""Reliability diagrams draw the numbers that they are given."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from matplotlib.patches import Rectangle

from flowclf.evaluation.calibration import Reliability, reliability
from flowclf.figures.evaluation import reliability_figure
from flowclf.figures.style import save_figure
from flowclf.support.errors import UserError


@pytest.fixture
def binned(generator: torch.Generator) -> Reliability:
    log_posterior = (2 * torch.randn(900, 5, generator=generator)).log_softmax(1)
    y = torch.multinomial(log_posterior.exp(), 1, generator=generator)[:, 0]
    return reliability((2 * log_posterior).log_softmax(1), y)


def heights(patches: list[object]) -> list[float]:
    return [patch.get_height() for patch in patches if isinstance(patch, Rectangle)]


def test_bars_are_accuracies_and_shares(binned: Reliability) -> None:
    figure = reliability_figure({"one": binned, "two": binned})
    assert len(figure.axes) == 4
    upper, lower = figure.axes[0], figure.axes[2]
    filled = binned.count > 0
    assert heights(list(upper.patches)) == pytest.approx(binned.accuracy[filled].tolist())
    assert sum(heights(list(lower.patches))) == pytest.approx(1)
    dots = torch.as_tensor(upper.lines[1].get_xydata())
    assert dots[:, 0].tolist() == pytest.approx(binned.confidence[filled].tolist())
    assert upper.get_title().startswith("one\n")
    assert f"{100 * binned.expected_error:.1f} %" in upper.get_title()


@pytest.mark.parametrize("systems", [1, 4])
def test_it_is_written(systems: int, binned: Reliability, tmp_path: Path) -> None:
    figure = reliability_figure({f"system {i}": binned for i in range(systems)})
    save_figure(figure, tmp_path / "reliability.png")
    assert (tmp_path / "reliability.png").stat().st_size > 5000


def test_nothing_is_no_figure() -> None:
    with pytest.raises(UserError, match="one system or more"):
        reliability_figure({})
