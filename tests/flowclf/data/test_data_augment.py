"""Images changed at random: augmentation, rotation, and binary images; all chance is seeded."""

import pytest
import torch

from flowclf.data.augment import KINDS, Augmentation, make_augmentation
from flowclf.data.binarize import Binarization, binarize, draw_binary, ending_binary, threshold
from flowclf.data.rotate import random_angles, rotated
from flowclf.support.errors import UserError

SHAPE = (3, 32, 32)
RANDOM_KINDS = [kind for kind in KINDS if kind != "none"]
N = 4000


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _made(kind: str, shape: tuple[int, ...] = SHAPE, levels: int = 256) -> Augmentation:
    made = make_augmentation(kind, shape, levels)
    assert made
    return made


def _images(count: int = 16, shape: tuple[int, ...] = SHAPE) -> torch.Tensor:
    return torch.randint(256, (count, *shape), generator=_generator(), dtype=torch.uint8)


def _run(kind: str, x: torch.Tensor, seed: int = 1) -> torch.Tensor:
    return _made(kind, tuple(x.shape[1:]))(x, _generator(seed))


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
    found = len({tuple(sample.flatten().tolist()) for sample in out})
    assert found == 2 if kind == "flip" else found > 4


@pytest.mark.usefixtures("_global_rng_untouched")
def test_a_veil_covers_its_share_with_smooth_grey_of_less_contrast() -> None:
    x = _images(2000, (3, 16, 16))
    shift, veiled = (make_augmentation("shift", x.shape[1:], 256, veil) for veil in (0.0, 0.3))
    assert shift
    assert veiled
    plain, out = (augment(x, _generator(1)) for augment in (shift, veiled))
    assert torch.equal(out, veiled(x, _generator(1)))
    assert torch.equal(out, out.round())
    changed = (out != plain).flatten(1).any(1)
    assert abs(float(changed.double().mean()) - 0.3) < 0.04
    # Of the noise that the images are, what stays is the contrast; what is added is smooth.
    rest, noise = ((v - v.mean(1, keepdim=True))[changed] for v in (out, plain))
    contrast = (rest * noise).sum((1, 2, 3)) / noise.square().sum((1, 2, 3))
    assert 0.24 < float(contrast.min()) < 0.3
    assert 0.95 < float(contrast.max()) < 1.01
    veil = out[changed] - contrast[:, None, None, None] * plain[changed]
    assert float(veil.diff(dim=3).abs().mean()) < 0.1 * float(plain.diff(dim=3).abs().mean())
    with pytest.raises(UserError, match=r"expected images for the augmentation data.veil, got"):
        make_augmentation("none", (3,), None, 0.5)


@pytest.mark.parametrize("kind", [kind for kind in RANDOM_KINDS if kind not in ("rotate", "warp")])
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


def test_flip_mirrors_half_of_the_samples() -> None:
    ramp = torch.arange(32.0).expand(400, 3, 32, 32)
    out = _run("flip", ramp)
    mirrored = (out == ramp.flip(-1)).flatten(1).all(1)
    assert torch.equal(out[~mirrored], ramp[~mirrored])
    assert 0.4 < mirrored.float().mean() < 0.6


@pytest.mark.parametrize(("kind", "positions"), [("flip-crop", 9), ("flip-crop-2", 5)])
def test_flip_crop_mirrors_half_of_the_samples(kind: str, positions: int) -> None:
    ramp = torch.arange(32.0).expand(400, 3, 32, 32)
    out = _run(kind, ramp)
    falling = (out[:, 0, 0, 0] > out[:, 0, 0, -1]).float().mean()
    assert 0.4 < falling < 0.6
    assert len(out[:, 0, 0, 16].unique()) == positions + 1  # mirrored: one lower


def test_rotate_turns_by_any_angle() -> None:
    """A pixel right of the centre gets to all four sides of it."""
    x = torch.zeros(400, 1, 9, 9)
    x[:, :, 4, 7] = 255
    out = _run("rotate", x)[:, 0]
    sides = (out[:, 3:6, 6:], out[:, 3:6, :3], out[:, 6:, 3:6], out[:, :3, 3:6])
    for side in sides:
        assert 0.1 < (side.sum((1, 2)) > 128).float().mean() < 0.4


def test_warp_stays_near_the_identity() -> None:
    """A pixel 8 away moves by 8·0.5 and a fourteenth of the side at most, on average by 0."""
    x = torch.zeros(1000, 1, 28, 28)
    x[:, :, 13:15, 21:23] = 255
    out = _run("warp", x)[:, 0]
    axis = torch.arange(28.0)
    mass = out.sum((1, 2))
    right, down = (out.sum(1) * axis).sum(1) / mass, (out.sum(2) * axis).sum(1) / mass
    assert 3 < (right - 21.5).abs().max() < 8 * 0.35 + 2.6
    assert 3 < (down - 13.5).abs().max() < 8 * 0.5 + 2.6
    assert (right.mean() - 21.5).abs() < 0.6
    assert (down.mean() - 13.5).abs() < 0.3


def test_paper_cifar_turns_by_twelve_degrees_at_most() -> None:
    """A pixel 10 away from the centre moves by at most 10·2·sin 6° and 2 for the crop."""
    x = torch.zeros(300, 3, 32, 32)
    x[:, :, 15:17, 25:27] = 255
    out = _run("paper-cifar", x)[:, 0]
    rows = torch.arange(32.0)[:, None]
    centre = (out * rows).sum((1, 2)) / out.sum((1, 2))
    assert 2.5 < (centre - 15.5).abs().max() <= 2.1 + 2 + 0.75


def test_paper_cifar_jitters_within_its_bounds_and_seventeen_levels() -> None:
    grey = torch.full((500, *SHAPE), 100, dtype=torch.uint8)
    levels = _run("paper-cifar", grey)[:, 0, 0, 0]
    assert 90 <= levels.min() < 93
    assert 107 < levels.max() <= 110
    x = torch.full((50, *SHAPE), 16, dtype=torch.uint8)
    assert _made("paper-cifar", levels=17)(x, _generator()).max() == 16


def test_small_images_can_be_cropped() -> None:
    assert _run("flip-crop", _images(4, (1, 3, 2))).shape == (4, 1, 3, 2)


def test_none_is_none() -> None:
    assert make_augmentation("none", (7,), None) is None


@pytest.mark.parametrize(
    ("kind", "shape", "levels", "message"),
    [
        (
            "mirror",
            SHAPE,
            256,
            "out of none, flip, shift, warp, flip-crop, flip-crop-2, rotate, paper-cifar, "
            "got 'mirror'",
        ),
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


# Rotation.


@pytest.mark.parametrize("size", [7, 8, 28])
@pytest.mark.parametrize("turns", [0, 1, 2, 3, 4, -1])
def test_right_angles_are_exact(size: int, turns: int) -> None:
    x = _images(5, (2, size, size))
    out = rotated(x, torch.full((len(x),), 90.0 * turns))
    assert torch.equal(out, torch.rot90(x, turns, (2, 3)).float())


def test_each_image_has_its_own_angle() -> None:
    x = _images(3, (2, 8, 8))
    out = rotated(x, torch.tensor([0.0, 90.0, 180.0]))
    for turns, (image, before) in enumerate(zip(out, x, strict=True)):
        assert torch.equal(image, torch.rot90(before, turns, (1, 2)).float())


def test_an_oblong_image_is_not_distorted() -> None:
    x = torch.zeros(1, 1, 5, 9)
    x[0, 0, 2, 6] = 200
    out = rotated(x, torch.tensor([90.0]))
    assert out[0, 0, 0, 4] == out.sum() == 200
    x = _images(5, (2, 5, 8))
    assert torch.equal(rotated(x, torch.full((5,), 180.0)), torch.rot90(x, 2, (2, 3)).float())


def test_grey_levels_stay_whole_and_corners_turn_black() -> None:
    out = rotated(torch.full((1, 1, 20, 20), 255, dtype=torch.uint8), torch.tensor([45.0]))
    assert (out.dtype, float(out.min()), float(out.max())) == (torch.float32, 0, 255)
    assert torch.equal(out, out.round())
    assert out[0, 0, 0, 0] == 0
    assert torch.equal(out[0, 0, 6:14, 6:14], torch.full((8, 8), 255.0))


@pytest.mark.usefixtures("_global_rng_untouched")
def test_angles_are_uniform_and_the_generators() -> None:
    angles = random_angles(20_000, _generator())
    assert 0 <= angles.min() < angles.max() < 360
    counts = torch.histc(angles, 12, 0, 360)
    # 1667 each, 5 standard deviations of 39.
    assert (counts - 20_000 / 12).abs().max() < 195
    assert torch.equal(angles, random_angles(20_000, _generator()))


# Binary images.


def _every_level(levels: int) -> torch.Tensor:
    """Images (N, 1, 1, levels), each of all levels."""
    return torch.arange(levels, dtype=torch.uint8).expand(N, 1, 1, levels)


@pytest.mark.parametrize(("levels", "first_white"), [(256, 128), (17, 9)])
def test_the_threshold_is_at_half_of_the_levels(levels: int, first_white: int) -> None:
    out = threshold(_every_level(levels), levels)
    assert out.dtype == torch.uint8
    white = [levels - 1 if level >= first_white else 0 for level in range(levels)]
    assert out[0].flatten().tolist() == white
    assert torch.equal(threshold(out, levels), out)


@pytest.mark.parametrize("levels", [256, 17])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.usefixtures("_global_rng_untouched")
def test_pixels_are_white_as_often_as_they_are_bright(levels: int, dtype: torch.dtype) -> None:
    x = _every_level(levels).to(dtype)
    out = draw_binary(x, levels, _generator())
    assert (out.dtype, out.shape) == (dtype, x.shape)
    assert set(out.unique().tolist()) == {0, levels - 1}
    frequency = (out > 0).double().mean((0, 1, 2))
    wanted = torch.arange(levels) / (levels - 1)
    # Five standard deviations.
    assert bool(((frequency - wanted).abs() <= 5 * (wanted * (1 - wanted) / N).sqrt()).all())
    assert frequency[[0, -1]].tolist() == [0, 1]


def test_neighbours_are_drawn_independently() -> None:
    out = draw_binary(torch.full((N, 1, 1, 2), 8), 17, _generator()).double() / 16
    both = out.prod(3).mean()
    assert abs(float(both) - 0.25) < 5 * (0.25 * 0.75 / N) ** 0.5


@pytest.mark.parametrize("kind", ["sampled", "resampled"])
def test_a_drawn_copy_is_the_seeds(kind: Binarization) -> None:
    x = _every_level(17)
    one, again, other = (binarize(x, kind, 17, _generator(s)) for s in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_none_is_the_image_itself() -> None:
    x = _every_level(17)
    assert binarize(x, "none", 17, _generator()) is x
    assert binarize(x[:0], "sampled", 17, _generator()).shape == (0, 1, 1, 17)


def test_tables_are_refused() -> None:
    with pytest.raises(UserError, match=r"images for data.binarize=sampled, got rows of \(3,\)"):
        binarize(torch.zeros(2, 3), "sampled", None, _generator())


def test_what_ends_binary() -> None:
    shift = make_augmentation("shift", (1, 8, 8), 17)
    assert ending_binary(shift, "none", 17) is shift
    assert ending_binary(None, "sampled", 17) is None
    assert ending_binary(None, "threshold", 17) is None


@pytest.mark.parametrize("kind", ["threshold", "sampled", "resampled"])
@pytest.mark.parametrize("augmentation", ["shift", "rotate"])
def test_augmented_images_are_binary_again(kind: Binarization, augmentation: str) -> None:
    before = torch.randint(17, (50, 1, 8, 8), generator=_generator(), dtype=torch.uint8)
    x = before if kind == "resampled" else threshold(before, 17)
    augment = make_augmentation(augmentation, (1, 8, 8), 17)
    changed = ending_binary(augment, kind, 17)
    assert augment
    assert changed
    out = changed(x, _generator(1))
    assert set(out.unique().tolist()) == {0, 16}
    plain = augment(x, _generator(1))
    # The same change, whatever is drawn after it.
    assert bool((out[plain == 16] == 16).all())
    assert bool((out[plain == 0] == 0).all())


def test_resampling_alone_draws_from_the_grey_levels() -> None:
    x = _every_level(17)
    changed = ending_binary(None, "resampled", 17)
    assert changed
    assert torch.equal(changed(x, _generator(1)), draw_binary(x, 17, _generator(1)))
