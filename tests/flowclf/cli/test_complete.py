"""Exit status and message say what is complete, whatever fails behind it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from flowclf.cli.app import run
from flowclf.runs import Run
from flowclf.support.atomic_files import write_yaml

Refused = Callable[..., str]
QUICK = (
    "--set", "network={kind: mlp, blocks: 1, hidden: [4]}", "--device", "cpu",
    "--set", "data.train_size=100", "--set", "data.test_size=50", "--epochs", "1",
)  # fmt: skip


def test_a_run_is_complete_though_its_figures_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*arguments: Any) -> None:
        raise OSError("cannot write latent.png: No space left on device")

    monkeypatch.setattr("flowclf.figures.run.save_figures", fail)
    assert run(["train", "ib-inn", "--out", str(tmp_path / "run"), "--no-baselines", *QUICK]) == 0
    found = capsys.readouterr()
    assert "run is complete but for its figures: cannot write latent.png" in found.err
    assert "accuracy" in found.out
    assert Run(tmp_path / "run").read_summary()


@pytest.mark.parametrize("format", ["onnx", "torch-export"])
def test_an_export_to_a_full_disk_is_one_line(
    trained: Path, format: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if format == "onnx":
        pytest.importorskip("onnxruntime")
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    out = tmp_path / {"onnx": "m.onnx", "torch-export": "m.pt2"}[format]
    try:
        status = run(["export", str(trained), "--format", format, "--out", str(out)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert status == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("flowclf: cannot write ")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("versions", "commit"), [([1], 5), ("x", ["a"]), (None, {"a": 1}), ({"torch": [2]}, None)]
)
def test_a_report_takes_any_versions_and_commit(
    copy: Path, tmp_path: Path, versions: Any, commit: Any
) -> None:
    config = copy / "config.yaml"
    document = yaml.safe_load(config.read_text("utf-8"))
    del document["sha256"]  # as of an older run
    write_yaml(config, document | {"versions": versions, "commit": commit})
    assert run(["report", str(copy), "--out", str(tmp_path / "r.html")]) == 0


def test_folders_that_cannot_be_looked_into_are_named(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused
) -> None:
    (tmp_path / "more" / "locked").mkdir(parents=True)
    iterdir = Path.iterdir

    def guarded(self: Path) -> Any:
        if self.name == "locked":
            raise PermissionError(13, "Permission denied")
        return iterdir(self)

    monkeypatch.setattr(Path, "iterdir", guarded)
    line = refused("report", tmp_path / "more", "--out", tmp_path / "r.html")
    assert "cannot look into" in line
    assert "Permission denied; name the folders of runs" in line


def test_classes_that_are_not_there_are_named(trained: Path, refused: Refused) -> None:
    words = ["--between", "classes", "--classes", "99-1", "--out", "x.png", "--device", "cpu"]
    assert "--classes of 0 to 9, got 99" in refused("interpolate", trained, *words)


def test_more_steps_than_fit_into_memory_are_refused(trained: Path, refused: Refused) -> None:
    words = ["--steps", str(10**9), "--out", "x.png", "--device", "cpu", "--pairs", "2"]
    line = refused("interpolate", trained, *words)
    assert "steps" in line or "memory" in line
    assert torch.is_grad_enabled()
