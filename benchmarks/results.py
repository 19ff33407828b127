"""Recorded rows: CSVs of this checkout, each row with the date, the versions and the commit."""

import csv
import io
import json
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from zlib import crc32

Row = dict[str, Any]
ROOT = Path(__file__).parent
FOLDER = ROOT / "flowclf" / "results"


def recorded(file: str) -> Path:
    """Return the path of a CSV of the benches of whole systems."""
    return FOLDER / file


def append_rows(path: Path | None, rows: Sequence[Row], precision: str = "32-true") -> None:
    """Append rows with their circumstances at the end; without a path nothing is recorded.

    Args:
        path: of a CSV.
        rows: a `precision` or `device` of their own is kept.
        precision: of the training that is measured, else of the computation.

    Raises:
        OSError: the file cannot be written, or has other columns.
    """
    where = {"device": "cpu", "precision": precision, "machine": platform.machine()}
    facts = circumstances("torch", "flowclf", **where)
    whole = []
    for row in rows:
        found = {name: row.get(name, fact) for name, fact in facts.items()}
        whole.append({name: row[name] for name in row if name not in facts} | found)
    append(path, whole)


def append(path: Path | None, rows: Sequence[Row]) -> None:
    """Append rows as they are to a CSV, which is replaced in one go."""
    from flowclf.support.atomic_files import csv_text, write_text

    if path is None or not rows:
        return
    check_columns(path, list(rows[0]))
    old = path.read_text("utf-8") if path.exists() else ""
    write_text(path, old + csv_text(list(rows[0]), rows, header=not old))


def check_columns(path: Path, columns: Sequence[str]) -> None:
    """Refuse a file to which these columns cannot be appended.

    Raises:
        UnsupportedOperation: it has others; an OSError and a ValueError.
    """
    header = next(iter(_lines(path)), None)
    if header is not None and header != list(columns):
        message = f"{path} has other columns; move it away, or choose another --out"
        raise io.UnsupportedOperation(message)


def read(path: Path | None) -> list[dict[str, str]]:
    """Return the rows recorded so far, none where there is no file."""
    header, *rows = (path and _lines(path)) or [[]]
    return [dict(zip(header, row, strict=True)) for row in rows]


def by_seed(
    rows: Sequence[Mapping[str, str]], key: str, name: str, metric: str
) -> dict[str, float]:
    """Return the last recorded number of each seed, of the rows whose `key` is `name`."""
    return {
        row.get("seed", "0"): float(row[metric]) for row in rows if row[key] == name and row[metric]
    }


def circumstances(*packages: str, **where: Any) -> Row:
    """Return the date, where it was measured, the versions of packages, and the commit."""
    from flowclf.runs import git_commit

    facts = {"date": datetime.now(UTC).date().isoformat(), **where}
    facts["python"] = platform.python_version()
    for package in packages:
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = ""
    return facts | {"commit": git_commit() or ""}


def digest(settings: Any) -> str:
    """Return eight digits that change with any of the settings, given as JSON can hold them."""
    return f"{crc32(json.dumps(settings, sort_keys=True).encode()):08x}"


def _lines(path: Path) -> list[list[str]]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))
