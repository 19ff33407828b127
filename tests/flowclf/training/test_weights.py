"""Weights of samples: how often they are drawn, and where they come from."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import flowclf
from flowclf.config import make_config
from flowclf.data import Split, from_arrays, load_dataset
from flowclf.data.dataset import weighted
from flowclf.sklearn import GenerativeClassifier
from flowclf.support.errors import UserError
from flowclf.training.batches import Batches
from flowclf.training.setup import fresh_model, splits

TINY = {"kind": "mlp", "blocks": 1, "hidden": [4]}


def test_rows_are_drawn_by_their_weights() -> None:
    split = weighted(Split(torch.arange(8.0)[:, None], torch.arange(8) % 2), range(8), "here")
    assert split.x[:, 0].tolist() == [*range(1, 8)]  # none of the weight 0
    batches = Batches(split, 7, 0, None, lambda x, generator: x)
    rows = torch.cat([batches.at(step).x[:, 0] for step in range(280)])
    counts = rows.long().bincount(minlength=8)
    assert counts.tolist() == pytest.approx([280 * 7 * w / 28 for w in range(8)], rel=0.1)


def test_classes_are_balanced_before_weights_are() -> None:
    y = torch.tensor([0, 0, 0, 1])
    split = Split(torch.arange(4.0)[:, None], y, torch.tensor([1.0, 1.0, 2.0, 9.0]).double())
    batches = Batches(split, 4, 0, None, lambda x, generator: x, balanced=True)
    counts = torch.cat([batches.at(step).x[:, 0] for step in range(200)]).long().bincount()
    assert counts.tolist() == pytest.approx([100, 100, 200, 400], rel=0.1)


@pytest.mark.parametrize("balanced", [False, True])
def test_class_weights_are_those_that_are_drawn(balanced: bool) -> None:
    x, y = np.random.default_rng(0).normal(size=(40, 3)), np.array([0] * 30 + [1] * 10)
    data = from_arrays(x, y, (x, y), sample_weight=np.where(y, 9.0, 1.0))
    loop = {"class_weight": "balanced" if balanced else "none"}
    mixture = {"weights": "empirical"}
    config = make_config("ib-inn", "t", (3,), train=loop, network=TINY, mixture=mixture)
    model = fresh_model(config, data, splits(config, data)[0])
    shares = model.mixture.log_weights.detach().exp().tolist()
    assert shares == pytest.approx([0.5, 0.5] if balanced else [0.25, 0.75])


def test_a_table_has_a_column_of_weights(tmp_path: Path) -> None:
    path = tmp_path / "my.csv"
    lines = [f"{n},{n % 4},{'ab'[n // 20]}" for n in range(40)]
    path.write_text("\n".join(["x,w,y", *lines]))
    data = load_dataset(str(path), target="y", weight="w")
    assert data.feature_names == ("x",)
    assert data.train.weight is not None
    assert data.train.weight.tolist() == [float(n % 4) for n in data.train.x[:, 0]]
    assert len(data.train) + len(data.test) == 30  # none of the weight 0
    assert data.sha256 != load_dataset(str(path), target="y", drop=("w",)).sha256
    named = {"data.target": "y", "data.weight": "w"}
    config = make_config("ib-inn", str(path), (1,), overrides=named)
    assert config.data.weight == "w"
    with pytest.raises(UserError, match="expected data.weight to be a column, got 'v'"):
        load_dataset(str(path), target="y", weight="v")


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        ([1.0, 2.0], "expected a weight for each of 4 rows, got \\(2,\\)"),
        ([1.0, -1.0, 1.0, 1.0], "expected weights of 0 or more, got -1"),
        ([1.0, float("nan"), 1.0, 1.0], "expected weights of 0 or more, got nan"),
        (["a", "b", "c", "d"], "expected weights that are numbers"),
    ],
)
def test_weights_that_are_none(weight: list[Any], message: str) -> None:
    split = Split(torch.zeros(4, 1), torch.zeros(4).long())
    with pytest.raises(UserError, match=message):
        weighted(split, weight, "here")


def test_a_training_learns_the_class_of_large_weight() -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(400, 2))
    y = generator.integers(0, 2, 400)  # which x says nothing of
    settings: dict[str, Any] = {"network": TINY, "epochs": 2, "verbose": False}
    heavy = np.where(y == 1, 9.0, 1.0)
    trained = flowclf.train("ib-inn", (x, y, x, y), sample_weight=heavy, **settings)
    assert float(trained.model.predict(trained.test.x).double().mean()) > 0.95
    flow = GenerativeClassifier(settings={"network": TINY}, epochs=2, random_state=0)
    assert flow.fit(x, y, sample_weight=heavy).predict(x).mean() > 0.95
    with pytest.raises(UserError, match="expected sample_weight beside"):
        flowclf.train("ib-inn", "digits", sample_weight=heavy)
