"""Recorded rows: read back as written, with device and precision."""

import csv
from pathlib import Path

from benchmarks import results


def test_rows_are_read_back(tmp_path: Path) -> None:
    assert results.read(tmp_path / "none.csv") == []
    results.append_rows(tmp_path / "some.csv", [{"variant": "a, b", "seed": 1}])
    with (tmp_path / "some.csv").open() as file:
        assert results.read(tmp_path / "some.csv") == list(csv.DictReader(file))


def test_every_row_says_where_and_in_what_precision_it_was_measured() -> None:
    facts = {"date", "device", "precision", "torch", "flowclf", "commit"}
    for path in set(results.FOLDER.glob("*.csv")) - {results.FOLDER / "trade-off.csv"}:  # a sweep
        rows = results.read(path)
        assert facts <= rows[0].keys(), path.name
        # Empty are the precisions of the rows that were recorded before this column.
        old = {row["date"] for row in rows if not row["precision"]}
        assert max(old, default="") <= "2026-11-30", path.name
        assert all(row["device"] for row in rows), path.name


def test_what_a_row_says_of_itself_is_kept(tmp_path: Path) -> None:
    rows = [{"precision": "bf16-mixed", "seed": 0}, {"seed": 1}]
    results.append_rows(tmp_path / "some.csv", rows)
    first, second = results.read(tmp_path / "some.csv")
    assert list(first)[:4] == ["seed", "date", "device", "precision"]
    assert (first["precision"], second["precision"]) == ("bf16-mixed", "32-true")
