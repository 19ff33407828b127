"""A run and a saved model of version 0.1.0 load, go on and say what they said then."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

import flowclf
from flowclf.cli.app import run as command

OLDER = Path(__file__).parent / "older"
EXPECTED = json.loads((OLDER / "expected.json").read_text("utf-8"))


def same(found: Any, expected: Any, place: str = "") -> None:
    """Compare two JSON documents; numbers to what another processor may round differently."""
    if isinstance(expected, dict):
        for key in expected:
            same(found[key], expected[key], f"{place}.{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), place
        for index, pair in enumerate(zip(found, expected, strict=True)):
            same(*pair, f"{place}.{index}")
    elif isinstance(expected, float) and "exactness" not in place:
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-6), place
    else:
        assert type(found) is type(expected), place


@pytest.mark.parametrize(("name", "density"), [("run", "log_prob"), ("model", "elbo")])
def test_densities_posteriors_and_metrics_are_the_same(name: str, density: str) -> None:
    model, expected = flowclf.load(OLDER / name), EXPECTED[name]
    test = flowclf.load_dataset("digits").test
    for call in (density, "log_posterior"):
        values = getattr(model, call)(test.x[:8])
        assert_close(values, torch.tensor(expected[call]), rtol=1e-4, atol=1e-4)
    same(flowclf.evaluate(model, test, seed=0), expected["evaluate"])


def test_a_run_is_evaluated_and_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shutil.copytree(OLDER / "run", tmp_path / "run")
    before = json.loads((folder / "summary.json").read_text("utf-8"))
    assert command(["evaluate", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    same(found, {k: v for k, v in before["test"].items() if k in found})
    assert command(["train", "--resume", str(folder)]) == 0
    same(json.loads((folder / "summary.json").read_text("utf-8"))["test"], before["test"])
