"""A study runs each variant with each seed once, records it, and averages over the seeds."""

import csv
import dataclasses
from math import log
from pathlib import Path

import pytest

from benchmarks import results
from benchmarks.flowclf.cost import COSTS, run_cost
from benchmarks.flowclf.information import compare_information
from benchmarks.flowclf.latents import compare_latents
from benchmarks.flowclf.measures import MEASURES
from benchmarks.flowclf.study import Study, averages, read_study, run_study, study_names
from flowclf.cli.app import run
from flowclf.config import RunConfig, make_config
from flowclf.data import DATASETS
from flowclf.runs import Run, load_data
from flowclf.support.errors import UserError
from flowclf.training import train

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
    rows = list(run_study(TINY, [0], folder / "runs", folder / "tiny.csv"))
    assert Run(folder / "runs" / "CE-0").read_summary()["system"] == "ce"
    assert [(row["variant"], row["seed"]) for row in rows] == [("CE", 0), ("flow", 0)]
    assert rows[0]["bits_per_dim"] is None
    assert rows[1]["bits_per_dim"] > 0
    before = (folder / "tiny.csv").read_text()
    again = list(run_study(TINY, [0], record=folder / "tiny.csv"))
    assert (folder / "tiny.csv").read_text() == before
    assert [{m: row[m] for m in TINY.metrics} for row in again] == [
        {m: row[m] for m in TINY.metrics} for row in rows
    ]


def test_an_interrupted_run_goes_on_from_its_checkpoint(folder: Path) -> None:
    one = dataclasses.replace(TINY, variants={"CE": {"system": "ce"}})
    first = next(run_study(one, [0], folder / "runs", folder / "tiny.csv"))
    (folder / "tiny.csv").unlink()
    state = folder / "runs" / "CE-0" / "checkpoint" / "state.safetensors"
    before = state.read_bytes()
    again = next(run_study(one, [0], folder / "runs", folder / "tiny.csv"))
    assert again["seconds"] >= first["seconds"]  # what it had taken counts on
    assert again["accuracy"] == first["accuracy"]
    assert len(state.read_bytes()) == len(before)


def test_other_settings_are_another_run() -> None:
    other = dataclasses.replace(TINY, settings={"train": {"epochs": 2}})
    row = {"variant": "CE", "seed": "0", "settings": digest(TINY)}
    assert digest(TINY) == row["settings"] != digest(other)


def digest(study: Study) -> str:
    from benchmarks.flowclf.study import _digest

    return _digest(study.config("CE", 0))


def test_averages_have_standard_errors() -> None:
    one = dataclasses.replace(TINY, variants={"CE": {"system": "ce"}})
    rows = [dict.fromkeys(TINY.metrics) | {"variant": "CE", "accuracy": a} for a in (0.9, 0.94)]
    summary = averages(rows, one)[0]
    assert summary["seeds"] == 2
    assert summary["accuracy"] == pytest.approx((0.92, 0.02))
    assert summary["bits_per_dim"] is None
    assert averages(rows[:1], one)[0]["accuracy"] == (0.9, None)


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
    row = dict.fromkeys(TINY.metrics, 0.5) | {"variant": "CE", "system": "ce", "bits_per_dim": None}
    rows = [row | {"seed": 0, "accuracy": 0.9}, row | {"seed": 1, "accuracy": 0.94}]
    rows += [row | {"variant": variant, "seed": 0} for variant in ("GM", "VC")]
    monkeypatch.setattr("benchmarks.flowclf.study.run_study", lambda *arguments: iter(rows))
    assert run(["bench", "vc-low-data", "--seeds", "0,1"]) == 0
    out = capsys.readouterr().out
    assert "92.00 ± 2.00" in out
    assert "bits_per_dim" not in out
    assert run(["bench", "vc-low-data", "--seeds", "zero"]) == 2


def test_rows_are_read_back(folder: Path) -> None:
    assert results.read(folder / "none.csv") == []
    results.append_rows(folder / "some.csv", [{"variant": "a, b", "seed": 1}])
    with (folder / "some.csv").open() as file:
        assert results.read(folder / "some.csv") == list(csv.DictReader(file))


@pytest.mark.parametrize("name", list(COSTS))
def test_the_cost_of_a_step_is_relative_to_the_first(name: str, folder: Path) -> None:
    small = {"network": {"kind": "mlp", "hidden": [8]}}
    tiny = dataclasses.replace(COSTS[name], shape=(1, 4, 4), batch=4, settings=small)
    rows = run_cost(tiny, folder / "cost.csv", repeats=1)
    assert [row["system"] for row in rows] == list(tiny.cases)
    assert rows[0]["ratio"] == 1
    assert all(row["milliseconds"] > 0 for row in rows)
    assert all(row["megabytes"] > 0 for row in rows)
    assert len(results.read(folder / "cost.csv")) == len(rows)


def test_latents_of_runs_are_drawn_side_by_side(folder: Path) -> None:
    list(run_study(TINY, [0], folder / "runs", folder / "tiny.csv"))
    compare_latents([folder / "runs" / "CE-0", folder / "runs" / "flow-0"], folder / "both.png")
    assert (folder / "both.png").stat().st_size > 10_000


def test_information_is_compared_over_sample_sizes(folder: Path) -> None:
    settings = {
        "network": {"kind": "mlp", "hidden": [8]},
        "decoder": {"kind": "mlp", "hidden": [8]},
        "data": {"train_size": 300},
        "train": {"epochs": 2},
    }
    variants = {"as": {"system": "vae-as", "latent": 2, "identity": {"hidden": [8]}}}
    study = dataclasses.replace(TINY, settings=settings, variants=variants, measures=("rate",))
    (row,) = run_study(study, [0], folder / "runs")
    assert row["md_nats"] == pytest.approx(row["train_kl_nats"] + row["identity_nats"] - log(300))
    assert row["mi_nats"] <= row["exact_mi_nats"] + 0.1
    rows = compare_information(folder / "runs" / "as-0")
    names = [(r["estimator"], r["samples"]) for r in rows]
    assert names[:3] == [("all", 300), ("mini-batch", 100), ("mini-batch", 200)]
    assert rows[1]["mi_nats"] <= rows[0]["mi_nats"] + 0.05
    assert len(results.read(folder / "vae-as-information.csv")) == 5


def test_latents_are_scored_by_clusters_and_fitted_classifiers(folder: Path) -> None:
    study = dataclasses.replace(TINY, measures=("clusters",))
    row = next(run_study(study, [0]))
    assert all(0 < row[name] <= 1 for name in MEASURES["clusters"].names if name != "ari")


def test_a_study_may_be_like_another() -> None:
    rotated = read_study("bvae-rotated")
    assert (rotated.name, rotated.data) == ("bvae-rotated", "rotated-mnist")
    assert rotated.variants == read_study("bvae").variants


def test_measures_give_the_numbers_they_name() -> None:
    digits = DATASETS["digits"]
    small = {
        "network": {"kind": "mlp", "condition": "beta", "blocks": 1, "hidden": [8]},
        "data": {"train_size": 100, "test_size": 20, "validation": 0.2},
        "train": {"epochs": 1},
    }
    config = make_config("ib-inn", "digits", digits.shape, beta=1.0, overrides=[small])
    trained = train(config, load_data(config), device="cpu")
    for name in ("trade-off", "robustness"):
        found = MEASURES[name].of(trained)
        assert set(found) == set(MEASURES[name].names)
        assert None not in found.values()
    rest = {key: small[key] for key in ("data", "train")}
    config = make_config("ce", "digits", digits.shape, overrides=[rest])
    plain = train(config, load_data(config), device="cpu")
    assert set(MEASURES["trade-off"].of(plain).values()) == {None}
