"""The user's arrays: what is accepted, and one clear line for what is not."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flowclf.data.dataset import Reading
from flowclf.data.npz import load_npz
from flowclf.support.errors import UserError

Y = np.array([0, 1, 2, 0])


def _save(path: Path, **changes: Any) -> Path:
    arrays: dict[str, Any] = {
        "x_train": np.arange(12.0).reshape(4, 3),
        "y_train": Y,
        "x_test": np.zeros((2, 3)),
        "y_test": np.array([2, 1]),
    }
    arrays |= changes
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    return path


def _images(*shape: int) -> dict[str, Any]:
    x = np.arange(int(np.prod((4, *shape)))).astype(np.uint8).reshape(4, *shape)
    return {"x_train": x, "x_test": x[:2]}


def test_a_table_becomes_float32(tmp_path: Path) -> None:
    data = load_npz(_save(tmp_path / "mine.npz"))
    assert (data.name, data.shape, data.classes, data.levels) == ("mine.npz", (3,), 3, None)
    assert data.train.x.dtype == torch.float32
    assert data.train.x[1].tolist() == [3.0, 4.0, 5.0]
    assert data.class_names == ("0", "1", "2")
    for dtype in (np.int64, np.uint8, np.float16, np.float32, bool):
        data = load_npz(_save(tmp_path / "x.npz", x_train=np.ones((4, 3), dtype=dtype)))
        assert data.train.x.tolist() == [[1.0] * 3] * 4


def test_images_get_their_channels_first(tmp_path: Path) -> None:
    grey = load_npz(_save(tmp_path / "x.npz", **_images(5, 6)))
    assert (grey.shape, grey.levels, grey.train.x[0, 0, 1, 0]) == ((1, 5, 6), 256, 6)
    images = _images(5, 6, 3)
    colour = load_npz(_save(tmp_path / "x.npz", **images))
    assert colour.shape == (3, 5, 6)
    assert colour.train.x[0, 2, 4, 1] == images["x_train"][0, 4, 1, 2]


def test_labels_may_be_a_column_of_any_integer_and_missing(tmp_path: Path) -> None:
    data = load_npz(_save(tmp_path / "x.npz", y_train=Y[:, None].astype(np.uint8)))
    assert data.train.y.tolist() == Y.tolist()
    for dtype in (np.int64, np.int8):
        y = {"y_train": np.array([0, -1, 1, -1], dtype=dtype), "y_test": np.array([1, 0])}
        data = load_npz(_save(tmp_path / "x.npz", **y))
        assert data.train.y.tolist() == [0, -1, 1, -1]
        assert data.class_names == ("0", "1")


def test_medmnist_names_and_unused_arrays(tmp_path: Path) -> None:
    x, path = _images(5, 5), tmp_path / "x.npz"
    np.savez(
        path, train_images=x["x_train"], train_labels=Y[:, None], test_images=x["x_test"],
        test_labels=Y[:2, None], val_images=x["x_test"],
    )  # fmt: skip
    assert load_npz(path).notices == ("array 'val_images' is not used",)


BAD_ARRAYS: dict[str, tuple[dict[str, Any], str]] = {
    "words": ({"x_train": np.full((4, 3), "a")}, "table of numbers, got <U1"),
    "float images": (
        {"x_train": np.full((4, 3, 3), 7.0)},
        r"got float64 from 7 to 7; .*data\.range",
    ),
    "int images": ({"x_train": np.full((4, 3, 3), 300)}, "got int64 from 300 to 300"),
    "five channels": (_images(5, 9, 9), r"1 or 3 channels.*got 4×5×9×9; reshape"),
    "flat": ({"x_train": np.ones(4)}, "expected x as .*got 4; reshape"),
    "float labels": (
        {"y_train": Y.astype(float)},
        "labels as integers 0..K-1 or as strings, got float64",
    ),
    "one-hot": ({"y_train": np.eye(4, dtype=int)}, r"one label a row.*got 4×4; use argmax"),
    "gap": ({"y_train": np.array([0, 1, 3, 3])}, r"train labels 0\.\.2.*got 0, 1, 3"),
    "from one": ({"y_train": Y + 1}, "got 1, 2, 3; renumber the labels from 0"),
    "huge": ({"y_train": np.array([0, 1, 2, 2**40])}, r"train labels 0\.\.3.*1099511627776"),
    "negative": ({"y_train": np.array([0, 1, -2, -1])}, r"train labels 0\.\.2.*got -2, -1, 0, 1"),
    "beyond int64": (
        {"y_train": np.array([0, 1, 2, 2**64 - 1], dtype=np.uint64)},
        r"labels 0\.\.K-1, got 18446744073709551615",
    ),
    "all unlabelled": ({"y_train": np.full(4, -1)}, "at least 2 classes, got 0"),
    "unlabelled test": ({"y_test": np.array([0, -1])}, "every test row, got 1 rows with -1; move"),
    "NaN": ({"x_test": np.array([[0, 0, 0], [0, np.nan, 0]])}, "test: .*row 1, column 1"),
    "beyond float32": ({"x_train": np.full((4, 3), 1e300)}, "train: .*got 12 NaN or infinite"),
    "widths": ({"x_test": np.zeros((2, 4))}, r"one shape, got \(3,\) and \(4,\)"),
    "image and table": ({"x_test": _images(3, 3)["x_test"]}, "one shape"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_bad_arrays_are_one_clear_line(tmp_path: Path, case: str) -> None:
    changes, message = BAD_ARRAYS[case]
    with pytest.raises(UserError, match=message) as caught:
        load_npz(_save(tmp_path / "x.npz", **changes))
    assert "\n" not in str(caught.value)
    assert "x.npz" in str(caught.value)


def test_breastmnist(real: Path) -> None:
    data = load_npz(real / "medmnist" / "breastmnist.npz")
    assert (len(data.train), len(data.test), data.shape) == (546, 156, (1, 28, 28))
    assert data.notices == ("array 'val_images' is not used", "array 'val_labels' is not used")


def test_names_strings_and_no_test_split(tmp_path: Path) -> None:
    x, words = np.arange(60.0).reshape(20, 3), np.array(["cat", "ant"] * 10)
    np.savez(tmp_path / "x.npz", x=x, y=words, feature_names=np.array(["a", "b", "c"]))
    data = load_npz(tmp_path / "x.npz", Reading(test_share=0.25, split_seed=3))
    assert (data.class_names, data.feature_names) == (("ant", "cat"), ("a", "b", "c"))
    assert (len(data.train), len(data.test)) == (15, 5)
    assert "data.split_seed=3" in data.notices[-1]
    # Row 0, 2, … are cats.
    both = torch.cat([data.train.x, data.test.x])[:, 0] / 3 % 2 == 0
    assert torch.equal(both, torch.cat([data.train.y, data.test.y]) == 1)
    np.savez(tmp_path / "x.npz", x=x, y=words, class_names=np.array(["cat", "ant"]))
    assert load_npz(tmp_path / "x.npz").class_names == ("cat", "ant")
    np.savez(tmp_path / "x.npz", x=x, y=np.arange(20) % 2, class_names=np.array(["no", "yes"]))
    assert load_npz(tmp_path / "x.npz").class_names == ("no", "yes")
    np.savez(tmp_path / "x.npz", x=x, y=words, class_names=np.array(["cat", "owl"]))
    with pytest.raises(UserError, match="labels of the training rows or class_names, got 'ant'"):
        load_npz(tmp_path / "x.npz")
    np.savez(tmp_path / "x.npz", x=x, y=words, feature_names=np.array(["a"]))
    with pytest.raises(UserError, match="expected 3 feature_names, got 1"):
        load_npz(tmp_path / "x.npz")


def test_images_of_floats_in_a_stated_range(tmp_path: Path) -> None:
    levels = np.arange(20 * 16, dtype=np.uint8).reshape(20, 4, 4)
    y = np.arange(20) % 2
    np.savez(tmp_path / "x.npz", x=levels / 127.5 - 1, y=y)
    data = load_npz(tmp_path / "x.npz", Reading(range=(-1, 1)))
    found = {tuple(row) for row in torch.cat([data.train.x, data.test.x]).flatten(1).tolist()}
    assert found == {tuple(row) for row in levels.reshape(20, 16).tolist()}
    with pytest.raises(UserError, match="within data.range=0,1, got numbers from -1 to 1"):
        load_npz(tmp_path / "x.npz", Reading(range=(0, 1)))
    # Whole levels, divided by 255, need no range.
    np.savez(tmp_path / "x.npz", x=(levels / 255).astype(np.float32), y=y)
    assert "floats in 0…1 were taken as 256 grey levels" in load_npz(tmp_path / "x.npz").notices[0]
