"""`flowclf decide`: one call from pictures to decisions, and what it refuses in one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flowclf.cli.app import run
from flowclf.data import load_dataset
from flowclf.decide import FILE

Command = Callable[..., Any]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Write two test digits as 8-bit pictures, and one picture of noise."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for row in range(2):
        pixels = load_dataset("digits").test.x[row, 0].numpy().astype(np.float64) * 255 / 16
        Image.fromarray(pixels.round().astype(np.uint8)).save(folder / f"{row}.png")
    noise = np.random.default_rng(0).integers(256, size=(8, 8), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "noise.png")
    return folder


LEVELS = ("--false-alarm", "0.05", "--coverage", "0.8", "--device", "cpu")


def test_pictures_are_decided_on_and_the_calibration_kept(
    copy: Path, pictures: Path, document: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = document("decide", copy, "--input", pictures, *LEVELS)
    assert [Path(row["input"]).name for row in rows] == ["0.png", "1.png", "noise.png"]
    assert {*rows[0]} == {"input", "label", "probability", "set", "p_value", "decision"}
    assert rows[2]["decision"] == "never seen"
    written = (copy / FILE).stat().st_mtime_ns
    assert run(["decide", str(copy), "--input", str(pictures), *LEVELS, "--csv"]) == 0
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert lines[0] == "input,label,probability,set,p_value,decision"
    assert [line.rsplit(",", 1)[1] for line in lines[1:]] == [row["decision"] for row in rows]
    assert "calibrated" not in shown.err
    assert (copy / FILE).stat().st_mtime_ns == written
    # Another kind of sets is another calibration.
    assert run(["decide", str(copy), "--input", str(pictures), *LEVELS, "--sets", "aps"]) == 0
    shown = capsys.readouterr()
    assert "calibrated on the 60 test samples, as the run has no validation split" in shown.err
    assert "never seen" in shown.out
    assert (copy / FILE).stat().st_mtime_ns != written


def test_arrays_are_inputs_too(copy: Path, tmp_path: Path, document: Command) -> None:
    x = load_dataset("digits").test.x[:5, 0].numpy() * 15
    np.savez(tmp_path / "x.npz", x=x)
    rows = document("decide", copy, "--input", tmp_path / "x.npz", *LEVELS)
    assert [row["input"].rpartition(":")[2] for row in rows] == list("01234")
    json.dumps(rows)


def test_what_does_not_fit_is_refused_in_one_line(
    copy: Path, pictures: Path, tmp_path: Path, refused: Command
) -> None:
    line = refused("decide", copy, "--input", tmp_path / "absent.png")
    assert "expected an existing file or folder of inputs" in line
    (tmp_path / "rows.csv").write_text("1,2\n")
    line = refused("decide", copy, "--input", tmp_path / "rows.csv")
    assert "expected pictures or an .npz file of images, got a .csv file" in line
    line = refused("decide", copy, "--input", pictures, "--coverage", "2")
    assert "expected coverage between 0 and 1, got 2.0" in line
    line = refused("decide", copy, "--input", pictures, progress=1)
    assert "at least 99 calibration samples for false_alarm=0.01, got 60" in line
    line = refused("decide", copy, "--input", pictures, "--score", "magic", *LEVELS)
    assert "expected score to be auto or" in line
    assert not (copy / FILE).exists()
