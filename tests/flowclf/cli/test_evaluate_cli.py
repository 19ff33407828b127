"""`flowclf evaluate` of what does not fit: one line, exit 2, nothing half-written."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flowclf.cli.app import run
from flowclf.support.safetensors import read_tensors, write_tensors

Command = Callable[..., str]


def evaluate(folder: Path, *options: str) -> int:
    return run(["evaluate", str(folder), "--device", "cpu", "--no-baselines", *options])


@pytest.fixture
def unchanged(copy: Path, refused: Command) -> Command:
    """Return a function that returns the one line of an evaluation that must write nothing."""

    def line(*options: str, progress: int = 0) -> str:
        before = sorted(copy.rglob("*"))
        plain = ["--device", "cpu", "--no-baselines"]
        said = refused("evaluate", copy, *plain, *options, progress=progress)
        assert sorted(copy.rglob("*")) == before
        return said

    return line


@pytest.fixture
def drawings(tmp_path: Path) -> str:
    """Write images of another size than the run's."""
    folder = tmp_path / "drawings"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(3):
        pixels = rng.integers(256, size=(30, 30), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return str(folder)


def test_outliers_of_another_size_are_resized_with_a_note(
    copy: Path, drawings: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(copy, "--suite", "ood", "--outliers", drawings) == 0
    assert "note: drawings" in capsys.readouterr().err
    for figure in ("roc-typicality", "scores-typicality", "roc-entropy"):
        assert (copy / "figures" / f"{figure}.png").stat().st_size > 5000


def test_or_refused_as_an_empty_folder_is(
    drawings: str, unchanged: Command, tmp_path: Path
) -> None:
    line = unchanged("--suite", "ood", "--outliers", drawings, "--no-resize")
    assert "30" in line
    assert "8" in line
    (tmp_path / "nothing").mkdir()
    line = unchanged("--suite", "ood", "--outliers", str(tmp_path / "nothing"))
    assert "expected at least one .png" in line


def test_weights_that_are_not_numbers_are_refused(copy: Path, unchanged: Command) -> None:
    weights, note = read_tensors(copy / "model.safetensors")
    name = next(name for name in weights if name.endswith("mixture.means"))
    weights[name][0, 0] = torch.nan
    write_tensors(copy / "model.safetensors", weights, note)
    for suites in ("accuracy", "ood", "attack"):
        assert "holds NaN or infinity in mixture.means" in unchanged("--suite", suites)


def test_what_does_not_apply_is_skipped_unless_nothing_else_is_asked_for(
    copy: Path, unchanged: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "data.validation" in unchanged("--suite", "recalibration,conformal", progress=2)
    assert evaluate(copy, "--suite", "accuracy,recalibration,conformal", "--outliers", "noise") == 0
    said = capsys.readouterr()
    assert "accuracy of 7" in said.out
    for words in ("'recalibration' needs samples", "'conformal' needs samples"):
        assert f"note: {copy}: skipped: the suite {words}" in said.err
    assert "note: --outliers is of the suite ood, which --suite does not name" in said.err


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Train on a small table of two classes."""
    rng, y = np.random.default_rng(0), np.arange(80) % 2
    np.savez(tmp_path / "some.npz", x=rng.normal(size=(80, 3)) + y[:, None], y=y)
    place = ["--data", str(tmp_path / "some.npz"), "--out", str(tmp_path / "table")]
    assert run(["train", "ib-inn", *place, "--epochs", "1", "--no-baselines"]) == 0
    return tmp_path / "table"


def test_runs_on_other_data_have_tables_and_baselines_of_their_own(
    copy: Path, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suites = ["--suite", "accuracy,ood", "--outliers", "noise"]
    assert run(["evaluate", str(copy), str(table), "--device", "cpu", *suites]) == 0
    said = capsys.readouterr()
    digits, _, other = said.out.partition("ib-inn on some.npz")
    assert "ib-inn on digits" in digits
    for part, names in ((digits, range(10)), (other, range(2))):
        assert part.count("QDA") == 1
        assert all(f"accuracy of {name}" in part for name in names)
    assert "accuracy of 2" not in other
    assert "AUROC" in digits
    assert "AUROC" in other


def test_a_damaged_run_costs_no_table_of_another(
    copy: Path, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (table / "model.safetensors").unlink()
    command = ["evaluate", str(copy), str(table), "--suite", "accuracy", "--no-baselines"]
    assert run(command) != 0
    assert "ib-inn on digits" in capsys.readouterr().out
    assert (copy / "evaluation.json").exists()


def test_all_suites_are_run_but_for_those_that_do_not_apply(
    table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(table, "--suite", "all") == 0
    said = capsys.readouterr()
    assert "confusion" in said.out
    for name in ("recalibration", "bound", "shift", "attack"):
        assert f"skipped: the suite '{name}' needs" in said.err


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
