"""Rotation: exact by right angles, about the centre, black outside."""

import pytest
import torch

from flowclf.data.rotate import random_angles, rotated


def _images(height: int, width: int, count: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, 2, height, width), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("size", [7, 8, 28])
@pytest.mark.parametrize("turns", [0, 1, 2, 3, 4, -1])
def test_right_angles_are_exact(size: int, turns: int) -> None:
    x = _images(size, size)
    out = rotated(x, torch.full((len(x),), 90.0 * turns))
    assert torch.equal(out, torch.rot90(x, turns, (2, 3)).float())


def test_each_image_has_its_own_angle() -> None:
    x = _images(8, 8, count=3)
    out = rotated(x, torch.tensor([0.0, 90.0, 180.0]))
    for turns, (image, before) in enumerate(zip(out, x, strict=True)):
        assert torch.equal(image, torch.rot90(before, turns, (1, 2)).float())


def test_an_oblong_image_is_not_distorted() -> None:
    x = torch.zeros(1, 1, 5, 9)
    x[0, 0, 2, 6] = 200
    out = rotated(x, torch.tensor([90.0]))
    assert out[0, 0, 0, 4] == out.sum() == 200
    x = _images(5, 8)
    assert torch.equal(rotated(x, torch.full((5,), 180.0)), torch.rot90(x, 2, (2, 3)).float())


def test_grey_levels_stay_whole_and_corners_turn_black() -> None:
    out = rotated(torch.full((1, 1, 20, 20), 255, dtype=torch.uint8), torch.tensor([45.0]))
    assert (out.dtype, float(out.min()), float(out.max())) == (torch.float32, 0, 255)
    assert torch.equal(out, out.round())
    assert out[0, 0, 0, 0] == 0
    assert torch.equal(out[0, 0, 6:14, 6:14], torch.full((8, 8), 255.0))


@pytest.mark.usefixtures("_global_rng_untouched")
def test_angles_are_uniform_and_the_generators() -> None:
    angles = random_angles(20_000, torch.Generator().manual_seed(0))
    assert 0 <= angles.min() < angles.max() < 360
    counts = torch.histc(angles, 12, 0, 360)
    # 1667 each, 5 standard deviations of 39.
    assert (counts - 20_000 / 12).abs().max() < 195
    assert torch.equal(angles, random_angles(20_000, torch.Generator().manual_seed(0)))
