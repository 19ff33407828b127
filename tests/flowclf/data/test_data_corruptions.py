"""Corruptions: deterministic, whole grey levels, stronger with severity, each what it says."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from flowclf.data import load_dataset
from flowclf.data.corruptions import (
    CORRUPTIONS,
    OFFICIAL,
    SEVERITIES,
    corrupt,
    find_official,
    load_official,
)
from flowclf.support.errors import UserError

pytestmark = pytest.mark.usefixtures("_global_rng_untouched")

FAMILIES = pytest.mark.parametrize("family", CORRUPTIONS)


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Smooth blobs with edges, bright and dark: (60, 3, 32, 32)."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(60, 3, 6, 6, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (32, 32), mode="bicubic").clamp(0, 1)
    smooth[:, :, 10:22, 10:22] *= 0.3
    return (200 * smooth).to(torch.uint8)


@pytest.fixture(scope="module")
def digits() -> Tensor:
    return load_dataset("digits").test.x[:200]


def change(x: Tensor, *arguments: object) -> float:
    return float((corrupt(x, *arguments).float() - x.float()).abs().mean())  # type: ignore[arg-type]


@FAMILIES
def test_the_change_grows_with_severity(family: str, images: Tensor, digits: Tensor) -> None:
    grey = images.float().mean(1, keepdim=True).to(torch.uint8)[:, :, :28, :28]
    cases: list[tuple[Tensor, int]] = [(images, 256), (grey, 256), (digits, 17)]
    for x, levels in cases:
        changes = [change(x, family, severity, 0, levels) for severity in SEVERITIES]
        if x is digits:  # 8x8 pixels cannot show every small step
            assert changes[0] < changes[4]
        else:
            assert changes == sorted(set(changes))
            assert changes[0] > 0.2
            assert changes[4] < 105


@FAMILIES
def test_the_seed_decides_and_only_it(family: str, images: Tensor) -> None:
    before = images.clone()
    first, again = corrupt(images, family, 3, 0), corrupt(images, family, 3, 0)
    assert torch.equal(first, again)
    assert torch.equal(images, before)
    drawn = not torch.equal(first, corrupt(images, family, 3, 1))
    fixed = {
        "defocus_blur", "zoom_blur", "gaussian_blur", "brightness", "contrast", "pixelate",
        "jpeg_compression",
    }  # fmt: skip
    assert drawn == (family not in fixed)


@FAMILIES
def test_levels_are_whole_and_in_range_and_sizes_any(family: str, digits: Tensor) -> None:
    out = corrupt(digits, family, 5, 0, levels=17)
    assert out.dtype == torch.uint8
    assert out.shape == digits.shape
    assert int(out.max()) <= 16
    x = torch.full((2, 3, 20, 45), 90, dtype=torch.uint8)
    assert corrupt(x, family, 4, 0).shape == x.shape
    assert corrupt(x[:0], family, 4, 0).shape == (0, 3, 20, 45)


@pytest.mark.parametrize("family", ["fog", "motion_blur", "contrast"])
def test_an_image_does_not_depend_on_those_after_it(family: str, images: Tensor) -> None:
    many = images.repeat(10, 1, 1, 1)  # more than are worked on at a time
    assert torch.equal(corrupt(many, family, 2, 0)[500:], corrupt(many, family, 2, 0)[500:600])
    assert torch.equal(corrupt(many, family, 2, 0)[:500], corrupt(many[:500], family, 2, 0))


@pytest.mark.parametrize(
    "family", ["gaussian_blur", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur",
               "elastic_transform", "pixelate", "contrast", "jpeg_compression"]
)  # fmt: skip
def test_what_only_moves_values_leaves_a_flat_image_alone(family: str) -> None:
    flat = torch.full((3, 1, 32, 32), 77, dtype=torch.uint8)
    assert (corrupt(flat, family, 5, 0).int() - 77).abs().max() <= 1


def test_each_is_what_it_says(images: Tensor) -> None:
    flat = torch.full((50, 3, 32, 32), 128, dtype=torch.uint8)
    noise = corrupt(flat, "gaussian_noise", 1, 0).float()
    assert noise.std().item() == pytest.approx(0.04 * 255, rel=0.02)
    salt = corrupt(flat, "impulse_noise", 5, 0)
    assert (salt == 0).float().mean().item() == pytest.approx(0.09, rel=0.05)
    assert (salt == 255).float().mean().item() == pytest.approx(0.09, rel=0.05)
    shot = corrupt(flat, "shot_noise", 3, 0).float() / 255
    assert shot.var().item() == pytest.approx(128 / 255 / 55, rel=0.05)
    blocks = corrupt(images, "pixelate", 5, 0)
    assert len(blocks[0, 0].unique(dim=0)) == round(0.3 * 32)
    low = corrupt(images, "contrast", 5, 0).float()
    assert low.std((2, 3)).mean() < 0.2 * images.float().std((2, 3)).mean()
    torch.testing.assert_close(low.mean((2, 3)), images.float().mean((2, 3)), atol=0.5, rtol=0.0)
    bright = corrupt(images, "brightness", 3, 0).float().mean()
    assert 30 < bright - images.float().mean() < 70


def test_mistakes_are_refused(images: Tensor) -> None:
    with pytest.raises(UserError, match="a corruption out of gaussian_noise, .*, got 'frost'"):
        corrupt(images, "frost", 1, 0)
    for severity in (0, 6):
        with pytest.raises(UserError, match=f"severity from 1 to 5, got {severity}"):
            corrupt(images, "fog", severity, 0)
    for wrong in (images.float(), images[0], images[:, :2]):
        with pytest.raises(UserError, match="expected grey or RGB images"):
            corrupt(wrong, "fog", 1, 0)


# The official files.


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the official shape; a row's values are its severity and its place."""
    folder = tmp_path_factory.mktemp("data") / "CIFAR-10-C"
    folder.mkdir()
    file, shape = folder / "frost.npy", (50_000, 32, 32, 3)
    images = np.lib.format.open_memmap(file, "w+", np.dtype(np.uint8), shape)
    for severity in SEVERITIES:
        images[10_000 * (severity - 1), 0, 1] = (severity, 10, 20)
        images[10_000 * severity - 1, 31, 31] = severity
    images.flush()
    np.save(folder / "labels.npy", np.tile(np.arange(10_000) % 10, 5).astype(np.uint8))
    return folder


def test_official_files_are_read_by_severity(official: Path) -> None:
    for severity in (1, 5):
        split = load_official(official, "frost", severity)
        assert split.x.shape == (10_000, 3, 32, 32)
        assert split.x.dtype == torch.uint8
        assert split.x[0, :, 0, 1].tolist() == [severity, 10, 20]
        assert split.x[-1, :, 31, 31].tolist() == [severity] * 3
        assert split.y.dtype == torch.int64
        assert split.y[:12].tolist() == [*range(10), 0, 1]
    assert len(load_official(official.parent, "frost", 2)) == 10_000


def test_the_official_folder_is_that_of_the_data(official: Path, tmp_path: Path) -> None:
    assert set(CORRUPTIONS) < set(OFFICIAL)
    assert len(OFFICIAL) == 19
    roots = [tmp_path, official.parent]
    assert find_official("cifar10", roots) == official
    assert find_official("cifar100", roots) is None
    assert find_official("mnist", roots) is None


def test_official_files_that_are_not(official: Path) -> None:
    with pytest.raises(UserError, match=r"found no such file; unpack CIFAR-10-C\.tar"):
        load_official(official, "saturate", 1)
    with pytest.raises(UserError, match="severity from 1 to 5"):
        load_official(official, "frost", 6)
    with pytest.raises(UserError, match="a corruption out of"):
        load_official(official, "rain", 1)
