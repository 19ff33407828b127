"""Binary images: two grey levels, white as often as a pixel is bright."""

import pytest
import torch

from flowclf.data.augment import make_augmentation
from flowclf.data.binarize import Binarization, binarize, draw_binary, ending_binary, threshold
from flowclf.support.errors import UserError

N = 4000


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _every_level(levels: int) -> torch.Tensor:
    """Images (N, 1, 1, levels), each of all levels."""
    return torch.arange(levels, dtype=torch.uint8).expand(N, 1, 1, levels)


@pytest.mark.parametrize(("levels", "first_white"), [(256, 128), (17, 9)])
def test_the_threshold_is_at_half_of_the_levels(levels: int, first_white: int) -> None:
    out = threshold(_every_level(levels), levels)
    assert out.dtype == torch.uint8
    assert out[0].flatten().tolist() == [
        levels - 1 if level >= first_white else 0 for level in range(levels)
    ]
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
