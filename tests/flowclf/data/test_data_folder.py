"""Folders of pictures in every mode, and one clear line for each way they can be wrong."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flowclf.data.dataset import Reading
from flowclf.data.folder import load_folder
from flowclf.support.errors import UserError


def _picture(path: Path, mode: str = "RGB", size: tuple[int, int] = (6, 4), grey: int = 9) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, grey).convert(mode).save(path)


def _tree(root: Path, mode: str = "RGB", ending: str = "png") -> Path:
    for part in ("train", "test"):
        for number, name in enumerate(("cat", "ant")):
            _picture(root / part / name / f"1.{ending}", mode, grey=100 * number)
    return root


def test_classes_are_sorted_and_colours_come_first(tmp_path: Path) -> None:
    data = load_folder(_tree(tmp_path / "mine"))
    assert (data.name, data.class_names) == ("mine", ("ant", "cat"))
    assert (data.shape, data.levels, data.notices) == ((3, 4, 6), 256, ())
    assert data.train.y.tolist() == [0, 1]
    assert data.train.x[:, 0, 0, 0].tolist() == [100, 0]


def test_modes_and_endings(tmp_path: Path) -> None:
    for mode, channels in {"1": 1, "L": 1, "LA": 1, "P": 3, "RGB": 3, "RGBA": 3}.items():
        assert load_folder(_tree(tmp_path / mode, mode)).shape == (channels, 4, 6)
    for ending in ("jpg", "JPEG", "bmp", "PNG"):
        assert len(load_folder(_tree(tmp_path / ending, ending=ending)).train) == 2


def test_sixteen_bits_keep_the_upper_eight(tmp_path: Path) -> None:
    _tree(tmp_path, "L")
    deep = np.full((4, 6), 0xABCD, dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "train" / "ant" / "1.png")
    assert load_folder(tmp_path).train.x[0].unique().tolist() == [0xAB]


def test_a_transparent_palette_is_read_without_a_warning(tmp_path: Path) -> None:
    _tree(tmp_path)
    picture = Image.new("P", (6, 4))
    picture.info["transparency"] = bytes([255, 128, 0])
    picture.save(tmp_path / "train" / "ant" / "2.png", transparency=bytes([255, 128, 0]))
    assert len(load_folder(tmp_path).train) == 3


def test_other_files_are_ignored_and_counted(tmp_path: Path) -> None:
    _tree(tmp_path)
    for name in ("notes.txt", ".DS_Store"):
        (tmp_path / "train" / "ant" / name).write_text("!")
    (tmp_path / "train" / ".cache").mkdir()
    assert load_folder(tmp_path).notices == ("1 files that are no pictures of a class are ignored",)


def test_one_class_is_not_enough(tmp_path: Path) -> None:
    for part in ("train", "test"):
        _picture(tmp_path / part / "cat" / "1.png")
    with pytest.raises(UserError, match="at least 2 classes, got 1"):
        load_folder(tmp_path)


def _photos(root: Path, layout: str = "{name}/{number}.{ending}", ending: str = "jpg") -> Path:
    """Lay ten photographs of each of two classes, of sizes that differ."""
    for name, grey in (("ant", 20), ("cat", 200)):
        for number in range(10):
            place = layout.format(name=name, number=number, ending=ending)
            _picture(root / place, size=(50 + number, 40), grey=grey)
    return root


def test_folders_without_a_test_split_get_one_of_a_seed(tmp_path: Path) -> None:
    data = load_folder(_photos(tmp_path / "photos"))
    assert (len(data.train), len(data.test), data.class_names) == (16, 4, ("ant", "cat"))
    assert data.test.y.tolist() == [0, 0, 1, 1]
    assert any("4 of 20 samples were drawn for the test" in line for line in data.notices)
    other = load_folder(tmp_path / "photos", Reading(test_share=0.5, split_seed=1))
    assert len(other.test) == 10
    deep = load_folder(_photos(tmp_path / "deep", "{name}/trip/day/{number}.{ending}", "webp"))
    assert torch.equal(deep.train.y, data.train.y)


def test_val_is_the_test_split_where_there_is_no_other(tmp_path: Path) -> None:
    _photos(tmp_path, "train/{name}/{number}.{ending}")
    _photos(tmp_path, "val/{name}/{number}.{ending}")
    assert len(load_folder(tmp_path).test) == 20


def test_sizes_that_differ_become_one_and_a_line_says_so(tmp_path: Path) -> None:
    data = load_folder(_photos(tmp_path))
    assert data.shape == (3, 32, 32)
    assert "pictures of 10 sizes, 50×40 to 59×40, were cropped" in data.notices[0]
    assert abs(int(data.train.x[0].float().mean()) - 20) < 2
    assert load_folder(tmp_path, Reading(size=(16, 24), mode="grey")).shape == (1, 16, 24)
    assert load_folder(tmp_path, Reading(size=8)).shape == (3, 8, 8)


def test_modes_that_differ_become_rgb_unless_grey_is_wanted(tmp_path: Path) -> None:
    _tree(tmp_path)
    _picture(tmp_path / "train" / "ant" / "2.png", "L")
    data = load_folder(tmp_path)
    assert (data.shape, len(data.train)) == ((3, 4, 6), 3)
    assert "grey pictures became RGB" in data.notices[0]
    assert load_folder(tmp_path, Reading(mode="grey")).shape == (1, 4, 6)


def test_a_picture_is_turned_as_its_orientation_says(tmp_path: Path) -> None:
    _tree(tmp_path, ending="jpg")
    turned = Image.new("RGB", (4, 6))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "train" / "ant" / "2.jpg", exif=exif)
    data = load_folder(tmp_path)
    assert (data.shape, data.notices) == ((3, 4, 6), ())
