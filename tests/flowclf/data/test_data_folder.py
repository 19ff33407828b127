"""Folders of pictures in every mode, and one clear line for each way they can be wrong."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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
    picture.info["transparency"] = bytes([0, 128, 255])
    picture.save(tmp_path / "train" / "ant" / "2.png", transparency=bytes([0, 128, 255]))
    assert len(load_folder(tmp_path).train) == 3


def test_other_files_are_ignored_and_counted(tmp_path: Path) -> None:
    _tree(tmp_path)
    for name in ("notes.txt", ".DS_Store"):
        (tmp_path / "train" / "ant" / name).write_text("!")
    (tmp_path / "train" / ".cache").mkdir()
    assert load_folder(tmp_path).notices == (
        "1 files or folders that are not .png, .jpg or .bmp are ignored",
    )


def test_one_class_is_not_enough(tmp_path: Path) -> None:
    for part in ("train", "test"):
        _picture(tmp_path / part / "cat" / "1.png")
    with pytest.raises(UserError, match="at least 2 classes, got 1"):
        load_folder(tmp_path)
