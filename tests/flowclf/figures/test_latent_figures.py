"""Planes of latent space: of class means, principal components, an image's way, the losses."""

import subprocess
import sys
from itertools import combinations
from math import pi
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn import small_flow, texts, titles
from matplotlib.colors import to_rgb
from matplotlib.patches import Ellipse
from PIL import Image

from flowclf import GenerativeClassifier as Model
from flowclf.data import Split
from flowclf.evaluation.clustering import class_distances, distance_error
from flowclf.figures import (
    latent_figure,
    latent_panels,
    sample_figure,
    save_figure,
    similarity_figure,
)
from flowclf.figures.landscape import landscape_figure, loss_landscape, plane_through
from flowclf.figures.latent import (
    Latents,
    embedded_latents,
    plane_of_means,
    principal_figure,
    principal_plane,
)
from flowclf.figures.style import darken, save_figures
from flowclf.figures.trajectory import image_trajectory, rotation_trajectory, trajectory_figure
from flowclf.support.errors import UserError

NAMES = ("zero", "one", "two")


def test_the_plane_holds_the_means_that_span_it() -> None:
    means = torch.randn(3, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    centre, basis = plane_of_means(means)
    flat = (means - centre) @ basis.T @ basis + centre
    torch.testing.assert_close(flat, means)
    # A single dimension lies on a line.
    centre, basis = plane_of_means(torch.tensor([[1.0], [3.0], [8.0]]))
    assert centre.tolist() == [4.0]
    assert basis.abs().tolist() == [[1.0], [0.0]]


def test_figures_are_written_whole_in_known_formats(tmp_path: Path) -> None:
    z, y = torch.randn(20, 4, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 2
    figure = latent_figure(z, y, torch.eye(4)[:2], torch.ones(2, 4), ["a", "b"])
    for name in ("f.png", "f.svg", "f.pdf"):
        save_figure(figure, tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.pdf", "f.png", "f.svg"]
    with pytest.raises(UserError, match=r"\.png"):
        save_figure(sample_figure(torch.zeros(1, 1, 1, 8, 8), ["a"], 17), tmp_path / "f.gif")


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


@pytest.fixture(scope="module")
def model() -> Model:
    model = small_flow((3, 4, 4), 3)
    split = colours()
    model.fit_statistics(split.x, split.y)
    model.fit_latents(split.x, split.y)
    return model


def colours() -> Split:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(17, (30, 3, 4, 4), generator=generator, dtype=torch.uint8)
    return Split(x, torch.arange(30) % 3)


def spread(*sizes: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(300, len(sizes), generator=generator) * torch.tensor(sizes)


def test_components_are_those_of_the_largest_variance() -> None:
    centre, basis, shares = principal_plane(spread(0.1, 3.0, 1.0) + 5)
    assert centre.shape == (3,)
    torch.testing.assert_close(basis @ basis.T, torch.eye(2).double())
    assert basis.abs().round().tolist() == [[0, 1, 0], [0, 0, 1]]
    assert shares.tolist() == pytest.approx([0.9, 0.1], abs=0.02)
    torch.testing.assert_close(principal_plane(5 - spread(0.1, 3.0, 1.0))[1], basis)


def test_a_single_dimension_has_no_second_component() -> None:
    _, basis, shares = principal_plane(torch.tensor([[1.0], [3.0]]))
    assert basis.tolist() == [[1], [0]]
    assert shares.tolist() == [1, 0]
    for wrong in (torch.zeros(1, 3), torch.zeros(4)):
        with pytest.raises(UserError, match="at least 2 latents"):
            principal_plane(wrong)


def test_contours_hold_their_share_of_the_class() -> None:
    z = torch.cat((spread(3.0, 1.0, 0.1), spread(1.0, 1.0, 0.1) + 9))
    y = torch.arange(2).repeat_interleave(300)
    found = Latents(z, y, torch.zeros(2, 3), torch.ones(2, 3))
    figure = principal_figure({"one": found, "two": found}, NAMES[:2])
    assert titles(figure) == ["one", "two"]
    axes = figure.axes[0]
    assert "of the variance" in axes.get_xlabel()
    assert texts(axes.texts) == ["zero", "one"]
    centre, basis, _ = principal_plane(z)
    points = (z.double() - centre) @ basis.T
    contours = [c for c in axes.collections if len(c.get_paths()) == 2]
    assert len(contours) == 2
    for k, contour in enumerate(contours):
        outer, inner = contour.get_paths()
        own = points[y == k].numpy()
        assert outer.contains_points(own).mean() == pytest.approx(0.9, abs=0.02)
        assert inner.contains_points(own).mean() == pytest.approx(0.5, abs=0.02)


def test_contours_leave_out_what_is_between_two_heaps() -> None:
    z = torch.cat((spread(1.0, 1.0), spread(1.0, 1.0) + torch.tensor([9.0, 0.0])))
    found = Latents(z, torch.zeros(600).long(), torch.zeros(1, 2), torch.ones(1, 2))
    axes = principal_figure({"one": found}, NAMES[:1]).axes[0]
    (contour,) = [c for c in axes.collections if len(c.get_paths()) == 2]
    assert not any(path.contains_point((0, 0)) for path in contour.get_paths())


def test_classes_without_area_have_no_contours() -> None:
    means = torch.eye(3)[:, :2]
    found = Latents(spread(1.0, 1.0)[:4], torch.arange(4) % 3, means, torch.ones(3, 2))
    axes = principal_figure({"a": found}, NAMES).axes[0]
    assert all(len(collection.get_paths()) == 1 for collection in axes.collections)
    with pytest.raises(UserError, match="one system or more"):
        principal_figure({}, NAMES)


def test_names_stand_at_their_crosses_and_the_radius_is_stated() -> None:
    means, std = torch.tensor([[0.0, 0.0], [0.1, 0.0], [9.0, 9.0]]), torch.ones(3, 2)
    figure = latent_figure(means, torch.arange(3), means, std, NAMES)
    assert "two standard deviations" in titles(figure)[0]
    figure.draw_without_rendering()
    axes = figure.axes[0]
    boxes = [text.get_window_extent() for text in axes.texts]
    assert not [(a, b) for a, b in combinations(boxes, 2) if a.overlaps(b)]
    centre, basis = plane_of_means(means)
    crosses = axes.transData.transform(((means - centre) @ basis.T).numpy())
    for box, cross in zip(boxes, crosses, strict=True):
        assert np.hypot(*(np.clip(cross, box.min, box.max) - cross)) < 40


def test_latents_of_a_split_are_those_of_its_labelled_samples(model: Model) -> None:
    split = colours()
    y = split.y.clone()
    y[0] = -1
    found = embedded_latents(model, Split(split.x, y), most=5)
    torch.testing.assert_close(found.z, model.eval().encode(split.x[1:6]).z)
    assert found.y.tolist() == [1, 2, 0, 1, 2]
    assert found.means.shape == found.std.shape == (3, 48)
    assert not found.means.requires_grad


def test_a_rotation_begins_at_the_image_itself(model: Model) -> None:
    x = colours().x[3]
    found = rotation_trajectory(model, x, 17, alphas=(0.0, 0.2, 0.5))
    assert torch.equal(found.images[0], x)
    assert not torch.equal(found.images[1], x)
    assert found.labels == ("α = 0", "α = 0.2", "α = 0.5")
    z = model.eval().encode(found.images).z
    torch.testing.assert_close(found.z, z)
    torch.testing.assert_close(found.latent_nll, -model.mixture.log_prob(z).detach())
    for images in (x[None], torch.stack((x, x))):
        with pytest.raises(UserError, match="at least 2 versions"):
            image_trajectory(model, images, ["a"])
    with pytest.raises(UserError, match="at least 2 versions"):
        rotation_trajectory(model, x, 17, ())


def test_the_path_is_drawn_in_the_plane_with_an_image_a_step(model: Model) -> None:
    split = colours()
    images = torch.cat((split.x[:4], split.x[3:4]))
    found = image_trajectory(model, images, ["a", "b", "c", "d", "e"])
    background = embedded_latents(model, split)
    figure = trajectory_figure(found, background, NAMES, 17)
    axes, *thumbnails = figure.axes
    assert len(thumbnails) == 5
    assert thumbnails[1].images[0].get_array().shape == (4, 4, 3)
    assert thumbnails[1].get_xlabel() == f"b\n{found.latent_nll[1]:.0f} nats"
    numbers = [text for text in axes.texts if text.get_text()]
    # The fourth step is where the last is, so that only the last can be read.
    assert texts(numbers) == ["0", "1", "2", "4"]
    centre, basis = plane_of_means(background.means)
    path = (found.z - centre) @ basis.T
    torch.testing.assert_close(torch.tensor(numbers[1].xy), path[1])
    assert texts(figure.subfigs[0].legends[0].get_texts()) == list(NAMES)


def test_a_plane_holds_the_points_that_span_it() -> None:
    points = torch.randn(3, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    origin, basis = plane_through(*points)
    flat = (points - origin) @ basis.T
    torch.testing.assert_close(flat @ basis + origin, points)
    assert flat[0, 0] < 0 < flat[1, 0]
    assert flat[:2, 1].tolist() == pytest.approx([0, 0])
    assert flat[2, 1] > 0
    with pytest.raises(UserError, match="not on one line"):
        plane_through(points[0], points[1], points[0].lerp(points[1], 0.3))


def test_losses_are_those_of_the_mixture(model: Model) -> None:
    found = loss_landscape(model, 1, 0, NAMES, beta=2.0, points=21)
    assert found.y == "one"
    assert list(found.marks) == ["one", "zero", "two"]
    rate, cross_entropy, own, both = found.losses.values()
    assert rate.shape == (21, 21)
    assert all(float(values.min()) == 0 for values in found.losses.values())
    means = model.mixture.means.detach().double()
    origin, basis = plane_through(means[1], means[0], means[2])
    z = origin + found.across[4] * basis[0] + found.up[17] * basis[1]
    other = origin + found.across[9] * basis[0] + found.up[2] * basis[1]
    with torch.no_grad():
        densities = model.densities(torch.stack((z, other)).float())
    for values, expected in (
        (rate, -densities.log_prob),
        (cross_entropy, -densities.log_posterior[:, 1]),
        (own, -densities.log_prob_given_class[:, 1]),
        (both, -densities.log_prob / 48 - 2 * densities.log_posterior[:, 1]),
    ):
        difference = expected[0] - expected[1]
        assert float(values[17, 4] - values[2, 9]) == pytest.approx(float(difference), abs=1e-3)
    # Least at the class's own mean: ½ r² above it at distance r.
    x, up = found.marks["one"]
    squares = (found.across - x).square() + (found.up[:, None] - up).square()
    torch.testing.assert_close(own - own.min(), (squares - squares.min()) / 2, atol=1e-3, rtol=0)


def test_a_panel_a_loss_with_its_scale(model: Model) -> None:
    plain = landscape_figure(loss_landscape(model, 1, 0, NAMES, points=21))
    panels, bars = plain.axes[:3], plain.axes[3:]
    assert [axes.get_title().split(" = ")[0] for axes in panels] == ["$L_X$", "$L_Y$", "class-NLL"]
    assert [bar.get_ylabel() for bar in bars] == ["nats above the least"] * 3
    assert {text.get_text() for text in panels[0].texts} == set(NAMES)
    four = landscape_figure(loss_landscape(model, 1, 0, NAMES, beta=1.0, points=21))
    assert len(four.axes) == 8
    assert "one" in four.get_suptitle()


def test_a_landscape_needs_two_classes_and_a_third_point_which_may_be_any(model: Model) -> None:
    third = torch.full((48,), pi)
    assert list(loss_landscape(model, 1, 0, NAMES, third, points=5).marks) == ["one", "zero", "z"]
    for y, other in ((1, 1), (0, 3), (-1, 0)):
        with pytest.raises(UserError, match="two classes from 0 to 2"):
            loss_landscape(model, y, other, NAMES)
    with pytest.raises(UserError, match="give third"):
        loss_landscape(small_flow((4,), 2), 0, 1, NAMES)


def test_similarity_shows_the_distances_of_the_means_and_none_to_itself() -> None:
    means, std = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]]), torch.ones(3, 2)
    distances = class_distances(means, std)
    figure = similarity_figure(distances, ["a", "b", "c"])
    (axes, bar) = figure.axes
    shown = axes.images[0].get_array()
    assert shown is not None
    assert np.isnan(np.asarray(shown)).tolist() == np.eye(3).astype(bool).tolist()
    assert shown[0, 1] == pytest.approx(5.0)
    assert texts(axes.texts[:2]) == ["5.0", "1.0"]
    assert texts(axes.get_yticklabels()) == ["a", "b", "c"]
    assert "standard deviations" in bar.get_ylabel()
    assert titles(figure)[0] == "nearest to each other: a and c, 1.0"
    assert axes.images[0].get_clim() == pytest.approx((1, 5))
    many = similarity_figure(torch.rand(20, 20), [str(k) for k in range(20)])
    assert not many.axes[0].texts
    with pytest.raises(UserError, match="3 class names"):
        similarity_figure(distances, ["a", "b"])


def test_differences_within_the_error_look_even_and_are_called_so() -> None:
    distances = 5 + 0.1 * torch.eye(3).roll(1, 0)
    noisy, sure = (similarity_figure(distances, NAMES, error) for error in (0.1, 0.001))
    assert titles(noisy)[0].startswith("no classes are nearer than others")
    assert titles(sure)[0].startswith("nearest to each other")
    low, high = noisy.axes[0].images[0].get_clim()
    assert high - low == pytest.approx(1)
    low, high = sure.axes[0].images[0].get_clim()
    assert high - low == pytest.approx(0.1)
    y = torch.tensor([0, 0, 2, 2, 2, 2])
    assert distance_error(y) == pytest.approx((1 / 2 + 1 / 4) ** 0.5)
    assert distance_error(y[:2]) is None


def test_a_dark_figure_changes_light_for_dark_and_leaves_pictures_alone(tmp_path: Path) -> None:
    figure = similarity_figure(torch.tensor([[0.0, 1.0], [2.0, 0.0]]), ["a", "b"], 0.1)
    axes = figure.axes[0]
    before = axes.images[0].cmap((0.0, 0.5, 1.0))[:, :3].mean(1)
    darken(figure)
    assert max(figure.get_facecolor()[:3]) < 0.2
    assert min(to_rgb(axes.yaxis.label.get_color())) > 0.8
    after = axes.images[0].cmap((0.0, 0.5, 1.0))[:, :3].mean(1)
    assert (np.diff(before) * np.diff(after) < 0).all()

    means, std = torch.eye(10)[:, :4], torch.ones(10, 4)
    latent = latent_figure(means, torch.arange(10), means, std, [str(k) for k in range(10)])
    darken(latent)
    dots = [c.get_facecolors()[0][:3] for c in latent.axes[0].collections]
    assert min(max(color) for color in dots) > 0.5  # all seen on the dark page

    samples = sample_figure(torch.full((1, 1, 1, 8, 8), 16.0), ["a"], 17)
    pixels = np.array(samples.axes[0].images[0].get_array())
    (path,) = save_figures({"samples": samples}, tmp_path)
    assert np.array_equal(samples.axes[0].images[0].get_array(), pixels)
    assert {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.png")} == {
        "samples.png", "dark/samples.png",
    }  # fmt: skip
    with Image.open(path) as light, Image.open(tmp_path / "dark" / "samples.png") as dark:
        assert light.convert("L").getpixel((0, 0)) == 255
        assert dark.convert("L").getpixel((0, 0)) < 50
