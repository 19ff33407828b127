"""Patches that tell a class, their groups, and classes that come later."""

import pytest
import torch

from benchmarks.flowclf.learning_on import METHODS, grown, learn
from benchmarks.flowclf.shortcuts import groups, patched
from flowclf.classifier import latents
from flowclf.config import make_config
from flowclf.data import Dataset, Split, load_dataset
from flowclf.latent.full import ClassMoments
from flowclf.models import with_gaussians

SHAPE = (1, 8, 8)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits")


def test_a_patch_tells_its_class_as_often_as_asked() -> None:
    split = Split(torch.zeros(4000, 1, 14, 14, dtype=torch.uint8), torch.arange(4000) % 10)
    changed, told = patched(split, 10, share=0.8, seed=0)
    assert 0.79 < float((told == split.y).double().mean()) < 0.85
    assert torch.equal(changed.x.flatten(1).count_nonzero(1), torch.full((4000,), 4))
    columns = changed.x[:, 0, 1].argmax(1)
    assert torch.equal(columns, told)
    assert int(split.x.max()) == 0


def test_the_worst_group_is_the_least_accurate_one() -> None:
    y, told = torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([0, 1, 1, 1, 0, 0])
    right = torch.tensor([True, True, False, True, False, False])
    found = groups(right, y, told)
    assert found == {"accuracy": 0.5, "true_patch": 1.0, "false_patch": 0.25, "worst_group": 0.0}


def test_a_model_grows_by_the_averages_of_new_classes(digits: Dataset) -> None:
    config = make_config("ib-inn", "digits", SHAPE, preset="digits")
    first, second = (
        Split(digits.train.x[rows], digits.train.y[rows])
        for rows in (digits.train.y < 2, (digits.train.y >= 2) & (digits.train.y < 4))
    )
    small = grown(None, 2, first, digits, config).eval()
    large = grown(small, 4, second, digits, config).eval()
    assert large.classes == 4
    x = second.x[:50]
    z, before = large.encode(x).z, small.encode(x).z
    torch.testing.assert_close(z, before)
    means = torch.stack([small.encode(second.x[second.y == k]).z.mean(0) for k in (2, 3)])
    torch.testing.assert_close(large.mixture.means[2:], means, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(large.mixture.means[:2], small.mixture.means)


def test_a_frozen_flow_forgets_nothing(digits: Dataset) -> None:
    """Its Gaussians are those of all images at once; they are those of the discriminant."""
    config = make_config(
        "ib-inn", "digits", SHAPE, preset="digits", overrides={"network.blocks": [1]}
    )
    first = Split(digits.train.x[digits.train.y < 2], digits.train.y[digits.train.y < 2])
    model = grown(None, 2, first, digits, config).eval()
    z, y = latents(model, digits.train.x), digits.train.y
    once, parts = ClassMoments.of(z, y, 10), ClassMoments.of(z[y < 2], y[y < 2], 2)
    for k in range(2, 10, 2):
        rows = (y == k) | (y == k + 1)
        parts = parts.joined(ClassMoments.of(z[rows], y[rows] - k, 2))
    torch.testing.assert_close(parts, once)
    made = with_gaussians(model, once)
    accuracy = (made.predict(digits.test.x) == digits.test.y).double().mean()
    assert accuracy > 0.9


@pytest.mark.parametrize("method", METHODS[:3])
def test_each_method_learns_task_after_task(method: str, digits: Dataset) -> None:
    config = make_config(
        "ib-inn", "digits", SHAPE, preset="digits", overrides={"network.blocks": [1]}
    )
    rows = list(learn(method, digits, config, steps=2))
    assert [row["classes"] for row in rows] == [2, 4, 6, 8, 10]
    assert all(0 <= row["accuracy"] <= 1 for row in rows)
