"""Blocks of images: samples at several temperatures, reconstructions, decoded labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from drawn import small_flow, texts, titles
from matplotlib.colors import to_rgba

import flowclf
from flowclf.figures import block_figure, reconstructed, reconstruction_figure, temperature_figure
from flowclf.figures.extraction import Extracted, extracted_digits, extraction_figure
from flowclf.figures.style import BLUE, RED
from flowclf.support.errors import UserError
from flowclf.systems.untapped import Untapped

NAMES = ("zero", "one", "two", "three")


def test_a_block_a_temperature_and_a_row_a_class() -> None:
    blocks = {t: torch.full((4, 3, 1, 5, 5), 16 * t) for t in (0.5, 1.0)}
    figure = temperature_figure(blocks, NAMES, 17)
    assert titles(figure) == ["temperature 0.5", "temperature 1"]
    low, high = (axes.images[0].get_array() for axes in figure.axes)
    assert low.shape == high.shape == (4 * 6 - 1, 3 * 6 - 1, 3)
    assert low[0, 0].tolist() == [0.5] * 3
    assert high[0, 0].tolist() == [1] * 3
    labels = [texts(axes.get_yticklabels()) for axes in figure.axes]
    assert labels == [list(NAMES), []]


def test_blocks_fit_on_a_page() -> None:
    wide = {name: torch.zeros(1, 20, 1, 8, 8) for name in "abc"}
    assert block_figure(wide, ["row"], 17).get_figwidth() < 8
    assert block_figure(wide, [r"$\tilde{\beta}$"], 17, columns=2).axes[2].get_title() == "c"


@pytest.mark.parametrize("shape", [None, (3, 2, 1, 5, 5), (4, 1, 5, 5)])
def test_blocks_without_rows_for_the_labels_are_refused(shape: tuple[int, ...] | None) -> None:
    with pytest.raises(UserError, match="expected"):
        temperature_figure({1.0: torch.zeros(shape)} if shape else {}, NAMES, 17)


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
    assert figure.axes[1].images[0].get_array().shape == (3 * 6 - 1, 3 * 5 - 1, 3)
    assert texts(figure.axes[0].get_yticklabels()) == list(rows)


def test_blocks_of_different_models_are_refused(x: torch.Tensor) -> None:
    one = {"x": x[:3], "vae": x[:3]}
    for other in ({"x": x[:3]}, {"x": x[:2], "vae": x[:2]}):
        with pytest.raises(UserError, match="blocks of the same models"):
            reconstruction_figure({"test set": one, "training set": other}, 17)
    with pytest.raises(UserError, match="blocks of the same models"):
        reconstruction_figure({}, 17)


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
