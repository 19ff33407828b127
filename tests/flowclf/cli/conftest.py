"""What tests of the verbs share: a trained run, and copies of it."""

import shutil
from pathlib import Path

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
    ignored = shutil.ignore_patterns("evaluation.json", "figures")
    return Path(shutil.copytree(trained, tmp_path / "copy", ignore=ignored))
