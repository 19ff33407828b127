"""What tests of flowclf share: a generator, one more system, commands and answers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hybrid import HYBRID

from flowclf.cli.app import run
from flowclf.systems import SYSTEMS

# Every test that runs over the systems runs this one, too.
SYSTEMS["hybrid"] = HYBRID


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


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
