"""Explained predictions: images, contributions, the path to the runner-up."""

from itertools import chain, combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from drawn import small_flow, texts
from matplotlib.colors import to_rgba

from flowclf.data import Split
from flowclf.evaluation import predict_split
from flowclf.evaluation.explain import Explanation, explain_rows
from flowclf.figures.explain import explain_figure, explanation_figures
from flowclf.figures.style import BLUE, RED
from flowclf.support.errors import UserError

NAMES = ("zero", "one", "two")
STEPS = 5


def explained(*shape: int, count: int = 3) -> list[Explanation]:
    generator = torch.Generator().manual_seed(0)
    path_posterior = torch.linspace(0.4, 1, STEPS)
    return [
        Explanation(
            x=torch.full(shape, 100.0),
            label=k - 1,
            predicted=1,
            runner_up=2,
            posterior=(0.58, 0.4),
            contributions=torch.randn(shape, generator=generator),
            path=torch.full((STEPS, *shape), 100.0),
            path_posterior=torch.stack((1 - path_posterior, path_posterior), 1),
        )
        for k in range(count)
    ]


def test_a_row_a_prediction() -> None:
    predictions = explained(3, 6, 4)
    figure = explain_figure(predictions, NAMES, 256)
    *panels, bar = figure.axes
    assert len(panels) == 4 * len(predictions)
    assert [axes.get_title() for axes in panels[:4]] == [
        "x", "contributions", "on the way to the runner-up", "posterior",
    ]  # fmt: skip
    assert "nats" in bar.get_xlabel()
    for row, each in zip(range(0, 12, 4), predictions, strict=True):
        image, map_, strip, curves = panels[row : row + 4]
        texts = [(text.get_text(), text.get_color()) for text in image.texts]
        true = "true ?" if each.label < 0 else f"true {NAMES[each.label]}"
        assert texts == [(true, "black"), ("one  0.58", BLUE), ("two  0.40", RED)]
        assert strip.images[0].get_array().shape == (6, 5 * STEPS - 1, 4)
        assert_array(map_.images[0].get_array(), each.contributions.sum(0))
        for line, values in zip(curves.lines, each.path_posterior.T, strict=True):
            assert_array(line.get_ydata(), values)
        assert [line.get_color() for line in curves.lines] == [BLUE, RED]


def assert_array(found: object, expected: torch.Tensor) -> None:
    torch.testing.assert_close(torch.as_tensor(found), expected)


def test_one_scale_for_all_that_is_symmetric_and_takes_what_is_all_zero() -> None:
    predictions = explained(1, 4, 4)
    for values in (predictions[0].contributions * 100, torch.zeros(1, 4, 4)):
        predictions[0].contributions[:] = values
        figure = explain_figure(predictions, NAMES, 256)
        limits = {figure.axes[k].images[0].get_clim() for k in (1, 5, 9)}
        ((low, high),) = limits
        assert high == -low > 0


def test_a_table_has_bars_that_add_up() -> None:
    predictions = explained(9)
    figure = explain_figure(predictions, NAMES, None)
    assert len(figure.axes) == 3
    for axes, each in zip(figure.axes, predictions, strict=True):
        widths = [bar.get_width() for bar in axes.patches]
        assert len(widths) == 7
        assert sum(widths) == pytest.approx(float(each.contributions.sum()), abs=1e-5)
        assert [abs(w) for w in widths[:6]] == sorted((abs(w) for w in widths[:6]), reverse=True)
        for bar in axes.patches:
            assert bar.get_facecolor() == to_rgba(BLUE if bar.get_width() > 0 else RED)
        labels = texts(axes.get_yticklabels())
        assert labels[0].endswith("100 → 100")
        assert labels[-1] == "3 others"
        assert axes.get_title("right") == "one  0.58"
        assert axes.get_title("left") == "two  0.40"


def test_bars_are_called_by_their_features() -> None:
    predictions = explained(9, count=1)
    features = [f"feature {letter}" for letter in "abcdefghi"]
    (axes,) = explain_figure(predictions, NAMES, None, np.array(features)).axes
    largest = int(predictions[0].contributions.abs().argmax())
    assert axes.get_yticklabels()[0].get_text() == f"{features[largest]}:  100 → 100"
    with pytest.raises(UserError, match="expected 9 feature names, one a column, got 8"):
        explain_figure(predictions, NAMES, None, features[1:])


@pytest.mark.parametrize("names", [NAMES, ("benign tumour", "malignant tumour", "x" * 99)])
@pytest.mark.parametrize(("shape", "levels"), [((9,), None), ((1, 8, 4), 256)])
def test_titles_do_not_overlap(names: Any, shape: Any, levels: int | None) -> None:
    figure = explain_figure(explained(*shape), names, levels)
    figure.draw_without_rendering()
    titles = [(axes.title, axes._left_title, axes._right_title) for axes in figure.axes]
    boxes = [box for text in chain(*titles) if (box := text.get_window_extent()).width]
    assert len(boxes) >= 4
    assert not [(a, b) for a, b in combinations(boxes, 2) if a.overlaps(b)]


@pytest.mark.parametrize(("shape", "levels"), [((1, 8, 8), 256), ((5,), None)])
def test_a_file_is_written(tmp_path: Path, shape: tuple[int, ...], levels: int | None) -> None:
    generator = torch.Generator().manual_seed(0)
    x = 100 * torch.rand(24, *shape, generator=generator)
    split = Split(x.to(torch.uint8) if levels else x, torch.arange(24) % 3)
    model = small_flow(shape, 3, levels=levels)
    model.fit_statistics(split.x, split.y)
    rows = explain_rows(model, split, predict_split(model, split).log_posterior, 2)
    (path,) = explanation_figures(model, split, rows, NAMES, levels, tmp_path)
    assert path == tmp_path / "explain.png"
    assert path.stat().st_size > 5000
