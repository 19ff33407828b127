"""Data sets from arrays and data frames, in the kinds people have them."""

import numpy as np
import pandas as pd
import pytest
import torch

from flowclf.data import Dataset, as_dataset, from_arrays, from_frame
from flowclf.support.errors import UserError

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(50, 3)), RNG.integers(3, size=50)
NAMES = np.array(["cat", "dog", "fox"])[Y]
FRAME = pd.DataFrame(X, columns=["a", "b", "c"]).assign(kind=np.where(Y > 0, "x", "y"), label=NAMES)


@pytest.mark.parametrize("kind", ["numpy", "torch", "lists", "names", "float32"])
def test_rows_of_any_kind_and_labels_of_any_kind(kind: str) -> None:
    made = {
        "numpy": (X, Y),
        "torch": (torch.from_numpy(X), torch.from_numpy(Y)),
        "lists": (X.tolist(), Y.tolist()),
        "names": (X, NAMES.astype(object)),
        "float32": (X.astype(np.float32), Y),
    }[kind]
    data = as_dataset(made)
    assert (len(data.train), len(data.test), data.shape) == (40, 10, (3,))
    assert data.class_names == (("cat", "dog", "fox") if kind == "names" else ("0", "1", "2"))
    assert "10 of 50 samples were drawn for the test" in data.notices[0]
    assert repr(data) == "Dataset('array', 40 training and 10 test rows of 3 numbers, 3 classes)"
    rows = {tuple(row) for row in torch.cat([data.train.x, data.test.x]).tolist()}
    assert rows == {tuple(row) for row in torch.from_numpy(X).float().tolist()}


def test_the_split_is_the_seeds_alone() -> None:
    first, again, other = (as_dataset((X, Y), split_seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.test.x, again.test.x)
    assert not torch.equal(first.test.x, other.test.x)


def test_a_test_split_of_ones_own_is_kept() -> None:
    data = as_dataset((X[:30], NAMES[:30], X[30:], NAMES[30:]))
    assert (len(data.train), len(data.test), data.notices) == (30, 20, ())
    assert [data.class_names[k] for k in data.test.y.tolist()] == NAMES[30:].tolist()
    with pytest.raises(UserError, match="labels that are in the training labels, got 'owl'"):
        as_dataset((X[:30], NAMES[:30], X[30:], ["owl"] * 20))


@pytest.mark.parametrize("shape", [(8, 6), (3, 8, 6), (8, 6, 3), (1, 8, 6)])
def test_images_in_the_usual_orders(shape: tuple[int, ...]) -> None:
    x = RNG.integers(256, size=(20, *shape), dtype=np.uint8)
    data = as_dataset((x, np.arange(20) % 2))
    assert data.shape == (3 if 3 in shape else 1, 8, 6)
    assert data.levels == 256


def test_a_frame_becomes_numbers_and_indicators() -> None:
    data = as_dataset(FRAME, target="label")
    assert data.feature_names == ("a", "b", "c", "kind=x", "kind=y")
    assert data.class_names == ("cat", "dog", "fox")
    both = torch.cat([data.train.x, data.test.x])
    assert torch.equal(both[:, 3] + both[:, 4], torch.ones(50))
    assert as_dataset(data) is data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((X, Y[:9]), "expected one label per row"),
        ((X.astype(str), Y), "expected uint8 images or a table of numbers"),
        ((X[:, 0], Y), "expected x as N×F"),
        ((RNG.random((9, 4, 4)), np.arange(9) % 2), "expected images as uint8 grey levels"),
        ((np.where(X > 2, np.nan, X), Y), "expected finite numbers"),
        ((X, np.where(Y > 1, np.nan, Y)), "y: expected a value in every row"),
        ((X[:3], Y[:3] * 0 + np.arange(3)), "expected more samples than classes"),
        (42, "expected the name or path of data, .* got int"),
        (FRAME, "expected target=, the column of the labels, among: a, b, c"),
    ],
)
def test_what_does_not_fit_is_refused(data: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        as_dataset(data)


def test_frames_with_holes_or_free_text_are_refused() -> None:
    with pytest.raises(UserError, match="expected target to be a column, got 'species'"):
        from_frame(FRAME, "species")
    with pytest.raises(UserError, match="kind: expected a value in every row, got 1 missing"):
        from_frame(FRAME.assign(kind=[None, *["x"] * 49]), "label")
    free = pd.concat([FRAME] * 3).assign(kind=[f"t{i}" for i in range(150)])
    with pytest.raises(UserError, match="at most 100 categories, got 120 different texts"):
        from_frame(free, "label")
    with pytest.raises(UserError, match="expected columns beside 'label'"):
        from_frame(FRAME[["label"]], "label")


def test_a_data_set_is_valid_as_it_is_made() -> None:
    assert isinstance(from_arrays(X, Y, name="mine"), Dataset)
