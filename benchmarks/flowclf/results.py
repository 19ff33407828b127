"""The recorded rows: one CSV a bench, beside this file."""

from __future__ import annotations

import csv
import json
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any
from zlib import crc32

from flowclf.runs import git_commit
from flowclf.support.atomic_files import csv_text, write_text

__all__ = ["append_rows", "digest", "read_rows"]

FOLDER = Path(__file__).parent / "results"


def append_rows(name: str, rows: Sequence[dict[str, Any]]) -> None:
    """Add rows with date, machine, versions and commit; the first row's keys are the columns."""
    facts = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "flowclf": version("flowclf"),
        "commit": git_commit() or "",
    }
    path = FOLDER / name
    old = path.read_text("utf-8") if path.exists() else ""
    added = csv_text([*rows[0], *facts], [{**row, **facts} for row in rows], header=not old)
    write_text(path, old + added)


def read_rows(name: str) -> list[dict[str, str]]:
    """The rows recorded so far; none where there is no such file."""
    path = FOLDER / name
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def digest(settings: Any) -> str:
    """Eight digits that change with any of the settings, which JSON can say."""
    return f"{crc32(json.dumps(settings, sort_keys=True).encode()):08x}"
