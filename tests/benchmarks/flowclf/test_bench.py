"""The bench records what it measured, and its small MNIST is the one that peers were given."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest

from benchmarks.flowclf import classify, results
from flowclf.cli.app import run
from flowclf.config import make_config
from flowclf.data import Dataset, load_dataset
from flowclf.training import train


def test_rows_are_appended_with_their_circumstances(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    digits = load_dataset("digits")
    overrides = [{"train": {"epochs": 1}, "data": {"train_size": 200, "test_size": 50}}]

    def quick(dataset: Dataset, preset: str, seed: int) -> classify.Trained:
        config = make_config("ib-inn", "digits", dataset.shape, seed=seed, overrides=overrides)
        return train(config, dataset, device="cpu")

    monkeypatch.setattr(classify, "_train", quick)
    monkeypatch.setitem(classify.TASKS, "digits", lambda: digits)
    for seeds in ([0], [1, 2]):
        classify.run_bench("digits", seeds)
    with (tmp_path / "digits.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["seed"] for row in rows if row["system"] == "ib-inn"] == ["0", "1", "2"]
    others = {row["system"] for row in rows} - {"ib-inn"}
    assert others == {"QDA of 8 components", "logistic regression"}
    assert all(row["torch"] and row["date"] and row["accuracy"] for row in rows)


def test_maps_are_compared_by_the_bench_of_couplings(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "mixture", "--quick", "--device", "cpu", "--json"]) == 0
    rows = json.loads(capfd.readouterr().out)
    assert {"couplings", "broadcast"} <= {row["provider"] for row in rows}


def test_small_mnist_is_two_by_two_means_rounded_down() -> None:
    root = os.environ.get("FLOWCLF_DATA")
    if not root or not (Path(root) / "mnist").is_dir():
        pytest.skip("needs MNIST below FLOWCLF_DATA")
    small, full = classify.small_mnist(), load_dataset("mnist")
    pixels = full.test.x[:2000, 0].numpy().astype(np.float64)
    means = np.floor(pixels.reshape(2000, 14, 2, 14, 2).mean(axis=(2, 4)))
    assert np.array_equal(small.test.x[:, 0].numpy(), means)
    assert (len(small.train), small.shape, small.levels) == (10_000, (1, 14, 14), 256)
