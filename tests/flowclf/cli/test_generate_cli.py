"""Pictures of a run, and of one whose inverse is inexact: refused unless allowed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from flowclf.cli.app import run
from flowclf.figures.kinds import KINDS

QUICK = (
    "--set", "network={kind: mlp, blocks: 4, hidden: [16]}", "--device", "cpu",
    "--set", "data.train_size=200", "--set", "data.test_size=40", "--epochs", "1",
)  # fmt: skip
PICTURES = {
    "sample": ["--per-class", "2"],
    "sample, two temperatures": ["--temperature", "0.3,0.7", "--per-class", "2"],
    "interpolate": ["--pairs", "2", "--steps", "3"],
    "interpolate, means": ["--between", "means", "--pairs", "2", "--steps", "3"],
    "interpolate, classes": ["--between", "classes", "--pairs", "2", "--steps", "3"],
}
LARGER = 25  # times the layers of the couplings


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generate") / "run"
    assert run(["train", "ib-inn", "--data", "digits", "--out", str(folder), *QUICK]) == 0
    return folder


@pytest.fixture(scope="module")
def broken(sound: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, its weights so large that x comes back as another x, but as numbers."""
    folder = shutil.copytree(sound, tmp_path_factory.mktemp("broken") / "run")
    file = folder / "model.safetensors"
    weights = load_file(file)
    for name in (n for n in weights if ".net.layers." in n):
        weights[name] *= LARGER
    save_file(weights, file)
    return folder


@pytest.mark.parametrize("name", PICTURES)
def test_inexact_pictures_are_refused_unless_allowed(
    name: str, sound: Path, broken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verb, options = name.partition(",")[0], [*PICTURES[name], "--out", str(tmp_path / "a.png")]
    capsys.readouterr()
    assert run([verb, str(broken), *options, "--device", "cpu"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("flowclf: expected an inverse that gives ")
    assert "--allow-inexact" in line
    assert not list(tmp_path.iterdir())
    assert run([verb, str(broken), *options, "--device", "cpu", "--allow-inexact"]) == 0
    assert run([verb, str(sound), *options, "--device", "cpu"]) == 0


def test_evaluate_says_how_exact_a_run_is(
    sound: Path, broken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, errors = ["--device", "cpu", "--no-baselines"], []
    for folder in (sound, broken):
        capsys.readouterr()
        assert run(["evaluate", str(folder), *plain, "--json"]) == 0
        errors.append(json.loads(capsys.readouterr().out))
    assert errors[0]["inverse_error"] < 1e-4 < 1e-3 < errors[1]["inverse_error"]
    assert errors[0]["log_det_error"] < 1e-4
    assert run(["evaluate", str(sound), *plain]) == 0
    table = capsys.readouterr().out
    assert f"{errors[0]['inverse_error']:.1e}" in table
    assert f"{errors[0]['log_det_error']:.1e}" in table


def test_a_figure_of_every_kind_or_one_line_that_says_what_it_needs(
    sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text(f"{HEAD}all,10,2.0,3.0\n", encoding="utf-8")
    refused = {
        "trajectory": "a run on RGB images for --kind trajectory, got data of shape 1 × 8 × 8",
        "extraction": "a system with a label among its latents for --kind extraction, got ib-inn",
        "nothing": f"--kind to be one of {', '.join(KINDS)}, got 'nothing'",
    }
    for kind in [*KINDS, "nothing"]:
        out = tmp_path / f"{kind}.png"
        arguments = ["--kind", kind, "--rows", str(rows), "--out", str(out), "--device", "cpu"]
        capsys.readouterr()
        assert run(["figure", str(sound), *arguments]) == (2 if kind in refused else 0)
        message = f"flowclf: expected {refused[kind]}" if kind in refused else ""
        assert capsys.readouterr().err.startswith(message)
        assert out.exists() == (kind not in refused)


HEAD = "estimator,samples,mi_nats,md_nats\n"


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "", f"{HEAD}all,0,1,1\n", f"{HEAD}all,9,nan,x\n"])
def test_rows_that_cannot_be_drawn_are_refused(
    text: str, sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text(text, encoding="utf-8")
    arguments = ["--kind", "information", "--device", "cpu", "--rows", str(rows)]
    assert run(["figure", str(sound), *arguments]) == 2
    assert "expected --rows with the columns estimator, samples" in capsys.readouterr().err


def test_the_help_of_a_figure_names_every_kind(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["figure", "--help"]) == 0
    text = capsys.readouterr().out
    assert [kind for kind in KINDS if kind not in text] == []
