"""`flowclf bench`: rows with their circumstances, tiny runs without, and no bench in a wheel."""

import json
import os
import subprocess
import sys
import tomllib
from dataclasses import replace
from functools import partial
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest

from benchmarks import results
from benchmarks.flowclf import classify, cost, study
from flowclf.cli import bench as command
from flowclf.cli.app import run
from flowclf.config import RunConfig
from flowclf.data import load_dataset
from flowclf.training import Trained, train

ROOT = Path(__file__).parents[3]
TINY = study.Study(
    name="tiny",
    data="digits",
    seeds=(0, 1),
    settings={"network": {"kind": "mlp", "hidden": [8]}},
    variants={"CE": {"system": "ce"}},
    measures=(),
    workers=1,
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run on data that are everywhere, and record in a folder of the test's own."""
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    monkeypatch.setattr(study, "read_study", lambda name: TINY)
    monkeypatch.setitem(classify.TASKS, "mnist14", partial(load_dataset, "digits"))
    return tmp_path


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
    assert others == {"QDA of 17 components", "logistic regression"}
    assert all(row["torch"] and row["date"] and row["accuracy"] for row in rows)


@pytest.mark.parametrize("task", ["mnist14", "bvae", "vc-cost", "mixture"])
def test_quick_is_tiny_and_records_nothing(
    task: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    asked = devices(monkeypatch)
    small = {"network": {"kind": "mlp", "hidden": [8]}}
    tiny = replace(cost.COSTS["vc-cost"], shape=(1, 4, 4), settings=small)
    monkeypatch.setitem(cost.COSTS, "vc-cost", tiny)
    monkeypatch.chdir(folder)
    before = (ROOT / "benchmarks/couplings/results.csv").read_bytes()
    device = "cuda" if task in ("mnist14", "bvae") else "cpu"
    assert run(["bench", task, "--quick", "--device", device, "--json"]) == 0
    rows = json.loads(capfd.readouterr().out)
    assert rows[0].keys() & {"accuracy", "milliseconds", "median_ms"}
    assert asked == ["cuda"] * len(asked)
    assert len(asked) == (device == "cuda")
    assert list(folder.iterdir()) == []
    assert (ROOT / "benchmarks/couplings/results.csv").read_bytes() == before
    if task == "mixture":
        assert {"couplings", "broadcast"} <= {row["provider"] for row in rows}


def test_rows_go_where_out_says(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shortened = {"data": {"train_size": 100, "test_size": 50}, "train": {"epochs": 1}}
    short = replace(TINY, settings=TINY.settings | shortened)
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
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
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
