"""Images: in grids and blocks, on walks that end where they say, decoded labels."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from drawn import small_flow, texts, titles
from matplotlib.colors import to_rgba

import flowclf
from flowclf import GenerativeClassifier as Model
from flowclf.data import Split, load_dataset
from flowclf.figures import (
    block_figure,
    image_grid,
    reconstructed,
    reconstruction_figure,
    sample_figure,
    temperature_figure,
)
from flowclf.figures.canonical_images import Extracted, extracted_digits, extraction_figure
from flowclf.figures.run import class_samples, run_figures
from flowclf.figures.style import BLUE, RED
from flowclf.figures.walks import (
    FINE,
    FRAME,
    AmbiguousWalk,
    ambiguous_walk,
    ambiguous_walk_figure,
    interpolation_strips,
    mean_walk_figure,
    mean_walks,
    model_interpolation_figure,
    model_interpolations,
    most_ambiguous,
    pair_labels,
)
from flowclf.support.errors import UserError
from flowclf.systems.untapped import Untapped

NAMES = ("zero", "one", "two", "three")
SHAPE = (1, 6, 4)


@pytest.fixture(scope="module")
def digits_flow() -> Model:
    return flowclf.build("ib-inn", shape=(1, 8, 8), classes=10, levels=17, preset="digits").eval()


@pytest.fixture(scope="module")
def test_split() -> Split:
    return load_dataset("digits").test


def test_a_grid_puts_row_column_and_channel_where_they_belong() -> None:
    images = torch.zeros(2, 3, 1, 4, 5)
    images[1, 2, 0, 3, 4] = 255.9  # the last grey level, somewhere within it
    images[0, 0] = 999.0
    grid = image_grid(images, 256)
    assert grid.shape == (2 * 5 - 1, 3 * 6 - 1, 3)
    assert grid[8, 16].tolist() == [1, 1, 1]
    assert grid[7, 16].tolist() == [0, 0, 0]
    assert grid[:4, :5].min() == 1
    assert grid[4].min() == 1  # the gap between the rows
    coloured = torch.zeros(1, 1, 3, 2, 2)
    coloured[0, 0, 2] = 16
    assert image_grid(coloured, 17)[0, 0].tolist() == [0, 0, 1]


def test_interpolations_join_test_images_of_different_classes(
    digits_flow: Model, test_split: Split
) -> None:
    strips = interpolation_strips(digits_flow, test_split, pairs=20, steps=3, seed=0)
    assert strips.shape == (20, 3, 1, 8, 8)
    samples = zip(test_split.x, test_split.y, strict=True)
    known = {tuple(x.flatten().tolist()): int(y) for x, y in samples}
    ends = [[tuple(s[i].floor().long().flatten().tolist()) for i in (0, -1)] for s in strips]
    assert all(known[first] != known[last] for first, last in ends)
    assert len({last for _, last in ends}) == 20
    labels = pair_labels(test_split, 20, 0, [f"c{k}" for k in range(10)])
    assert labels == [f"c{known[first]} → c{known[last]}" for first, last in ends]
    with pytest.raises(UserError, match="at most 225 pairs"):
        interpolation_strips(digits_flow, test_split, pairs=226, steps=3, seed=0)


def test_samples_follow_their_seed_and_a_run_gets_both_figures(
    digits_flow: Model, tmp_path: Path
) -> None:
    one, same, other = (class_samples(digits_flow, 2, 0.7, seed) for seed in (0, 0, 1))
    assert one.shape == (10, 2, 1, 8, 8)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    data = load_dataset("digits")
    paths = run_figures(digits_flow, data.test, data, tmp_path)
    assert [path.name for path in paths] == ["samples.png", "latent.png"]
    assert all(path.stat().st_size > 5000 for path in paths)


def test_a_block_a_temperature_and_a_row_a_class() -> None:
    blocks = {t: torch.full((4, 3, 1, 5, 5), 16 * t) for t in (0.5, 1.0)}
    figure = temperature_figure(blocks, NAMES, 17)
    assert titles(figure) == ["temperature 0.5", "temperature 1"]
    low, high = (axes.images[0].get_array() for axes in figure.axes)
    assert low.shape == high.shape == (4 * 6 - 1, 3 * 6 - 1, 4)
    assert low[0, 0].tolist() == [0.5] * 3 + [1]
    assert high[0, 0].tolist() == [1] * 4
    assert low[5, 0, 3] == low[0, 5, 3] == 0  # between images
    labels = [texts(axes.get_yticklabels()) for axes in figure.axes]
    assert labels == [list(NAMES), []]
    for wrong in ({}, {1.0: torch.zeros(3, 2, 1, 5, 5)}, {1.0: torch.zeros(4, 1, 5, 5)}):
        with pytest.raises(UserError, match="expected"):
            temperature_figure(wrong, NAMES, 17)


def test_blocks_fit_on_a_page_and_a_notebook_shows_figures() -> None:
    figure = sample_figure(torch.zeros(1, 1, 1, 8, 8), ["a"], 17)
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert repr(figure).startswith("<Figure size")
    wide = {name: torch.zeros(1, 20, 1, 8, 8) for name in "abc"}
    assert block_figure(wide, ["row"], 17).get_figwidth() < 8
    assert block_figure(wide, [r"$\tilde{\beta}$"], 17, columns=2).axes[2].get_title() == "c"


@pytest.fixture(scope="module")
def x() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(17, (12, 1, 5, 4), generator=generator, dtype=torch.uint8)


def test_reconstructions_are_what_models_make_of_x(x: torch.Tensor) -> None:
    flow = small_flow((1, 5, 4), 4)
    vae = flowclf.build("vae", shape=(1, 5, 4), classes=4, levels=17, preset="mlp")
    for model in (flow, vae):
        model.fit_statistics(x, torch.arange(12) % 4)
    found = reconstructed({"flow": flow, "vae": vae}, x)
    assert list(found) == ["x", "flow", "vae"]
    assert torch.equal(found["x"], x)
    torch.testing.assert_close(found["flow"], x + 0.5, atol=1e-2, rtol=0)
    assert found["vae"].shape == x.shape
    with pytest.raises(UserError, match="other names than x"):
        reconstructed({"x": flow}, x)


def test_a_block_a_data_set_and_a_row_a_model(x: torch.Tensor) -> None:
    rows = {"x": x[:3], "α = 0.2": x[3:6].float(), "α = 5": x[6:9].float()}
    figure = reconstruction_figure({"test set": rows, "training set": rows}, 17)
    assert titles(figure) == ["test set", "training set"]
    assert figure.axes[1].images[0].get_array().shape == (3 * 6 - 1, 3 * 5 - 1, 4)
    assert texts(figure.axes[0].get_yticklabels()) == list(rows)
    one = {"x": x[:3], "vae": x[:3]}
    others: tuple[Any, ...] = ({"x": x[:3]}, {"x": x[:2], "vae": x[:2]})
    for wrong in ({}, *({"test set": one, "training set": other} for other in others)):
        with pytest.raises(UserError, match="blocks of the same models"):
            reconstruction_figure(wrong, 17)


class Reader:
    """Classifier that predicts digit `digits[i]` for image i."""

    def __init__(self, digits: list[int]) -> None:
        self.digits = digits

    def predict_proba(self, x: np.ndarray) -> np.ndarray:
        p = 0.2 + 0.1 * np.eye(4)[self.digits]
        return p / p.sum(1, keepdims=True)


@pytest.fixture(scope="module")
def untapped() -> Untapped:
    model = flowclf.build("untapped", shape=(1, 5, 4), classes=4, levels=17, preset="mlp")
    assert isinstance(model, Untapped)
    return model


def test_free_labels_get_what_is_left(untapped: Untapped) -> None:
    z = torch.zeros(untapped.settings.latent)
    found = extracted_digits(untapped, z, Reader([0, 2, 3, 2]), known=2)
    assert found.images.shape == (4, 1, 5, 4)
    assert found.assigned.tolist() == [0, 1, 3, 2]
    assert found.read.tolist() == [0, 2, 3, 2]
    turned = extracted_digits(untapped, z, Reader([0, 2, 3, 1]), known=1)
    assert turned.assigned.tolist() == [0, 2, 3, 1]
    labels = torch.cat((torch.eye(4), z.expand(4, -1)), 1)
    torch.testing.assert_close(found.images, untapped.eval().decode(labels).detach())
    with pytest.raises(UserError, match="known classes"):
        extracted_digits(untapped, z, Reader([0] * 4), known=5)


def test_right_ones_are_framed_and_wrong_ones_named() -> None:
    row = Extracted(torch.zeros(4, 1, 5, 4), torch.tensor([0, 1, 3, 2]), torch.tensor([0, 2, 3, 3]))
    figure = extraction_figure({"m2": row, "untapped": row}, NAMES, 17, known=2)
    assert len(figure.axes) == 2
    for axes, name in zip(figure.axes, ("m2", "untapped"), strict=True):
        assert texts(axes.get_yticklabels()) == [name]
        labels = [(t.get_text(), t.get_color()) for t in axes.get_xticklabels()]
        names = [("zero", BLUE), ("one (two)", RED), ("three", BLUE), ("two (three)", RED)]
        assert labels == names
        assert [frame.get_x() for frame in axes.patches] == [-1, 2 * 5 - 1]
        assert all(frame.get_edgecolor() == to_rgba(BLUE) for frame in axes.patches)
        (divider,) = axes.lines
        assert divider.get_xdata()[0] == 2 * 5 - 1
    for rows in ({}, {"m2": row}):
        with pytest.raises(UserError, match="one a class name"):
            extraction_figure(rows, NAMES[:3], 17, known=2)


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
        assert axes.images[0].get_array().shape == (2 * 7 - 1, 4 * 5 - 1, 4)
    labels = [texts(axes.get_yticklabels()) for axes in figure.axes]
    assert labels == [["one", "two"], [], ["one", "two"]]
    for wrong in ({}, {"one": torch.zeros(1, 3, *SHAPE), "two": torch.zeros(1, 4, *SHAPE)}):
        with pytest.raises(UserError, match="strips of one shape"):
            model_interpolation_figure(wrong, 17)


def test_mean_walks_begin_and_end_at_the_means(model: Model) -> None:
    pairs = [(0, 1), (2, 0)]
    walks = mean_walks(model, pairs, steps=3, around="means")
    assert walks.shape == (2, 3, *SHAPE)
    for walk, pair in zip(walks, pairs, strict=True):
        z = model.eval().encode(walk[[0, -1]]).z
        torch.testing.assert_close(z, model.mixture.means[list(pair)], atol=1e-3, rtol=0)
    around_data = mean_walks(model, pairs, steps=3)
    assert not torch.allclose(walks, around_data)
    figure = mean_walk_figure(walks, pairs, NAMES[:3], 17)
    labels = texts(figure.axes[0].get_yticklabels())
    assert labels == ["zero → one", "two → zero"]
    for unknown in ([], [(0, 3)], [(-1, 0)]):
        with pytest.raises(UserError, match="pairs of classes from 0 to 2"):
            mean_walks(model, unknown)
        with pytest.raises(UserError, match="pairs of classes"):
            mean_walk_figure(torch.zeros(1, 2, *SHAPE), unknown, NAMES[:3], 17)


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


def test_a_walk_needs_a_middle_and_two_classes(model: Model) -> None:
    x, odd = images(1)[0], "odd number of steps"
    likeliest = model.eval().log_posterior(x[None])[0].topk(2).indices.tolist()
    assert ambiguous_walk(model, x, steps=3).pair == tuple(sorted(likeliest))
    for pair, steps, message in (((0, 1), 1, odd), ((0, 1), 4, odd), ((1, 1), 9, "lie apart")):
        with pytest.raises(UserError, match=message):
            ambiguous_walk(model, x, pair, steps)


def test_curves_stand_beneath_the_framed_strip() -> None:
    p = torch.linspace(0, 0.9, 2 * FINE + 1)
    walk = AmbiguousWalk(torch.zeros(3, *SHAPE), torch.stack((p, 0.9 - p, 0 * p + 0.1), 1), (1, 0))
    figure = ambiguous_walk_figure([walk, walk], NAMES[:3], 17)
    assert len(figure.axes) == 2
    for strip in figure.axes:
        assert strip.images[0].get_array().shape == (6, 3 * 5 - 1, 4)
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
        ambiguous_walk_figure([], NAMES[:3], 17)
