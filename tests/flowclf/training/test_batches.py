"""Batches are named by their step, whatever the number of processes."""

from typing import Any

import pytest
import torch
from torch import Tensor

from flowclf.data import Split, ending_binary
from flowclf.nn.encoders import Noise
from flowclf.objectives import Batch
from flowclf.support.errors import UserError
from flowclf.training.batches import Batches

ROWS = torch.arange(100)
X = ROWS.to(torch.uint8).view(100, 1, 1, 1)


def make(rank: int = 0, y: Tensor = ROWS, uniform: float = 1.0, **options: Any) -> Batches:
    noise = Noise((1, 1, 1), uniform, 0.0, 255.0)
    options = {"size": 20, "augment": None, "seed": 0, "world": 1} | options
    return Batches(Split(X, y), perturb=noise, rank=rank, **options)


def partly(labelled: int) -> Tensor:
    """Labels of some rows, spread over all."""
    return torch.where(ROWS % (100 // labelled) == 0, ROWS, -1)


def assert_same(one: Batch, other: Batch) -> None:
    for name in ("x", "y", "index"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name


def index_of(batch: Batch) -> Tensor:
    assert batch.index is not None
    return batch.index


def test_an_epoch_sees_every_sample_once_in_a_new_order() -> None:
    batches = make()
    epochs = [torch.cat([batches.at(5 * e + i).y for i in range(5)]) for e in range(2)]
    for labels in epochs:
        assert torch.equal(labels.sort().values, ROWS)
    assert not torch.equal(epochs[0], epochs[1])


@pytest.mark.parametrize("labelled", [None, 3])
def test_a_step_gives_the_same_batch_in_any_order_of_calls(labelled: int | None) -> None:
    one, other = (make(labelled=labelled, y=partly(5)) for _ in range(2))
    expected = one.at(7)
    assert_same([other.at(step) for step in (12, 0, 7)][-1], expected)


@pytest.mark.parametrize("labelled", [None, 4])
def test_processes_share_the_batch_that_one_would_have(labelled: int | None) -> None:
    options: dict[str, Any] = {"labelled": labelled, "y": partly(10)}
    whole = make(**options).at(3)
    parts = [make(world=2, rank=rank, **options).at(3) for rank in (0, 1)]
    for name in ("x", "y", "index"):
        shares = [getattr(part, name) for part in parts]
        assert torch.equal(torch.stack(shares, dim=1).flatten(0, 1), getattr(whole, name))
    if labelled:
        assert [int((part.y >= 0).sum()) for part in parts] == [2, 2]


def test_labels_stay_with_their_samples_under_noise() -> None:
    batch = make(seed=3).at(1)
    assert torch.equal(batch.x.floor().flatten().long(), batch.y)
    assert float((batch.x.flatten() - batch.y).std()) > 0.2


@pytest.mark.parametrize("labelled", [None, 7])
def test_the_index_is_the_row_of_the_split(labelled: int | None) -> None:
    batches = make(uniform=0.0, labelled=labelled, y=partly(10))
    for step in range(8):
        batch = batches.at(step)
        assert index_of(batch).dtype == torch.int64
        assert torch.equal(batches.split.x[index_of(batch)].float(), batch.x)
        assert torch.equal(batches.split.y[index_of(batch)], batch.y)


def test_each_batch_has_its_share_of_labels() -> None:
    batches = make(labelled=8, y=partly(20))
    assert batches.per_epoch == 80 // 12
    for step in range(3 * batches.per_epoch):
        y = batches.at(step).y
        assert bool((y[:8] >= 0).all())
        assert bool((y[8:] < 0).all())


def test_labelled_samples_go_round_and_an_epoch_passes_the_others() -> None:
    batches = make(labelled=10, size=30, y=partly(20))
    seen = [batches.at(step) for step in range(8)]
    rounds = [torch.cat([seen[i].y[:10], seen[i + 1].y[:10]]) for i in (0, 2, 4)]
    for labels in rounds:
        assert torch.equal(labels.sort().values, ROWS[::5])
    assert not torch.equal(rounds[0], rounds[1])
    others = [torch.cat([index_of(each)[10:] for each in seen[i : i + 4]]) for i in (0, 4)]
    for rows in others:
        assert torch.equal(rows.sort().values, ROWS[ROWS % 5 != 0])
    assert not torch.equal(others[0], others[1])


def test_few_labelled_samples_are_repeated_within_a_batch() -> None:
    batch = make(labelled=15, y=partly(5)).at(4)
    assert index_of(batch)[:15].bincount().tolist()[::20] == [3] * 5
    assert len(index_of(batch)[15:].unique()) == 5


def test_few_others_make_a_small_batch() -> None:
    batches = make(labelled=15, size=30, y=torch.where(ROWS < 90, ROWS, -1))
    assert (batches.size, batches.per_epoch) == (25, 1)
    assert int((batches.at(3).y < 0).sum()) == 10


def test_samples_without_a_label_have_a_second_view() -> None:
    brighter = {"augment": lambda x, generator: x + 100.0}
    darker = {"augment_guess": lambda x, generator: x - 0.0}
    options: dict[str, Any] = {"y": partly(20), "labelled": 8, "guessing": True, "world": 2}
    batch = make(**options, **brighter, **darker).at(1)
    assert batch.view is not None
    unlabelled = batch.y < 0
    assert batch.view.shape == (int(unlabelled.sum()), 1, 1, 1)
    rows = index_of(batch)[unlabelled]
    assert torch.equal(batch.view.floor().flatten().long(), rows)
    assert torch.equal(batch.x[unlabelled].floor().flatten().long(), rows + 100)
    assert float((batch.x[unlabelled] - 100 - batch.view).abs().max()) > 0.1
    assert_same(make(**options | {"guessing": False}, **brighter).at(1), batch)
    assert make(**options | {"y": ROWS, "labelled": None}).at(1).view is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labelled": 4}, "with and without a label for train.labelled=4, got 100 and 0; set data"),
        ({"labelled": 4, "y": ROWS * 0 - 1}, "with and without a label .*, got 0 and 100"),
        ({"labelled": 20, "y": partly(5)}, "below the batch size of 20, .*, got 20; lower it"),
        ({"labelled": 3, "y": partly(5), "world": 2}, "by the 2 processes, got 20 with 3 labelled"),
        ({"world": 3}, "by the 3 processes, got 20$"),
    ],
)
def test_batches_that_cannot_be_made_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(**options)


def test_resampled_batches_change_by_step_and_repeat_with_it() -> None:
    grey = torch.full((100, 1, 8, 8), 100, dtype=torch.uint8)
    options: dict[str, Any] = {"source": grey, "augment": ending_binary(None, "resampled", 256)}
    options |= {"uniform": 0.0, "size": 100}
    batches = make(**options)
    first, second = batches.at(0), batches.at(1)
    assert set(first.x.unique().tolist()) == {0, 255}
    assert_same(first, make(**options).at(0))
    one, other = (each.x[index_of(each).argsort()] for each in (first, second))
    assert 0.4 < float((one != other).float().mean()) < 0.55
    assert not torch.equal(first.x, make(seed=1, **options).at(0).x)
