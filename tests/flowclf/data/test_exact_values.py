"""Images and tables mean what they say, or are refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flowclf.data import from_arrays, load_dataset
from flowclf.data.pictures import read_picture
from flowclf.support.errors import UserError


def save(path: Path, pixels: np.ndarray, mode: str | None = None, **options: object) -> Path:
    Image.fromarray(pixels, mode).save(path, **options)
    return path


def test_twelve_bits_in_sixteen_are_no_seventeen_levels(tmp_path: Path) -> None:
    levels = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    with pytest.raises(UserError, match="16 bits that are used, got grey levels up to 4095"):
        read_picture(save(tmp_path / "12.png", levels))
    found = read_picture(save(tmp_path / "16.png", levels * 16))
    assert len(np.unique(found)) == 256


def test_transparent_pictures_are_refused_and_opaque_alpha_is_not(tmp_path: Path) -> None:
    pixels = np.full((4, 4, 4), 255, np.uint8)
    assert read_picture(save(tmp_path / "opaque.png", pixels)).shape == (3, 4, 4)
    pixels[0, 0, 3] = 0
    for mode in ("RGBA", "LA", "P"):
        image = Image.fromarray(pixels).convert("LA" if mode == "LA" else "RGBA")
        options = {}
        if mode == "P":
            image, options = image.convert("P"), {"transparency": 0}
            image.putpixel((0, 0), 0)
        image.save(tmp_path / f"{mode}.png", **options)
        with pytest.raises(UserError, match="expected an opaque picture"):
            read_picture(tmp_path / f"{mode}.png")


def test_pictures_stand_as_their_exif_says(tmp_path: Path) -> None:
    image = Image.fromarray(np.arange(8, dtype=np.uint8).reshape(2, 4))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    assert read_picture(tmp_path / "turned.png").shape == (1, 4, 2)


@pytest.mark.parametrize("dtype", [np.int64, np.uint64, np.int32])
def test_whole_numbers_beyond_float32_are_refused(dtype: type, tmp_path: Path) -> None:
    x = np.arange(24).reshape(12, 2).astype(dtype)
    y = np.arange(12) % 2
    assert from_arrays(x, y).train.x.dtype == torch.float32
    x[3, 1] = 2**24 + 1
    with pytest.raises(UserError, match="that float32 holds.*got 16777217"):
        from_arrays(x, y)
    np.savez(tmp_path / "x.npz", x_train=x, y_train=y, x_test=x[:4], y_test=y[:4])
    with pytest.raises(UserError, match="that float32 holds.*got 16777217"):
        load_dataset(str(tmp_path / "x.npz"))


@pytest.mark.parametrize("label", [2**64 - 1, 2**63])
def test_labels_beyond_int64_are_not_no_label(label: int, tmp_path: Path) -> None:
    y = np.arange(12, dtype=np.uint64) % 2
    y[3] = label
    x = np.zeros((12, 2), np.float32)
    np.savez(tmp_path / "x.npz", x_train=x, y_train=y, x_test=x[:4], y_test=y[:4] % 2)
    with pytest.raises(UserError):
        load_dataset(str(tmp_path / "x.npz"))
