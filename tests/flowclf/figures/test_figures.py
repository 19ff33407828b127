"""Pictures show what they say: right places, right colours, nothing global touched."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from matplotlib.patches import Ellipse

import flowclf
from flowclf import GenerativeClassifier
from flowclf.data import Split, load_dataset
from flowclf.figures import (
    image_grid,
    latent_figure,
    latent_panels,
    plane_of_means,
    sample_figure,
    save_figure,
)
from flowclf.figures.run import class_samples, run_figures
from flowclf.figures.walks import interpolation_strips
from flowclf.support.errors import UserError


@pytest.fixture(scope="module")
def model() -> GenerativeClassifier:
    return flowclf.build("ib-inn", shape=(1, 8, 8), classes=10, levels=17, preset="digits").eval()


@pytest.fixture(scope="module")
def test_split() -> Split:
    return load_dataset("digits").test


def test_a_grid_puts_row_and_column_where_they_belong() -> None:
    images = torch.zeros(2, 3, 1, 4, 5)
    images[1, 2, 0, 3, 4] = 255.9  # the last grey level, somewhere within it
    images[0, 0] = 999.0
    grid = image_grid(images, 256)
    assert grid.shape == (2 * 5 - 1, 3 * 6 - 1, 3)
    assert grid[8, 16].tolist() == [1, 1, 1]
    assert grid[7, 16].tolist() == [0, 0, 0]
    assert grid[:4, :5].min() == 1
    assert grid[4].min() == 1  # the gap between the rows


def test_a_colour_grid_keeps_its_channels() -> None:
    images = torch.zeros(1, 1, 3, 2, 2)
    images[0, 0, 2] = 16
    assert image_grid(images, 17)[0, 0].tolist() == [0, 0, 1]


def test_the_plane_holds_the_means_that_span_it() -> None:
    means = torch.randn(3, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    centre, basis = plane_of_means(means)
    flat = (means - centre) @ basis.T @ basis + centre
    torch.testing.assert_close(flat, means)


def test_a_single_dimension_lies_on_a_line() -> None:
    centre, basis = plane_of_means(torch.tensor([[1.0], [3.0], [8.0]]))
    assert centre.tolist() == [4.0]
    assert basis.abs().tolist() == [[1.0], [0.0]]


def test_interpolations_join_test_images_of_different_classes(
    model: GenerativeClassifier, test_split: Split
) -> None:
    strips = interpolation_strips(model, test_split, pairs=20, steps=3, seed=0)
    assert strips.shape == (20, 3, 1, 8, 8)
    samples = zip(test_split.x, test_split.y, strict=True)
    known = {tuple(x.flatten().tolist()): int(y) for x, y in samples}
    ends = [[tuple(s[i].floor().long().flatten().tolist()) for i in (0, -1)] for s in strips]
    assert all(known[first] != known[last] for first, last in ends)
    assert len({last for _, last in ends}) == 20
    with pytest.raises(UserError, match="at most 225 pairs"):
        interpolation_strips(model, test_split, pairs=226, steps=3, seed=0)


def test_samples_follow_their_seed(model: GenerativeClassifier) -> None:
    one, same, other = (class_samples(model, 2, 0.7, seed) for seed in (0, 0, 1))
    assert one.shape == (10, 2, 1, 8, 8)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_a_run_on_images_gets_both_figures(model: GenerativeClassifier, tmp_path: Path) -> None:
    data = load_dataset("digits")
    paths = run_figures(model, data.test, data, tmp_path)
    assert [path.name for path in paths] == ["samples.png", "latent.png"]
    assert all(path.stat().st_size > 5000 for path in paths)


def test_figures_are_written_whole_in_known_formats(tmp_path: Path) -> None:
    z, y = torch.randn(20, 4, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 2
    figure = latent_figure(z, y, torch.eye(4)[:2], torch.ones(2, 4), ["a", "b"])
    for name in ("f.png", "f.svg", "f.pdf"):
        save_figure(figure, tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.pdf", "f.png", "f.svg"]
    with pytest.raises(UserError, match=r"\.png"):
        save_figure(sample_figure(torch.zeros(1, 1, 1, 8, 8), ["a"], 17), tmp_path / "f.gif")


def test_a_notebook_shows_them() -> None:
    figure = sample_figure(torch.zeros(1, 1, 1, 8, 8), ["a"], 17)
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert repr(figure).startswith("<Figure size")


def test_a_class_is_an_ellipse_of_two_standard_deviations() -> None:
    means, std = torch.tensor([[0.0, 0.0], [4.0, 0.0]]), torch.tensor([[1.0, 3.0], [2.0, 0.5]])
    panel = ("one", means, torch.arange(2), means, std)
    figure = latent_panels([panel, panel], ["a", "b"])
    assert len(figure.axes) == 2
    for ellipse, (first, second) in zip(figure.axes[0].patches, std.tolist(), strict=True):
        assert isinstance(ellipse, Ellipse)
        corners = sorted((ellipse.get_width(), ellipse.get_height()))
        assert corners == pytest.approx(sorted((4 * first, 4 * second)))
        # The means lie on the first axis, so that the projection keeps both.
        upright = abs(ellipse.angle) % 180 == 0
        width = ellipse.get_width() if upright else ellipse.get_height()
        assert width == pytest.approx(4 * first)


def test_pyplot_is_never_loaded() -> None:
    code = (
        "import sys, torch; from flowclf.figures import *;"
        "means, std = torch.eye(4)[:2], torch.ones(2, 4);"
        "latent_figure(torch.eye(4), torch.arange(4) % 2, means, std, ['a', 'b']);"
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
