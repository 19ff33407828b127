"""Pictures of a run, and of one whose inverse is inexact: refused unless allowed."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from flowclf.cli.app import run
from flowclf.evaluation import Options, samples
from flowclf.figures import kinds
from flowclf.figures.kinds import KINDS
from flowclf.support.safetensors import read_tensors, write_tensors

PICTURES = (
    "sample RUN --per-class 2",
    "sample RUN --temperature 0.4,1 --per-class 2",
    "interpolate RUN --pairs 3 --steps 4",
    "interpolate RUN RUN --pairs 2 --steps 3",  # two runs side by side
    "interpolate RUN --between means --pairs 2 --steps 3",
    "interpolate RUN --between classes --classes 4-9,3-5 --steps 3",
    "interpolate RUN --between classes --pairs 2 --steps 3",
)
HEAD = "estimator,samples,mi_nats,md_nats\n"
LARGER = 25  # times the layers of the couplings
Command = Callable[..., Any]


@pytest.fixture(scope="module")
def broken(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, its weights so large that x comes back as another x, but as numbers."""
    folder = shutil.copytree(trained, tmp_path_factory.mktemp("broken") / "run")
    file = folder / "model.safetensors"
    weights, note = read_tensors(file)
    for name in (n for n in weights if ".net.layers." in n):
        weights[name] *= LARGER
    write_tensors(file, weights, note)
    return folder


@pytest.mark.parametrize("words", PICTURES)
def test_pictures_are_written_and_inexact_ones_refused_unless_allowed(
    words: str, trained: Path, broken: Path, tmp_path: Path, refused: Command, document: Command
) -> None:
    file = tmp_path / "new" / "picture.png"
    sound, inexact = (
        [*words.replace("RUN", str(folder)).split(), "--out", file, "--device", "cpu"]
        for folder in (trained, broken)
    )
    line = refused(*inexact)
    assert line.startswith("flowclf: expected an inverse that gives ")
    assert "--allow-inexact" in line
    assert not list(tmp_path.iterdir())
    for arguments in ([*inexact, "--allow-inexact"], sound):
        assert document(*arguments) == {"figure": str(file)}
    with Image.open(file) as picture:
        assert picture.width > 100


def test_evaluate_says_how_exact_a_run_is(
    trained: Path, broken: Path, document: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = ["--device", "cpu", "--no-baselines"]
    errors = [document("evaluate", folder, *plain) for folder in (trained, broken)]
    assert errors[0]["inverse_error"] < 1e-4 < 1e-3 < errors[1]["inverse_error"]
    assert errors[0]["log_det_error"] < 1e-4
    assert run(["evaluate", str(trained), *plain]) == 0
    table = capsys.readouterr().out
    assert f"{errors[0]['inverse_error']:.1e}" in table
    assert f"{errors[0]['log_det_error']:.1e}" in table


@pytest.mark.slow
def test_a_figure_of_every_kind_or_one_line_that_says_what_it_needs(
    trained: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    few = {"families": ("fog",), "severities": (1,), "epsilons": (0.1,), "judge_steps": 2}
    monkeypatch.setattr(kinds, "Options", partial(Options, samples=20, explained=2, **few))
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
        assert run(["figure", str(trained), *arguments]) == (2 if kind in refused else 0)
        message = f"flowclf: expected {refused[kind]}" if kind in refused else ""
        assert capsys.readouterr().err.startswith(message)
        assert out.exists() == (kind not in refused)


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "", f"{HEAD}all,0,1,1\n", f"{HEAD}all,9,nan,x\n"])
def test_rows_that_cannot_be_drawn_are_refused(
    text: str, trained: Path, tmp_path: Path, refused: Command
) -> None:
    (tmp_path / "rows.csv").write_text(text, encoding="utf-8")
    arguments = ["--kind", "information", "--device", "cpu", "--rows", tmp_path / "rows.csv"]
    line = refused("figure", trained, *arguments)
    assert "expected --rows with the columns estimator, samples" in line


def test_the_help_of_a_figure_names_every_kind(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["figure", "--help"]) == 0
    text = capsys.readouterr().out
    assert [kind for kind in KINDS if kind not in text] == []


def test_a_score_without_a_figure_is_refused_and_a_dark_one_is_dark(
    trained: Path, tmp_path: Path, refused: Command, document: Command
) -> None:
    words = ["figure", trained, "--device", "cpu", "--outliers", "uniform", "--kind"]
    line = refused(*words, "roc", "--score", "luck")
    assert "expected --score to be one of negative-log-prob, typicality, entropy" in line
    dark = ["--score", "entropy", "--dark", "--out", tmp_path / "dark.png"]
    document(*words, "scores", *dark)
    with Image.open(tmp_path / "dark.png") as picture:
        assert max(picture.convert("RGB").getpixel((0, 0))) < 50


def test_explained_decisions_fit_in_80_letters(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["evaluate", str(trained), "--suite", "explain", "--device", "cpu"]) == 0
    decisions = capsys.readouterr().out.partition("decisions")[2].splitlines()
    assert len(decisions) > 10
    assert max(map(len, decisions)) <= 80


def test_pictures_in_the_folder_of_figures_have_a_dark_twin_for_the_report(
    trained: Path, tmp_path: Path, document: Command
) -> None:
    own = tmp_path / "figures"
    document("sample", trained, "--per-class", 1, "--device", "cpu", "--out", own / "grid.png")
    assert sorted(p.relative_to(own).as_posix() for p in own.rglob("*.png")) == [
        "dark/grid.png", "grid.png",
    ]  # fmt: skip


def test_judged_samples_come_with_their_figure_and_a_strip_of_walks(
    trained: Path, tmp_path: Path, document: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = samples.fit_judge
    monkeypatch.setattr(samples, "fit_judge", lambda *given: fit(*given[:5], steps=2))
    folder = shutil.copytree(trained, tmp_path / "run")
    words = ["--suite", "samples", "--samples", 20, "--temperatures", "0.5,1", "--device", "cpu"]
    found = document("evaluate", folder, *words)
    assert [row["temperature"] for row in found["sample_quality"]] == [0.5, 1]
    assert found["frechet_distance"] > 0
    for name in ("sample_quality", "strip", "dark/strip"):
        assert (folder / "figures" / f"{name}.png").is_file()
