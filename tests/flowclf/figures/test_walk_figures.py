"""Walks in latent space end where they say, and their pictures show them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from drawn import small_flow, texts, titles
from matplotlib.colors import to_rgba

import flowclf
from flowclf import GenerativeClassifier as Model
from flowclf.data import Split
from flowclf.figures.walks import (
    FINE,
    FRAME,
    AmbiguousWalk,
    ambiguous_walk,
    ambiguous_walk_figure,
    mean_walk_figure,
    mean_walks,
    model_interpolation_figure,
    model_interpolations,
    most_ambiguous,
)
from flowclf.support.errors import UserError

NAMES = ("zero", "one", "two")
SHAPE = (1, 6, 4)


def small(seed: int = 0) -> Model:
    model = small_flow(SHAPE, 3, seed=seed)
    x, y = images(24), torch.arange(24) % 3
    model.fit_statistics(x, y)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        # Untrained couplings are the identity, and all walks straight in x, too.
        for parameter in model.encoder.network.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    model.fit_latents(x, y)
    return model


def images(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(17, (count, *SHAPE), generator=generator, dtype=torch.uint8)


@pytest.fixture(scope="module")
def model() -> Model:
    return small()


def test_all_models_walk_between_the_same_images(model: Model) -> None:
    test = Split(images(24), torch.arange(24) % 3)
    strips = model_interpolations({"one": model, "other": small(1)}, test, 3, 4, seed=0)
    one, other = strips.values()
    assert one.shape == (3, 4, *SHAPE)
    torch.testing.assert_close(one[:, [0, -1]], other[:, [0, -1]], atol=1e-2, rtol=0)
    assert (one[:, 1] - other[:, 1]).abs().max() > 0.1
    assert model.training


def test_a_block_a_pair_and_a_row_a_model() -> None:
    strips = {name: torch.zeros(3, 4, *SHAPE) for name in ("one", "two")}
    figure = model_interpolation_figure(strips, 17)
    assert titles(figure) == ["pair 1", "pair 2", "pair 3"]
    for axes in figure.axes:
        assert axes.images[0].get_array().shape == (2 * 7 - 1, 4 * 5 - 1, 3)
    labels = [texts(axes.get_yticklabels()) for axes in figure.axes]
    assert labels == [["one", "two"], [], ["one", "two"]]


@pytest.mark.parametrize(
    "strips", [{}, {"one": torch.zeros(1, 3, *SHAPE), "two": torch.zeros(1, 4, *SHAPE)}]
)
def test_strips_of_different_shapes_are_refused(strips: dict[str, torch.Tensor]) -> None:
    with pytest.raises(UserError, match="strips of one shape"):
        model_interpolation_figure(strips, 17)


def test_mean_walks_begin_and_end_at_the_means(model: Model) -> None:
    pairs = [(0, 1), (2, 0)]
    walks = mean_walks(model, pairs, steps=3, around="means")
    assert walks.shape == (2, 3, *SHAPE)
    for walk, pair in zip(walks, pairs, strict=True):
        z = model.eval().encode(walk[[0, -1]]).z
        torch.testing.assert_close(z, model.mixture.means[list(pair)], atol=1e-3, rtol=0)
    around_data = mean_walks(model, pairs, steps=3)
    assert not torch.allclose(walks, around_data)
    figure = mean_walk_figure(walks, pairs, NAMES, 17)
    labels = texts(figure.axes[0].get_yticklabels())
    assert labels == ["zero → one", "two → zero"]


@pytest.mark.parametrize("pairs", [[], [(0, 3)], [(-1, 0)]])
def test_unknown_classes_are_refused(model: Model, pairs: list[tuple[int, int]]) -> None:
    with pytest.raises(UserError, match="pairs of classes from 0 to 2"):
        mean_walks(model, pairs)
    with pytest.raises(UserError, match="pairs of classes"):
        mean_walk_figure(torch.zeros(1, 2, *SHAPE), pairs, NAMES, 17)


def test_the_most_ambiguous_sample_has_two_likely_classes() -> None:
    p = torch.tensor([[0.9, 0.1, 0.0], [0.3, 0.4, 0.3], [0.1, 0.45, 0.45]])
    assert most_ambiguous(p.log(), (0, 1)) == 1
    assert most_ambiguous(p.log(), (1, 2)) == 2


@pytest.mark.parametrize("route", ["parallel", "means"])
def test_the_walk_leads_past_both_averages_through_the_sample(model: Model, route: Any) -> None:
    x = images(5)[4]
    walk = ambiguous_walk(model, x, (2, 0), steps=5, route=route)
    assert walk.images.shape == (5, *SHAPE)
    assert walk.posterior.shape == (4 * FINE + 1, 3)
    torch.testing.assert_close(walk.posterior.sum(1), torch.ones(4 * FINE + 1))
    torch.testing.assert_close(walk.images[2], x + 0.5, atol=1e-2, rtol=0)
    first, second = model.mixture.data_means[[2, 0]]
    start, end = model.eval().encode(walk.images[[0, -1]]).z
    direction = second - first
    slack = 1e-2 * direction.square().sum()
    assert (start - first) @ direction <= slack
    assert (end - second) @ direction >= -slack
    if route == "means":
        torch.testing.assert_close(start, first, atol=1e-2, rtol=0)


def test_without_a_pair_it_is_that_of_the_two_most_probable(model: Model) -> None:
    x = images(1)[0]
    likeliest = model.eval().log_posterior(x[None])[0].topk(2).indices.tolist()
    assert ambiguous_walk(model, x, steps=3).pair == tuple(sorted(likeliest))


def test_a_gallery_stands_in_for_a_decoder() -> None:
    plain = flowclf.build("ce", shape=SHAPE, classes=3, levels=17, preset="mlp")
    x = images(24)
    plain.fit_statistics(x, torch.arange(24) % 3)
    plain.mixture.data_means.copy_(torch.randn_like(plain.mixture.data_means))
    walk = ambiguous_walk(plain, x[7], (0, 1), steps=3, gallery=x[8:])
    assert torch.equal(walk.images[1], x[7])
    known = {tuple(image.flatten().tolist()) for image in x[8:]}
    assert all(tuple(walk.images[k].flatten().tolist()) in known for k in (0, 2))
    with pytest.raises(UserError, match="can decode"):
        ambiguous_walk(plain, x[7], (0, 1))


@pytest.mark.parametrize("steps", [1, 4])
def test_only_odd_walks_have_a_middle(model: Model, steps: int) -> None:
    with pytest.raises(UserError, match="odd number of steps"):
        ambiguous_walk(model, images(1)[0], (0, 1), steps)


def test_a_class_is_no_pair(model: Model) -> None:
    with pytest.raises(UserError, match="lie apart"):
        ambiguous_walk(model, images(1)[0], (1, 1))


def test_curves_stand_beneath_the_framed_strip() -> None:
    p = torch.linspace(0, 0.9, 2 * FINE + 1)
    walk = AmbiguousWalk(torch.zeros(3, *SHAPE), torch.stack((p, 0.9 - p, 0 * p + 0.1), 1), (1, 0))
    figure = ambiguous_walk_figure([walk, walk], NAMES, 17)
    assert len(figure.axes) == 2
    for strip in figure.axes:
        assert strip.images[0].get_array().shape == (6, 3 * 5 - 1, 3)
        (frame,) = strip.patches
        assert frame.get_edgecolor() == to_rgba(FRAME)
        assert frame.get_x() == 5 - 1
        (curves,) = strip.child_axes
        assert texts(curves.get_legend().get_texts()) == ["one", "zero", "others"]
        first, second, others, _ = curves.lines
        assert list(first.get_ydata()) == pytest.approx((0.9 - p).tolist())
        assert list(second.get_ydata()) == pytest.approx(p.tolist())
        assert list(others.get_ydata()) == pytest.approx([0.1] * len(p), abs=1e-6)
        assert first.get_xdata()[0] == 0.5
        assert first.get_xdata()[-1] == 2.5
    with pytest.raises(UserError, match="one walk or more"):
        ambiguous_walk_figure([], NAMES, 17)
