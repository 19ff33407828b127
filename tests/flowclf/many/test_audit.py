"""Audits of data whose faults are known, and what they are written as."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flowclf.cli.app import run
from flowclf.config import make_config
from flowclf.data import Dataset, load_dataset
from flowclf.many import Audit, audit
from flowclf.many.audit import DOUBT, nearest
from flowclf.support.errors import UserError

K, COUNT = 3, 600
NETWORK = {"network": {"kind": "mlp", "blocks": 2, "hidden": [16]}, "train": {"epochs": 60}}


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Three clear clusters; rows 0 to 9 have another's label, 20 is far off, 30 is there twice."""
    rng = np.random.default_rng(0)
    y = np.arange(COUNT) % K
    x = 6 * np.stack([np.cos(2 * y), np.sin(2 * y), 0 * y], 1) + rng.normal(size=(COUNT, 3))
    y[:10] = (y[:10] + 1) % K
    x[20] += 40
    x[31] = x[30] + 1e-3
    y[31] = y[30]
    file = tmp_path_factory.mktemp("faulty") / "rows.npz"
    np.savez(file, x_train=x, y_train=y, x_test=x[:9], y_test=y[:9])
    return load_dataset(str(file))


@pytest.fixture(scope="module")
def found(faulty: Dataset) -> Audit:
    config = make_config("ib-inn", "rows.npz", (3,), overrides=[NETWORK])
    return audit(config, faulty, folds=2, device="cpu")


def test_each_fault_is_found_by_its_measure(found: Audit, faulty: Dataset) -> None:
    findings = found.findings
    doubted = found.doubt.argsort(descending=True).tolist()
    assert {row for row in doubted[:11] if row != 20} >= {*range(10)}
    assert set(findings["label"].tolist()) == {r for r in doubted if found.doubt[r] >= DOUBT}
    right = (found.label - 1) % K
    assert torch.equal(found.suggested[:10], right[:10])
    assert findings["odd"].tolist() == [] or findings["odd"][0] == 20
    assert int(found.p_value.argmin()) == 20
    assert float(found.p_value.min()) == pytest.approx(1 / COUNT)
    assert findings["duplicate"].tolist()[:2] in ([30, 31], [31, 30])
    assert (int(found.twin[30]), int(found.twin[31])) == (31, 30)
    rows = list(found.rows(faulty.class_names))
    assert {row["row"] for row in rows} >= {0, 1, 30, 31}
    assert rows[0]["findings"] == ["label"]
    assert rows[0]["label"] != rows[0]["suggested"]


def test_it_is_the_same_again(found: Audit, faulty: Dataset) -> None:
    config = make_config("ib-inn", "rows.npz", (3,), overrides=[NETWORK])
    again = audit(config, faulty, folds=2, device="cpu")
    assert torch.equal(again.log_odds, found.log_odds)


def test_the_nearest_neighbours_are_the_true_ones(generator: torch.Generator) -> None:
    """Of few dimensions exactly; of many, for rows that are much nearer than the others."""
    for dims in (5, 300):
        z = torch.randn(200, dims, generator=generator)
        z[1::2] = z[::2] + 0.1 * torch.randn(100, dims, generator=generator)
        twin, distance = nearest(z)
        apart = torch.cdist(z, z).fill_diagonal_(torch.inf)
        assert torch.equal(twin, apart.argmin(1))
        smallest = apart.amin(1).double()
        torch.testing.assert_close(distance, smallest / smallest.median(), rtol=1e-3, atol=1e-4)


def test_too_few_rows_are_refused(faulty: Dataset) -> None:
    config = make_config("ib-inn", "rows.npz", (3,), overrides=[NETWORK])
    with pytest.raises(UserError, match="expected folds of at least 2, got 1"):
        audit(config, faulty, folds=1)
    with pytest.raises(UserError, match="at least 300 rows of each class for 300 folds, got"):
        audit(config, faulty, folds=300)


def test_the_verb_writes_a_table_and_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], document: Callable[..., Any]
) -> None:
    network = "network={kind: mlp, blocks: 2, hidden: [16]}"
    options = ["--set", network, "--epochs", "2", "--folds", "2"]
    out = tmp_path / "audit"
    assert run(["audit", "--data", "digits", "--out", str(out), *options]) == 0
    shown = capsys.readouterr()
    assert "labels most in doubt" in shown.out
    with (out / "audit.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows
    assert {*rows[0]} >= {"row", "findings", "label", "suggested", "p_value", "twin"}
    page = (out / "audit.html").read_text("utf-8")
    assert page.count('<img src="data:image/png;base64,') >= min(60, len(rows))
    assert "http://" not in page
    assert "https://" not in page
    found = document("audit", "--data", "digits", "--out", tmp_path / "again", *options)
    assert found["findings"].keys() == {"label", "odd", "duplicate"}
    assert [row["row"] for row in found["worst"]] == [int(row["row"]) for row in rows]


def test_a_run_gives_its_settings_and_wrong_input_is_refused(
    tmp_path: Path, refused: Callable[..., str]
) -> None:
    folder = tmp_path / "run"
    quick = ["--set", "network={kind: mlp, blocks: 1, hidden: [8]}", "--epochs", "1"]
    quick += ["--set", "data.train_size=100"]
    assert run(["train", "ib-inn", "--out", str(folder), "--no-baselines", *quick]) == 0
    assert run(["audit", str(folder), "--folds", "2", "--out", str(tmp_path / "audit")]) == 0
    assert "either a run or --data" in refused("audit")
    assert "either a run or --data" in refused("audit", folder, "--data", "digits")
    line = refused("audit", folder, "--out", folder)
    assert "expected a new or empty folder" in line
