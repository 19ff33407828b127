"""`flowclf evaluate` of what does not fit: one line, exit 2, nothing half-written."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from flowclf.cli.app import run

QUICK = (
    "--set", "network={kind: mlp, blocks: 1, hidden: [16]}",
    "--set", "data.train_size=300", "--set", "data.test_size=60", "--epochs", "1",
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluate") / "run"
    assert run(["train", "ib-inn", "--out", str(folder), *QUICK, "--device", "cpu"]) == 0
    return folder


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "copy")


def evaluate(folder: Path, *options: str) -> int:
    return run(["evaluate", str(folder), "--device", "cpu", "--no-baselines", *options])


def refused(folder: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """The one line on standard error of a command that must fail and write nothing."""
    before = sorted(folder.rglob("*"))
    capsys.readouterr()
    assert evaluate(folder, *options) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert sorted(folder.rglob("*")) == before
    return next(line for line in captured.err.splitlines() if line.startswith("flowclf: "))


def drawings(folder: Path, size: int, count: int = 3) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        pixels = rng.integers(256, size=(size, size), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def test_outliers_of_another_size_are_resized_with_a_note(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(drawings(tmp_path / "drawings", 30))
    assert evaluate(copy, "--suite", "ood", "--outliers", folder) == 0
    assert "note: drawings" in capsys.readouterr().err
    for figure in ("roc-typicality", "scores-typicality", "roc-entropy"):
        assert (copy / "figures" / f"{figure}.png").stat().st_size > 5000


def test_or_refused(copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(drawings(tmp_path / "drawings", 30))
    line = refused(copy, capsys, "--suite", "ood", "--outliers", folder, "--no-resize")
    assert "30" in line
    assert "8" in line


def test_an_empty_folder_of_outliers_is_refused(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "nothing").mkdir()
    line = refused(copy, capsys, "--suite", "ood", "--outliers", str(tmp_path / "nothing"))
    assert "expected at least one .png" in line


def test_weights_that_are_not_numbers_are_refused(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = load_file(copy / "model.safetensors")
    name = next(name for name in weights if name.endswith("mixture.means"))
    weights[name][0, 0] = torch.nan
    save_file(weights, copy / "model.safetensors")
    for suites in ("accuracy", "ood", "attack"):
        assert "holds NaN in mixture.means" in refused(copy, capsys, "--suite", suites)


def test_a_suite_that_needs_what_was_not_held_out_is_refused(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "data.validation" in refused(copy, capsys, "--suite", "accuracy,recalibration")


@pytest.mark.parametrize("labels", [np.zeros(40, int), np.full(40, 7)])
def test_data_of_a_single_class_are_refused(
    labels: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x = np.random.default_rng(0).normal(size=(40, 3))
    file = tmp_path / "one.npz"
    np.savez(file, x_train=x, y_train=labels, x_test=x, y_test=labels)
    assert run(["train", "ib-inn", "--data", str(file), "--out", str(tmp_path / "run")]) == 2
    assert "class" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_test_set_of_a_single_class_has_no_area_under_roc(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng, file, folder = np.random.default_rng(0), tmp_path / "some.npz", tmp_path / "run"
    y = np.arange(40) % 2
    x = rng.normal(size=(40, 3)) + y[:, None]
    np.savez(file, x_train=x, y_train=y, x_test=x[y == 1], y_test=y[y == 1])
    options = ["--data", str(file), "--out", str(folder), "--epochs", "1", "--device", "cpu"]
    assert run(["train", "ib-inn", *options]) == 0
    assert evaluate(folder, "--suite", "accuracy,calibration,likelihood,confusion") == 0
    assert "auroc" not in capsys.readouterr().out
