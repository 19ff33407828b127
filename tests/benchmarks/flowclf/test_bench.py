"""`flowclf bench` and its studies: rows with their circumstances, and no bench in a wheel."""

import csv
import json
import os
import subprocess
import sys
import tomllib
from dataclasses import replace
from functools import partial
from math import log
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import torch

from benchmarks import results
from benchmarks.flowclf import classify, cost, depth, study, trained_exactness
from benchmarks.flowclf.cost import COSTS, run_cost
from benchmarks.flowclf.deciding import decisions, value_names
from benchmarks.flowclf.information import compare_information
from benchmarks.flowclf.measures import MEASURES, compare_latents
from benchmarks.flowclf.study import (
    Study,
    _digest,
    averages,
    differences,
    read_study,
    run_study,
    study_names,
)
from flowclf.cli import bench as command
from flowclf.cli.app import run
from flowclf.config import RunConfig, make_config
from flowclf.data import DATASETS, load_dataset
from flowclf.evaluation.exactness import TOLERANCE
from flowclf.runs import Run, load_data
from flowclf.support.errors import UserError
from flowclf.support.safetensors import read_tensors
from flowclf.training import Trained, train

ROOT = Path(__file__).parents[3]
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
QUICK = replace(
    TINY,
    settings={"network": {"kind": "mlp", "hidden": [8]}},
    variants={"CE": {"system": "ce"}},
    measures=(),
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Record in a folder of the test's own."""
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    return tmp_path


@pytest.fixture
def quick(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run on data that are everywhere."""
    monkeypatch.setattr(study, "read_study", lambda name: QUICK)
    monkeypatch.setitem(classify.TASKS, "mnist14", partial(load_dataset, "digits"))
    return folder


def devices(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Train on the CPU whatever is asked for, and list what was."""
    asked: list[str] = []

    def watched(config: RunConfig, *arguments: object, device: str, **options: object) -> Trained:
        asked.append(device)
        return train(config, *arguments, device="cpu", **options)  # type: ignore[arg-type]

    monkeypatch.setattr("flowclf.support.devices.pick_device", lambda name: name)
    for module in (classify, study):
        monkeypatch.setattr(module, "train", watched)
    return asked


def test_rows_are_appended_with_their_circumstances(folder: Path) -> None:
    record = results.recorded("digits.csv")
    for seeds in ([0], [1, 2]):
        classify.run_bench("digits", seeds, record, quick=True)
    rows = results.read(folder / "digits.csv")
    assert [row["seed"] for row in rows if row["system"] == "ib-inn"] == ["0", "1", "2"]
    others = {row["system"] for row in rows} - {"ib-inn"}
    assert others == {"QDA of 17 components", "logistic regression", "Gaussian"}
    assert all(row["torch"] and row["date"] for row in rows)
    assert all(row["accuracy"] or row["system"] == "Gaussian" for row in rows)


@pytest.mark.parametrize("task", ["mnist14", "bvae", "vc-cost", "mixture"])
def test_quick_is_tiny_and_records_nothing(
    task: str, quick: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    asked = devices(monkeypatch)
    small = {"network": {"kind": "mlp", "hidden": [8]}}
    tiny = replace(cost.COSTS["vc-cost"], shape=(1, 4, 4), settings=small)
    monkeypatch.setitem(cost.COSTS, "vc-cost", tiny)
    monkeypatch.chdir(quick)
    before = (ROOT / "benchmarks/couplings/results.csv").read_bytes()
    device = "cuda" if task in ("mnist14", "bvae") else "cpu"
    assert run(["bench", task, "--quick", "--device", device, "--json"]) == 0
    rows = json.loads(capfd.readouterr().out)
    assert rows[0].keys() & {"accuracy", "milliseconds", "median_ms"}
    assert asked == ["cuda"] * len(asked)
    assert len(asked) == (device == "cuda")
    assert list(quick.iterdir()) == []
    assert (ROOT / "benchmarks/couplings/results.csv").read_bytes() == before
    if task == "mixture":
        assert {"couplings", "broadcast"} <= {row["provider"] for row in rows}


def test_rows_go_where_out_says(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shortened = {"data": {"train_size": 100, "test_size": 50}, "train": {"epochs": 1}}
    short = replace(QUICK, settings=QUICK.settings | shortened)
    monkeypatch.setattr(study, "read_study", lambda name: short)
    monkeypatch.chdir(folder)
    out = folder / "own.csv"
    assert run(["bench", "bvae", "--seeds", "1", "--runs", "runs", "--out", str(out)]) == 0
    assert [row["seed"] for row in results.read(out)] == ["1"]
    assert sorted(path.name for path in folder.iterdir()) == ["own.csv", "runs"]
    out.write_text("a,b\n1,2\n")
    assert run(["bench", "bvae", "--seeds", "1", "--out", str(out)]) == 1
    assert capsys.readouterr().err.endswith("move it away, or choose another --out\n")
    assert out.read_text() == "a,b\n1,2\n"


def test_an_installed_package_says_where_the_benches_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "__file__", str(tmp_path / "flowclf" / "cli" / "bench.py"))
    assert run(["bench", "digits"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "expected a source checkout, which has the benches" in said


def test_the_wheel_has_neither_benches_nor_rows(tmp_path: Path) -> None:
    target = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    packages = target["targets"]["wheel"]["packages"]
    assert packages == ["flowclf", "couplings"]
    assert not [path for name in packages for path in (ROOT / name).rglob("*.csv")]
    pytest.importorskip("hatchling")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    without_kernels = os.environ | {"CXX": "false"}
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, env=without_kernels)
    with ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        names = wheel.namelist()
    assert "flowclf/cli/bench.py" in names
    assert not [name for name in names if "benchmarks" in name or name.endswith(".csv")]


def test_small_mnist_is_two_by_two_means_rounded_down() -> None:
    root = os.environ.get("FLOWCLF_DATA")
    if not root or not (Path(root) / "mnist").is_dir():
        pytest.skip("needs MNIST below FLOWCLF_DATA")
    small, full = classify.small_mnist(), load_dataset("mnist")
    pixels = full.test.x[:2000, 0].numpy().astype(np.float64)
    means = np.floor(pixels.reshape(2000, 14, 2, 14, 2).mean(axis=(2, 4)))
    assert np.array_equal(small.test.x[:, 0].numpy(), means)
    assert (len(small.train), small.shape, small.levels) == (10_000, (1, 14, 14), 256)


def test_a_study_is_recorded_drawn_and_not_repeated(folder: Path) -> None:
    rows = list(run_study(TINY, [0], folder / "runs", folder / "tiny.csv"))
    assert Run(folder / "runs" / "CE-0").read_summary()["system"] == "ce"
    assert [(row["variant"], row["seed"]) for row in rows] == [("CE", 0), ("flow", 0)]
    assert rows[0]["bits_per_dim"] is None
    assert rows[1]["bits_per_dim"] > 0
    folders = [folder / "runs" / name for name in ("CE-0", "flow-0")]
    compare_latents(folders, folder / "both.png")
    assert (folder / "both.png").stat().st_size > 10_000
    before = (folder / "tiny.csv").read_text()
    again = list(run_study(TINY, [0], record=folder / "tiny.csv"))
    assert (folder / "tiny.csv").read_text() == before
    found, kept = ([[row[m] for m in TINY.metrics] for row in each] for each in (again, rows))
    assert found == kept


def test_an_interrupted_run_goes_on_from_its_checkpoint(folder: Path) -> None:
    one = replace(TINY, variants={"CE": {"system": "ce"}})
    first = next(run_study(one, [0], folder / "runs", folder / "tiny.csv"))
    (folder / "tiny.csv").unlink()
    state = folder / "runs" / "CE-0" / "checkpoint" / "state.safetensors"
    before, _ = read_tensors(state)
    again = next(run_study(one, [0], folder / "runs", folder / "tiny.csv"))
    assert again["seconds"] >= first["seconds"]  # what it had taken counts on
    assert again["accuracy"] == first["accuracy"]
    after, _ = read_tensors(state)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_other_settings_are_another_run() -> None:
    other = replace(TINY, settings={"train": {"epochs": 2}})
    digests = [_digest(study.config("CE", 0)) for study in (TINY, TINY, other)]
    assert digests[0] == digests[1] != digests[2]


def test_averages_have_standard_errors() -> None:
    one = replace(TINY, variants={"CE": {"system": "ce"}})
    rows = [dict.fromkeys(TINY.metrics) | {"variant": "CE", "accuracy": a} for a in (0.9, 0.94)]
    summary = averages(rows, one)[0]
    assert summary["seeds"] == 2
    assert summary["accuracy"] == pytest.approx((0.92, 0.02))
    assert summary["bits_per_dim"] is None
    assert averages(rows[:1], one)[0]["accuracy"] == (0.9, None)


def test_differences_are_paired_by_seed() -> None:
    """Against scipy's paired test; the seed that one lacks is left out."""
    from scipy.stats import ttest_rel

    ours, theirs = [0.92, 0.95, 0.93], [0.90, 0.94, 0.90, 0.1]
    plain = dict.fromkeys(TINY.metrics)
    rows = [plain | {"variant": "CE", "seed": s, "accuracy": a} for s, a in enumerate(theirs)]
    rows += [plain | {"variant": "GM", "seed": s, "accuracy": a} for s, a in enumerate(ours)]
    both = replace(TINY, variants={"CE": {"system": "ce"}, "GM": {"system": "gm"}})
    (found,) = differences(rows, both)
    assert (found.variant, found.reference, found.pairs) == ("GM", "CE", 3)
    interval = ttest_rel(ours, theirs[:3]).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx(tuple(interval))
    assert found.mean == pytest.approx(0.02)
    assert found.decided == (found.low > 0)


@pytest.mark.parametrize("name", study_names())
def test_a_study_goes_on_in_the_columns_that_are_recorded(name: str) -> None:
    rows = results.read(results.FOLDER / f"{name}.csv")
    if not rows:
        pytest.skip("nothing is recorded yet")
    columns = ("variant", "system", "seed", *read_study(name).metrics, "settings")
    assert tuple(rows[0])[: len(columns)] == columns


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
    assert "paired differences" not in out
    assert "bits_per_dim" not in out
    assert run(["bench", "vc-low-data", "--seeds", "zero"]) == 2


@pytest.mark.parametrize("name", list(COSTS))
def test_the_cost_of_a_step_is_relative_to_the_first(name: str, folder: Path) -> None:
    small = {"network": {"kind": "mlp", "hidden": [8]}}
    tiny = replace(COSTS[name], shape=(1, 4, 4), batch=4, settings=small)
    rows = run_cost(tiny, folder / "cost.csv", repeats=1)
    assert [row["system"] for row in rows] == list(tiny.cases)
    assert rows[0]["ratio"] == 1
    assert all(row["milliseconds"] > 0 for row in rows)
    assert all(row["megabytes"] > 0 for row in rows)
    assert len(results.read(folder / "cost.csv")) == len(rows)


def test_information_is_compared_over_sample_sizes(folder: Path) -> None:
    settings = {
        "network": {"kind": "mlp", "hidden": [8]},
        "decoder": {"kind": "mlp", "hidden": [8]},
        "data": {"train_size": 300},
        "train": {"epochs": 2},
    }
    variants = {"as": {"system": "vae-as", "latent": 2, "identity": {"hidden": [8]}}}
    study = replace(TINY, settings=settings, variants=variants, measures=("rate",))
    (row,) = run_study(study, [0], folder / "runs")
    assert row["md_nats"] == pytest.approx(row["train_kl_nats"] + row["identity_nats"] - log(300))
    assert row["mi_nats"] <= row["exact_mi_nats"] + 0.1
    rows = compare_information(folder / "runs" / "as-0")
    names = [(r["estimator"], r["samples"]) for r in rows]
    assert names[:3] == [("all", 300), ("mini-batch", 100), ("mini-batch", 200)]
    assert rows[1]["mi_nats"] <= rows[0]["mi_nats"] + 0.05
    assert len(results.read(folder / "vae-as-information.csv")) == 5


def test_latents_are_scored_by_clusters_and_fitted_classifiers(folder: Path) -> None:
    study = replace(TINY, measures=("clusters",))
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
    for name in ("trade-off", "robustness", "iterated-attacks"):
        found = MEASURES[name].of(trained)
        assert set(found) == set(MEASURES[name].names)
        assert None not in found.values()
    rest = {key: small[key] for key in ("data", "train")}
    config = make_config("ce", "digits", digits.shape, overrides=[rest])
    plain = train(config, load_data(config), device="cpu")
    assert set(MEASURES["trade-off"].of(plain).values()) == {None}


def test_decisions_give_the_numbers_they_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.flowclf.deciding.COVERAGE", 0.5)
    digits = DATASETS["digits"]
    small = {
        "network": {"kind": "mlp", "blocks": 1, "hidden": [8]},
        "data": {"train_size": 400},
        "train": {"epochs": 1},
    }
    config = make_config("ib-inn", "digits", digits.shape, beta=1.0, overrides=[small])
    trained = train(config, load_data(config), device="cpu")
    specs = ("flipped", "noise:0.05")
    found = decisions(trained, specs)
    assert set(found) == set(value_names(specs))
    assert None not in found.values()
    assert found["coverage"] == pytest.approx(0.5, abs=0.05)
    assert found["false_alarm_0.05"] <= 0.05 + 4 * found["false_alarm_0.05_error"]


def columns(name: str) -> list[str]:
    """Return the columns of recorded rows before their circumstances."""
    with (results.FOLDER / name).open(encoding="utf-8", newline="") as file:
        header = next(csv.reader(file))
    return header[: header.index("date")]


def test_a_preset_is_exact_after_500_steps() -> None:
    row = trained_exactness.measure_preset("ib-inn", "mlp")
    assert row["steps"] >= 500
    assert 0 < row["inverse_error_before"] < 1e-4
    assert 0 < row["inverse_error"] < TOLERANCE
    assert [*columns("exactness.csv"), "precision"] == list(row)


def test_30_blocks_stay_exact_with_a_bound_on_each() -> None:
    """Take 60 steps at five times the default rate; unbounded, the inverse is lost (depth.csv)."""
    row = depth.survey("affine, limit 0.2, clipped", seed=0)
    assert 0 < row["inverse_error"] < TOLERANCE
    assert columns("depth.csv") == list(row)
