"""What tests of the verbs share: a trained run, commands that are refused, and JSON documents."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowclf.cli.app import run

QUICK = (
    "--set", "network={kind: mlp, blocks: 4, hidden: [16]}", "--device", "cpu",
    "--set", "data.train_size=1200", "--set", "data.test_size=60", "--epochs", "1",
)  # fmt: skip


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a flow on digits for one epoch; tests that change the folder copy it."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    assert run(["train", "ib-inn", "--out", str(folder), *QUICK]) == 0
    return folder


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    """Copy the trained run, but not what evaluations left there."""
    ignored = shutil.ignore_patterns("evaluation.json")
    return Path(shutil.copytree(trained, tmp_path / "copy", ignore=ignored))


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return a function that runs a command, which must be refused, and returns the one line.

    `progress` lines may go before it.
    """

    def line(*arguments: str | Path, progress: int = 0) -> str:
        capsys.readouterr()
        assert run([*map(str, arguments)]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        lines = captured.err.splitlines()
        assert len(lines) == progress + 1, captured.err
        assert lines[-1].startswith("flowclf: ")
        return lines[-1]

    return line


@pytest.fixture
def document(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Return a function that runs a command with --json, and returns what it prints."""

    def parsed(*arguments: str | Path) -> Any:
        capsys.readouterr()
        assert run([*map(str, arguments), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return parsed
