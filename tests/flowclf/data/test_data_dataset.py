"""Splits, data sets, and what is refused before training could stumble over it."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowclf.data.dataset import Dataset, Split, hold_out, keep_labels, stratified, subset, validate
from flowclf.support.errors import UserError


def _split(labels: list[int], x: torch.Tensor | None = None) -> Split:
    rows = torch.zeros(len(labels), 2) if x is None else x
    return Split(rows, torch.tensor(labels, dtype=torch.int64))


def _table(train: Split, test: Split | None = None, classes: int = 2) -> Dataset:
    names = tuple("abcdefghijklmnopqrst"[:classes])
    return Dataset("mine", train, _split([0, 1]) if test is None else test, names)


def test_a_sound_data_set_passes_and_tells_its_shape() -> None:
    images = torch.zeros(4, 3, 5, 6, dtype=torch.uint8)
    split = _split([0, 1, 0, 1], images)
    data = validate(Dataset("mine", split, split, ("a", "b"), levels=256))
    assert (data.shape, data.classes, data.is_image) == ((3, 5, 6), 2, True)
    table = _table(_split([0, 1]))
    assert (table.shape, table.is_image) == ((2,), False)


def test_take_keeps_rows_and_labels_together() -> None:
    split = _split([0, 1, 2, 3], torch.arange(4.0)[:, None])
    assert split.take(torch.tensor([2, 0])).y.tolist() == [2, 0]
    assert split.take(slice(1, 3)).x[:, 0].tolist() == [1.0, 2.0]
    assert len(subset(split, 3)) == 3
    assert len(subset(split, 9)) == 4
    with pytest.raises(UserError, match="at least 1 row, got 0"):
        subset(split, 0)


BRIGHT = _split([0, 1], torch.full((2, 1, 1, 1), 17, dtype=torch.uint8))
BAD_DATA = {
    "gap in labels": (_table(_split([0, 2])), r"train labels 0\.\.1.*got 0, 2"),
    "missing class": (_table(_split([0, 1]), classes=3), r"train labels 0\.\.2.*got 0, 1"),
    "negative": (_table(_split([-1, 1])), "got -1, 1"),
    "only unlabelled": (_table(_split([-1, -1])), r"train labels 0\.\.1, .*got -1; renumber"),
    "class unlabelled": (_table(_split([-1, 1, -1])), r"train labels 0\.\.1, .*got -1, 1"),
    "below -1": (_table(_split([-2, 0, 1])), "got -2, 0, 1"),
    "unlabelled test": (_table(_split([0, 1]), _split([1, -1])), "every test row, got 1 rows with"),
    "many labels": (_table(_split(list(range(1, 21)))), r"12, … \(20 different\)"),
    "one class": (_table(_split([0, 0]), classes=1), "at least 2 classes, got 1"),
    "strange test label": (_table(_split([0, 1]), _split([1, 7])), "got also 7"),
    "empty test": (_table(_split([0, 1]), _split([])), "mine: test: expected at least one row"),
    "shapes": (
        _table(_split([0, 1]), _split([0], torch.zeros(1, 3))),
        r"one shape, got \(2,\) and \(3,\)",
    ),
    "NaN": (
        _table(_split([0, 1], torch.tensor([[0.0, 1.0], [0.0, float("nan")]]))),
        r"mine: train: .*got 1 NaN or infinite values \(first at row 1, column 1\)",
    ),
    "infinite test": (
        _table(_split([0, 1]), _split([0], torch.full((1, 2), float("inf")))),
        r"mine: test: .*got 2 .*row 0, column 0",
    ),
    "too bright": (Dataset("mine", BRIGHT, BRIGHT, ("a", "b"), 17), r"levels 0\.\.16, got 17"),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_validation_says_what_is_wrong(case: str) -> None:
    data, message = BAD_DATA[case]
    with pytest.raises(UserError, match=message) as caught:
        validate(data)
    assert "\n" not in str(caught.value)


def test_rows_and_labels_must_be_equally_many() -> None:
    with pytest.raises(UserError, match="got 3 rows and 2 labels"):
        Split(torch.zeros(3, 2), torch.zeros(2, dtype=torch.int64))


def test_rows_without_a_label() -> None:
    split = Split(torch.arange(4.0)[:, None], torch.tensor([1, -1, 0, -1]))
    assert split.unlabelled.tolist() == [False, True, False, True]
    assert split.labelled().y.tolist() == [1, 0]
    assert split.labelled().x[:, 0].tolist() == [0.0, 2.0]
    whole = split.labelled()
    assert whole.labelled() is whole
    data = validate(_table(Split(split.x.expand(4, 2), split.y)))
    assert data.train.unlabelled.sum() == 2


@pytest.mark.usefixtures("_global_rng_untouched")
def test_hold_out_is_stratified_and_repeatable() -> None:
    split = _split([0] * 80 + [1] * 20, torch.arange(200.0).reshape(100, 2))
    train, val = hold_out(split, 0.25, seed=3)
    assert torch.bincount(val.y).tolist() == [20, 5]
    assert torch.bincount(train.y).tolist() == [60, 15]
    assert torch.cat([train.x, val.x]).unique().numel() == 200
    assert torch.equal(hold_out(split, 0.25, seed=3)[1].x, val.x)
    assert not torch.equal(hold_out(split, 0.25, seed=4)[1].x, val.x)


def test_hold_out_of_nothing_of_almost_everything_and_never_of_unlabelled_rows() -> None:
    train, val = hold_out(_split([-1] * 10 + [0] * 10 + [1] * 10), 0.5, seed=0)
    assert torch.bincount(train.y + 1).tolist() == [10, 5, 5]
    assert torch.bincount(val.y).tolist() == [5, 5]
    split = _split([0, 1, 1, 1])
    train, val = hold_out(split, 0.0, seed=0)
    assert (len(train), len(val)) == (4, 0)
    train, _ = hold_out(split, 0.99, seed=0)
    assert sorted(train.y.tolist()) == [0, 1]


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_hold_out_refuses_fractions_outside_its_range(fraction: float) -> None:
    with pytest.raises(UserError, match="fraction in"):
        hold_out(_split([0, 1]), fraction, seed=0)


@pytest.mark.usefixtures("_global_rng_untouched")
def test_stratified_draws_exactly_n_rows_in_their_old_order() -> None:
    split = _split([0, 1, -1, 0, 2] * 20, torch.arange(200.0).reshape(100, 2))
    drawn, rest = stratified(split, 10, seed=3)
    assert torch.bincount(drawn.y + 1).tolist() == [20, 5, 3, 2]
    assert torch.bincount(rest.y).tolist() == [35, 17, 18]
    for part in (drawn, rest):
        assert torch.equal(part.x, part.x.sort(dim=0).values)
    assert torch.cat([drawn.x, rest.x]).unique().numel() == 200
    assert torch.equal(stratified(split, 10, seed=3)[0].x, drawn.x)
    assert not torch.equal(stratified(split, 10, seed=4)[0].x, drawn.x)


@settings(deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.data())
def test_stratified_is_fair(sizes: list[int], data: st.DataObject) -> None:
    """Each class gets a row, and less than one away from its share unless one was forced."""
    n = data.draw(st.integers(len(sizes), sum(sizes)))
    split = _split([label for label, size in enumerate(sizes) for _ in range(size)])
    drawn, rest = stratified(split, n, seed=0)
    counts = torch.bincount(drawn.y, minlength=len(sizes)).tolist()
    assert (sum(counts), len(rest)) == (n, sum(sizes) - n)
    shares = [n * size / sum(sizes) for size in sizes]
    assert all(1 <= count <= size for count, size in zip(counts, sizes, strict=True))
    if min(shares) >= 1:
        assert all(abs(c - share) < 1 for c, share in zip(counts, shares, strict=True))


@pytest.mark.parametrize(
    ("choose", "n"), [*((stratified, n) for n in (0, 1, 5)), *((keep_labels, n) for n in (1, 5))]
)
def test_impossible_numbers_are_refused(choose: Callable[..., object], n: int) -> None:
    with pytest.raises(UserError, match=f"from 2 rows, one a class, to all 4 .*got {n}"):
        choose(_split([0, 1, 1, -1, 0]), n, seed=0)


@pytest.mark.usefixtures("_global_rng_untouched")
def test_kept_labels_are_in_proportion_and_all_rows_stay() -> None:
    split = _split([0, 1, -1, 0, 2] * 20, torch.arange(200.0).reshape(100, 2))
    kept = keep_labels(split, 10, seed=3)
    assert torch.equal(kept.x, split.x)
    assert torch.bincount(kept.y + 1).tolist() == [90, 5, 3, 2]
    assert torch.equal(kept.y[~kept.unlabelled], split.y[~kept.unlabelled])
    assert torch.equal(keep_labels(split, 10, seed=3).y, kept.y)
    assert not torch.equal(keep_labels(split, 10, seed=4).y, kept.y)
    assert torch.equal(kept.labelled().x, stratified(split.labelled(), 10, seed=3)[0].x)


def test_data_sets_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        _table(_split([0, 1])).name = "other"  # type: ignore[misc]
