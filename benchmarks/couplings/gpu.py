"""Everything worth running on a GPU that is lent for minutes: kernel tests, then all benches.

Each part runs on its own and within its time: one that fails or hangs costs itself alone, and rows
already measured are in the CSV.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.couplings.peers import notice

__all__ = ["PARTS", "run_parts"]

ROOT = Path(__file__).parents[2]
BENCH = ("-m", "benchmarks.couplings", "--device", "cuda")
# Arguments to Python, and seconds; together under ten minutes.
PARTS: dict[str, tuple[tuple[str, ...], int]] = {
    "kernel tests": (("-m", "pytest", "-q", "tests/kernels"), 120),
    "couplings": ((*BENCH, "couplings"), 220),
    "mixture": ((*BENCH, "mixture"), 40),
    "networks, not compiled": ((*BENCH, "networks", "--no-compile"), 60),
    "networks": ((*BENCH, "networks"), 150),
}


def run_parts(arguments: Sequence[str], parts: dict[str, tuple[tuple[str, ...], int]]) -> int:
    """Run all parts, the benches with these further arguments; 1 if any failed."""
    outcomes = {
        name: _run([*part, *(arguments if "benchmarks.couplings" in part else ())], seconds)
        for name, (part, seconds) in parts.items()
    }
    for name, outcome in outcomes.items():
        notice(f"{name}: {outcome}")
    return int(any(outcome != "done" for outcome in outcomes.values()))


def _run(part: Sequence[str], seconds: int) -> str:
    try:
        status = subprocess.run([sys.executable, *part], cwd=ROOT, timeout=seconds).returncode
    except subprocess.TimeoutExpired:
        return f"stopped after {seconds} s"
    return "done" if status == 0 else f"failed with status {status}"
