"""Splits as the settings say: binary copies and labels that are kept."""

import pytest
import torch

from flowclf.config import RunConfig, make_config
from flowclf.data import Dataset, Split, load_dataset
from flowclf.support.errors import UserError
from flowclf.training import train
from flowclf.training.setup import augmentation, resampled, splits


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits")


def configure(seed: int = 0, **data: object) -> RunConfig:
    base = {"train_size": 400, "test_size": 100, "validation": 0.25, "augment": "none"}
    overrides = [{"data": base | data}]
    return make_config("ib-inn", "digits", (1, 8, 8), seed=seed, overrides=overrides)


def assert_equal(one: Split, other: Split) -> None:
    assert torch.equal(one.x, other.x)
    assert torch.equal(one.y, other.y)


@pytest.mark.parametrize("kind", ["threshold", "sampled", "resampled"])
def test_all_splits_are_binary_and_the_seeds(digits: Dataset, kind: str) -> None:
    grey = splits(configure(), digits)
    parts, again = (splits(configure(binarize=kind), digits) for _ in range(2))
    for part, same, before in zip(parts, again, grey, strict=True):
        assert set(part.x.unique().tolist()) == {0, 16}
        assert (part.x.dtype, part.x.shape) == (torch.uint8, before.x.shape)
        assert torch.equal(part.y, before.y)
        assert_equal(part, same)
        # As bright as before on the whole.
        assert abs(float(part.x.float().mean() - before.x.float().mean())) < 1
    other = splits(configure(binarize=kind, seed=1, validation=0), digits)[2]
    assert torch.equal(parts[2].x, other.x) == (kind == "threshold")


def test_grey_levels_are_handed_out_for_resampling_alone(digits: Dataset) -> None:
    grey = splits(configure(labels=50), digits)[0].x
    given = resampled(configure(labels=50, binarize="resampled"), digits)
    assert given is not None
    assert torch.equal(given, grey)
    for kind in ("none", "threshold", "sampled"):
        assert resampled(configure(binarize=kind), digits) is None


def test_training_batches_end_binary(digits: Dataset) -> None:
    assert augmentation(configure(), digits) is None
    assert augmentation(configure(binarize="sampled"), digits) is None
    changed = augmentation(configure(binarize="resampled", augment="rotate"), digits)
    assert changed is not None
    out = changed(digits.train.x[:50], torch.Generator().manual_seed(0))
    assert set(out.unique().tolist()) == {0, 16}


def test_a_table_cannot_be_binary() -> None:
    split = Split(torch.zeros(2, 3), torch.tensor([0, 1]))
    table = Dataset("mine", split, split, ("a", "b"))
    config = make_config("ib-inn", "mine", (3,), overrides=[{"data": {"binarize": "threshold"}}])
    with pytest.raises(UserError, match=r"data.binarize=threshold, got rows of \(3,\); use none"):
        splits(config, table)


def test_labels_are_kept_in_training_alone_and_by_class(digits: Dataset) -> None:
    whole, validation, test = splits(configure(), digits)
    training, *others = splits(configure(labels=50), digits)
    assert torch.equal(training.x, whole.x)
    kept = ~training.unlabelled
    assert int(kept.sum()) == 50
    assert torch.equal(training.y[kept], whole.y[kept])
    assert {4, 5, 6} >= set(training.y[kept].bincount(minlength=10).tolist())
    for other, before in zip(others, (validation, test), strict=True):
        assert_equal(other, before)
    assert not torch.equal(splits(configure(labels=50, seed=1), digits)[0].y, training.y)


@pytest.mark.parametrize("labels", [9, 301])
def test_labels_that_cannot_be_kept_are_refused(digits: Dataset, labels: int) -> None:
    with pytest.raises(UserError, match=f"from 10 rows, one a class, to all 298 .*got {labels}"):
        splits(configure(labels=labels), digits)


@pytest.mark.parametrize(
    ("system", "labels", "pseudo", "message"),
    [
        ("ib-inn", None, {"cross_entropy": 1}, "without a label for pseudo_labels, got none; set"),
        ("vae", 50, {"consistency": 1}, "consistency=0 for vae, which has no exact density"),
    ],
)
def test_pseudo_labels_that_would_teach_nothing_are_refused(
    digits: Dataset, system: str, labels: int | None, pseudo: dict[str, float], message: str
) -> None:
    overrides = [{"data": {"labels": labels}, "pseudo_labels": pseudo}]
    config = make_config(system, "digits", (1, 8, 8), overrides=overrides)
    with pytest.raises(UserError, match=message):
        train(config, digits)
