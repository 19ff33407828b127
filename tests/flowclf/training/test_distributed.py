"""Two processes learn what one does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

QUICK = (
    "--set", "network={kind: mlp, blocks: 2, hidden: [32]}", "--set", "data.train_size=400",
    "--set", "data.test_size=100", "--epochs", "2", "--no-baselines", "--json", "--device", "cpu",
)  # fmt: skip


def train(folder: Path, processes: int) -> dict[str, object]:
    command = [sys.executable, "-m", "flowclf", "train", "ib-inn", "--out", str(folder), *QUICK]
    finished = subprocess.run(
        [*command, "--devices", str(processes)],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    result: dict[str, object] = json.loads(finished.stdout)["test"]
    return result


def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    one, two = (train(tmp_path / str(n), n) for n in (1, 2))
    assert two["bits_per_dim"] == pytest.approx(one["bits_per_dim"], rel=1e-5)
    assert two["accuracy"] == one["accuracy"]
