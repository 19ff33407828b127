"""A study runs each variant with each seed once, records it, and averages over the seeds."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import pytest

from flowclf.bench import results
from flowclf.bench.cost import run_cost
from flowclf.bench.latents import compare_latents
from flowclf.bench.study import METRICS, Study, averages, read_study, run_study, study_names
from flowclf.cli.app import run
from flowclf.config import RunConfig
from flowclf.data import DATASETS
from flowclf.errors import UserError
from flowclf.runs import Run

TINY = Study(
    name="tiny",
    data="digits",
    seeds=(0, 1),
    settings={"data": {"train_size": 100, "test_size": 50}, "train": {"epochs": 1}},
    variants={
        "CE": {"system": "ce"},
        "flow": {"system": "class-nll", "network": {"blocks": [1], "width": [8]}},
    },
    workers=1,
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    return tmp_path


def test_a_study_is_recorded_and_not_repeated(folder: Path) -> None:
    rows = list(run_study(TINY, [0], folder / "runs"))
    assert Run(folder / "runs" / "CE-0").read_summary()["system"] == "ce"
    assert [(row["variant"], row["seed"]) for row in rows] == [("CE", 0), ("flow", 0)]
    assert rows[0]["bits_per_dim"] is None
    assert rows[1]["bits_per_dim"] > 0
    before = (folder / "tiny.csv").read_text()
    again = list(run_study(TINY, [0]))
    assert (folder / "tiny.csv").read_text() == before
    assert [{m: row[m] for m in METRICS} for row in again] == [
        {m: row[m] for m in METRICS} for row in rows
    ]


def test_an_interrupted_run_goes_on_from_its_checkpoint(folder: Path) -> None:
    one = dataclasses.replace(TINY, variants={"CE": {"system": "ce"}})
    first = next(run_study(one, [0], folder / "runs"))
    (folder / "tiny.csv").unlink()
    state = folder / "runs" / "CE-0" / "checkpoint" / "state.pt"
    before = state.read_bytes()
    again = next(run_study(one, [0], folder / "runs"))
    assert again["seconds"] >= first["seconds"]  # what it had taken counts on
    assert again["accuracy"] == first["accuracy"]
    assert len(state.read_bytes()) == len(before)


def test_other_settings_are_another_run() -> None:
    other = dataclasses.replace(TINY, settings={"train": {"epochs": 2}})
    row = {"variant": "CE", "seed": "0", "settings": digest(TINY)}
    assert digest(TINY) == row["settings"] != digest(other)


def digest(study: Study) -> str:
    from flowclf.bench.study import _digest

    return _digest(study.config("CE", 0))


def test_averages_have_standard_errors() -> None:
    rows = [dict.fromkeys(METRICS) | {"variant": "CE", "accuracy": a} for a in (0.9, 0.94)]
    summary = averages(rows, ["CE"])[0]
    assert summary["seeds"] == 2
    assert summary["accuracy"] == pytest.approx((0.92, 0.02))
    assert summary["bits_per_dim"] is None
    assert averages(rows[:1], ["CE"])[0]["accuracy"] == (0.9, None)


@pytest.mark.parametrize("name", study_names())
def test_every_study_has_valid_settings(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    study = read_study(name)
    monkeypatch.setattr(Study, "dataset", lambda self: (self.data, shape_of(self)))
    for variant in study.variants:
        assert isinstance(study.config(variant, 0), RunConfig)


def shape_of(study: Study) -> tuple[int, ...]:
    if study.data in DATASETS:
        return DATASETS[study.data].shape
    return (1,) if study.data.endswith(".csv") else (1, 28, 28)


def test_missing_data_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FLOWCLF_DATA", str(tmp_path))
    with pytest.raises(UserError, match=r"expected ag_news/test.csv below \$FLOWCLF_DATA"):
        read_study("ag-news").dataset()


def test_the_command_prints_means(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = dict.fromkeys(METRICS, 0.5) | {"variant": "CE", "system": "ce", "bits_per_dim": None}
    rows = [row | {"seed": 0, "accuracy": 0.9}, row | {"seed": 1, "accuracy": 0.94}]
    rows += [row | {"variant": variant, "seed": 0} for variant in ("GM", "VC")]
    monkeypatch.setattr("flowclf.bench.study.run_study", lambda *arguments: iter(rows))
    assert run(["bench", "vc-low-data", "--seeds", "0,1"]) == 0
    out = capsys.readouterr().out
    assert "92.00 ± 2.00" in out
    assert "bits_per_dim" not in out
    assert run(["bench", "vc-low-data", "--seeds", "zero"]) == 2


def test_rows_are_read_back(folder: Path) -> None:
    assert results.read_rows("none.csv") == []
    results.append_rows("some.csv", [{"variant": "a, b", "seed": 1}])
    with (folder / "some.csv").open() as file:
        assert results.read_rows("some.csv") == list(csv.DictReader(file))


def test_the_cost_of_a_step_is_relative_to_cross_entropy(folder: Path) -> None:
    rows = run_cost(repeats=1, batch=4, depth=10)
    assert rows[0]["system"] == "ce"
    assert rows[0]["ratio"] == 1
    assert all(row["milliseconds"] > 0 for row in rows)
    assert len(results.read_rows("vc-cost.csv")) == len(rows) == 5


def test_latents_of_runs_are_drawn_side_by_side(folder: Path) -> None:
    list(run_study(TINY, [0], folder / "runs"))
    compare_latents([folder / "runs" / "CE-0", folder / "runs" / "flow-0"], folder / "both.png")
    assert (folder / "both.png").stat().st_size > 10_000
