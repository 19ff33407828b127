"""Augmentation: whole grey levels in, whole grey levels out, all chance from one generator."""

import pytest
import torch

from flowclf.data.augment import KINDS, Augmentation, make_augmentation
from flowclf.support.errors import UserError

SHAPE = (3, 32, 32)
RANDOM_KINDS = [kind for kind in KINDS if kind != "none"]


def _made(kind: str, shape: tuple[int, ...] = SHAPE, levels: int = 256) -> Augmentation:
    made = make_augmentation(kind, shape, levels)
    assert made
    return made


def _images(count: int = 16, shape: tuple[int, ...] = SHAPE) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, *shape), generator=generator, dtype=torch.uint8)


def _run(kind: str, x: torch.Tensor, seed: int = 1) -> torch.Tensor:
    return _made(kind, tuple(x.shape[1:]))(x, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", RANDOM_KINDS)
@pytest.mark.usefixtures("_global_rng_untouched")
def test_shape_range_and_chance(kind: str) -> None:
    x = _images()
    before = x.clone()
    out = _run(kind, x)
    assert (out.shape, out.dtype) == (x.shape, torch.float32)
    assert torch.equal(out, out.round())
    assert out.min() >= 0
    assert out.max() <= 255
    assert torch.equal(x, before)
    assert torch.equal(out, _run(kind, x))
    assert torch.equal(out, _run(kind, x.float()))
    assert not torch.equal(out, _run(kind, x, seed=2))


@pytest.mark.parametrize("kind", RANDOM_KINDS)
def test_each_sample_has_its_own_change(kind: str) -> None:
    out = _run(kind, _images(1).expand(64, *SHAPE))
    assert len({tuple(sample.flatten().tolist()) for sample in out}) > 4


@pytest.mark.parametrize("kind", [kind for kind in RANDOM_KINDS if kind != "rotate"])
def test_a_constant_image_stays_constant(kind: str) -> None:
    """No black corners or borders come in."""
    out = _run(kind, torch.full((32, *SHAPE), 100, dtype=torch.uint8))
    assert torch.equal(out.amin((1, 2, 3)), out.amax((1, 2, 3)))


def test_shift_moves_by_one_pixel_at_most_and_pads_with_the_edge() -> None:
    x = torch.arange(9.0).reshape(1, 1, 3, 3).expand(200, 1, 3, 3)
    seen = {tuple(sample.flatten().tolist()) for sample in _run("shift", x)}
    assert len(seen) == 9
    assert tuple(range(9)) in seen
    assert (0, 0, 1, 0, 0, 1, 3, 3, 4) in seen


def test_flip_crop_mirrors_half_of_the_samples() -> None:
    ramp = torch.arange(32.0).expand(400, 3, 32, 32)
    out = _run("flip-crop", ramp)
    falling = (out[:, 0, 0, 0] > out[:, 0, 0, -1]).float().mean()
    assert 0.4 < falling < 0.6
    assert len(out[:, 0, 0, 16].unique()) == 10


def test_rotate_turns_by_any_angle() -> None:
    """A pixel right of the centre gets to all four sides of it."""
    x = torch.zeros(400, 1, 9, 9)
    x[:, :, 4, 7] = 255
    out = _run("rotate", x)[:, 0]
    sides = (out[:, 3:6, 6:], out[:, 3:6, :3], out[:, 6:, 3:6], out[:, :3, 3:6])
    for side in sides:
        assert 0.1 < (side.sum((1, 2)) > 128).float().mean() < 0.4


def test_paper_cifar_jitters_within_its_bounds() -> None:
    grey = torch.full((500, *SHAPE), 100, dtype=torch.uint8)
    levels = _run("paper-cifar", grey)[:, 0, 0, 0]
    assert 90 <= levels.min() < 93
    assert 107 < levels.max() <= 110


def test_paper_cifar_turns_by_twelve_degrees_at_most() -> None:
    """A pixel 10 away from the centre moves by at most 10·2·sin 6° and 2 for the crop."""
    x = torch.zeros(300, 3, 32, 32)
    x[:, :, 15:17, 25:27] = 255
    out = _run("paper-cifar", x)[:, 0]
    rows = torch.arange(32.0)[:, None]
    centre = (out * rows).sum((1, 2)) / out.sum((1, 2))
    assert 2.5 < (centre - 15.5).abs().max() <= 2.1 + 2 + 0.75


def test_seventeen_levels() -> None:
    x = torch.full((50, *SHAPE), 16, dtype=torch.uint8)
    assert _made("paper-cifar", levels=17)(x, torch.Generator().manual_seed(0)).max() == 16


def test_small_images_can_be_cropped() -> None:
    assert _run("flip-crop", _images(4, (1, 3, 2))).shape == (4, 1, 3, 2)


def test_none_is_none() -> None:
    assert make_augmentation("none", (7,), None) is None


@pytest.mark.parametrize(
    ("kind", "shape", "levels", "message"),
    [
        ("mirror", SHAPE, 256, "out of none, shift, flip-crop, rotate, paper-cifar, got 'mirror'"),
        ("shift", (7,), None, r"expected images .*got rows of \(7,\)"),
        ("paper-cifar", (1, 28, 28), 256, "expected RGB images .*got 1 channels"),
    ],
)
def test_mistakes_are_named(
    kind: str, shape: tuple[int, ...], levels: int | None, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        make_augmentation(kind, shape, levels)


def test_only_paper_cifar_needs_kornia(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowclf.data.augment.find_spec", lambda name: None)
    assert make_augmentation("flip-crop", (3, 32, 32), 256) is not None
    with pytest.raises(UserError, match=r"pip install 'flowclf\[augment\]'"):
        make_augmentation("paper-cifar", (3, 32, 32), 256)
