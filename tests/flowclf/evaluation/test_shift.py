"""Tables of corrupted test images."""

from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import pytest
import torch

import flowclf
from flowclf.data import Split
from flowclf.data.corruptions import CORRUPTIONS, corrupt
from flowclf.evaluation import evaluate
from flowclf.evaluation.shift import METRICS, shift_table
from flowclf.support.errors import UserError

FAMILIES, SEVERITIES = ["gaussian_noise", "contrast"], [1, 5]


Rows = dict[tuple[str, int | None], dict[str, Any]]


@pytest.fixture(scope="module")
def found(classifier: flowclf.GenerativeClassifier, test_split: Split) -> Rows:
    table = shift_table(classifier, test_split, FAMILIES, SEVERITIES, levels=17)
    return {(row["family"], row["severity"]): row for row in table}


def test_rows_are_clean_each_and_means(found: Rows) -> None:
    each = [(family, severity) for family in FAMILIES for severity in SEVERITIES]
    assert [*found] == [("clean", 0), *each, ("mean", 1), ("mean", 5), ("mean", None)]
    assert all(row.keys() == {"family", "severity", *METRICS} for row in found.values())


def test_numbers_are_those_of_an_evaluation(
    classifier: flowclf.GenerativeClassifier, test_split: Split, found: Rows
) -> None:
    x = corrupt(test_split.x, "contrast", 5, 0, levels=17)
    expected = {
        ("clean", 0): evaluate(classifier, test_split),
        ("contrast", 5): evaluate(classifier, Split(x, test_split.y)),
    }
    for place, results in expected.items():
        assert all(found[place][name] == pytest.approx(results[name]) for name in METRICS)
    for name in METRICS:
        own = [found[family, 5][name] for family in FAMILIES]
        assert found["mean", 5][name] == pytest.approx(mean(own))
        both = [found["mean", severity][name] for severity in SEVERITIES]
        assert found["mean", None][name] == pytest.approx(mean(both))


def test_stronger_corruptions_cost_more(found: Rows) -> None:
    clean, mild, worst = found["clean", 0], found["mean", 1], found["mean", 5]
    assert clean["accuracy"] > 0.9
    assert worst["accuracy"] < min(clean["accuracy"], mild["accuracy"])
    assert clean["negative_log_posterior_nats"] < worst["negative_log_posterior_nats"]


def test_the_seed_decides_and_all_families_run(
    classifier: flowclf.GenerativeClassifier, test_split: Split
) -> None:
    few = test_split.take(slice(50))
    first, again, other = (
        shift_table(classifier, few, severities=[4], seed=seed, levels=17) for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other
    assert len(first) == 1 + len(CORRUPTIONS) + 2


def test_official_images_can_stand_for_our_own(tmp_path: Path) -> None:
    images = np.lib.format.open_memmap(
        tmp_path / "frost.npy", "w+", np.dtype(np.uint8), (50_000, 32, 32, 3)
    )
    images.flush()
    labels = np.zeros(50_000, np.uint8)
    labels[10_000:20_000] = 1
    np.save(tmp_path / "labels.npy", labels)
    backbone = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 1))
    torch.nn.init.zeros_(backbone[1].weight)
    torch.nn.init.zeros_(backbone[1].bias)
    model = flowclf.build("ce", shape=(3, 32, 32), classes=2, backbone=backbone)
    model.mixture.set_means(torch.tensor([[0.0], [1.0]]))
    split = Split(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.tensor([0, 1]))
    rows = shift_table(model, split, ["frost"], [1, 2], official=tmp_path)
    assert [row["accuracy"] for row in rows] == [0.5, 1, 0, 1, 0, 0.5]


def test_mistakes_are_refused(classifier: flowclf.GenerativeClassifier, test_split: Split) -> None:
    with pytest.raises(UserError, match="at least one family and one severity"):
        shift_table(classifier, test_split, [], levels=17)
    with pytest.raises(UserError, match="a corruption out of"):
        shift_table(classifier, test_split, ["rain"], levels=17)
    with pytest.raises(UserError, match="severity from 1 to 5, got 9"):
        shift_table(classifier, test_split, ["fog"], [9], levels=17)
