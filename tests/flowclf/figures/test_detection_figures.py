"""Histograms and ROC curves show the scores they are given."""

from __future__ import annotations

from math import inf, nan

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch

from flowclf.figures.evaluation import roc_figure, score_histograms
from flowclf.support.errors import UserError


def histograms(figure: Figure) -> list[tuple[np.ndarray, np.ndarray]]:
    patches = [p for p in figure.axes[0].patches if isinstance(p, StepPatch)]
    return [(np.asarray(p.get_data().values), np.asarray(p.get_data().edges)) for p in patches]


def legend(figure: Figure) -> list[str]:
    box = figure.axes[0].get_legend()
    assert box is not None
    return [text.get_text() for text in box.get_texts()]


def test_histograms_are_densities_on_common_bins(generator: torch.Generator) -> None:
    inside = torch.randn(500, generator=generator)
    outside = {"near": inside[:200] + 1, "far": 3 + inside}
    figure = score_histograms(inside, outside, "-log q(x) / d [nats]", "digits")
    found = histograms(figure)
    assert legend(figure) == ["digits", "near", "far"]
    assert len(found) == 3
    for values, edges in found:
        assert np.array_equal(edges, found[0][1])
        assert (values * np.diff(edges)).sum() == pytest.approx(1)
    centres = (found[0][1][1:] + found[0][1][:-1]) / 2
    means = [float((values * centres).sum() / values.sum()) for values, _ in found]
    assert means == pytest.approx([float(s.mean()) for s in (inside, *outside.values())], abs=0.1)


def test_what_lies_far_out_does_not_squash_the_rest(generator: torch.Generator) -> None:
    inside = torch.randn(1000, generator=generator)
    outside = torch.cat((inside, torch.tensor([1e9, inf, -inf])))
    values, edges = histograms(score_histograms(inside, {"x": outside}, "score"))[1]
    assert edges[-1] - edges[0] < 10
    assert (values * np.diff(edges)).sum() == pytest.approx(1)


@pytest.mark.parametrize("value", [0.0, 1e5, inf])
def test_constant_scores(value: float) -> None:
    figure = score_histograms(torch.full((5,), value), {"x": torch.full((5,), value)}, "score")
    assert all(np.isfinite(values).all() for values, _ in histograms(figure))


def test_curves_go_from_corner_to_corner(generator: torch.Generator) -> None:
    inside = torch.randn(200, generator=generator)
    figure = roc_figure(inside, {"apart": inside + 100, "alike": inside}, "typicality")
    chance, apart, alike = [np.asarray(line.get_xydata()) for line in figure.axes[0].lines]
    for line in (chance, apart, alike):
        assert line[0].tolist() == [0, 0]
        assert line[-1].tolist() == [1, 1]
    assert [0, 1] in apart.tolist()
    assert np.allclose(alike[:, 0], alike[:, 1])
    assert legend(figure)[0] == "apart: 1.000 (1.000 to 1.000)"
    assert legend(figure)[1].startswith("alike: 0.500 (0.4")


def test_scores_that_are_no_numbers_are_refused() -> None:
    for draw in (
        lambda s: score_histograms(torch.zeros(2), s, "s"),
        lambda s: roc_figure(s["x"], s),
    ):
        with pytest.raises(UserError, match="NaN"):
            draw({"x": torch.tensor([nan])})
