"""`flowclf sweep`: what it prints and leaves behind, and what becomes of mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flowclf.cli.app import run

QUICK = (
    "--data", "digits", "--epochs", "1", "--workers", "1", "--device", "cpu",
    "--set", "network={kind: mlp, blocks: 1, hidden: [8]}", "--set", "data.train_size=200",
)  # fmt: skip


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep") / "out"
    assert run(["sweep", "ib-inn", "--betas", "0.1,10", "--out", str(folder), *QUICK]) == 0
    return folder


def test_a_sweep_leaves_results_and_curves(swept: Path) -> None:
    assert (swept / "results.csv").read_text().startswith("system,data,seed,beta,accuracy,ece,")
    assert (swept / "trade-off.png").stat().st_size > 10_000
    assert (swept / "ib-inn-beta=10-seed=0" / "summary.json").exists()
    figures = swept / "ib-inn-beta=10-seed=0" / "figures"
    assert {path.name for path in figures.iterdir()} == {"samples.png", "latent.png"}


def test_it_goes_on_by_its_folder_and_says_where_it_is(
    swept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["sweep", str(swept), "--workers", "1", "--json"]) == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert [row["beta"] for row in document["runs"]] == [0.1, 10]
    assert captured.err.count("(from before)") == 2
    assert run(["sweep", str(swept), "--status"]) == 0
    assert "2 done" in capsys.readouterr().out
    assert run(["sweep", str(swept), "--status", "--json"]) == 0
    assert [row["state"] for row in json.loads(capsys.readouterr().out)] == ["done", "done"]


def test_evaluations_join_the_results(swept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [str(swept / f"ib-inn-beta={beta}-seed=0") for beta in ("0.1", "10")]
    assert run(["evaluate", *runs, "--suite", "information", "--no-baselines"]) == 0
    capsys.readouterr()
    assert run(["sweep", str(swept), "--workers", "1", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert all(row["input_information_nats"] > 0 for row in document["runs"])
    assert [Path(path).name for path in document["figures"]] == [
        "trade-off.png",
        "information-plane.png",
    ]


def test_a_sweep_takes_no_new_settings_by_its_folder(
    swept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["sweep", str(swept), "--betas", "3"]) == 2
    assert "name the system to add other settings" in capsys.readouterr().err
