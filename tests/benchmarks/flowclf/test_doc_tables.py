"""Tables of the guides: their numbers are the rows'."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks.flowclf import doc_tables
from benchmarks.flowclf.doc_tables import DOCS, PLACE, entries, renewed, table

ROWS = [
    {"variant": "a", "seed": "0", "accuracy": "0.5", "ece": ""},
    {"variant": "a", "seed": "0", "accuracy": "0.9", "ece": ""},
    {"variant": "a", "seed": "1", "accuracy": "0.8", "ece": ""},
    {"variant": "b", "seed": "1", "accuracy": "-0.00001", "ece": "0.25"},
]


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.stem)
def test_the_tables_of_a_guide_are_what_the_rows_say(page: Path) -> None:
    """After new rows: python -m benchmarks.flowclf.doc_tables."""
    assert page.read_text("utf-8") == renewed(page.read_text("utf-8"))


def test_each_entry_is_a_table_of_a_guide() -> None:
    shown = [found[1] for page in DOCS.glob("*.md") for found in PLACE.finditer(page.read_text())]
    assert sorted(shown) == sorted(entries())


@pytest.mark.parametrize(
    ("cell", "a", "b"),
    [
        ("{accuracy}", "0.85", "0.00"),
        ("{accuracy, 100, .1f, ±}", "85.0 ± 5.0", "0.0"),
        ("{accuracy, 100, .1f, each}", "90.0, 80.0", "0.0"),
        ("{accuracy, 1, .0f, n}", "2", "1"),
        ("{accuracy, -10, .1f} ({ece})", "−8.5 (-)", "0.0 (0.25)"),
        ("{ece} / {ece, 100, .1f} ({accuracy})", "- (0.85)", "0.25 / 25.0 (0.00)"),
        ({"of": "b", "cell": "{ece}"}, "0.25", "0.25"),
    ],
)
def test_a_cell_follows_from_the_rows(
    cell: Any, a: str, b: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doc_tables, "rows_of", lambda path: ROWS)
    lines = {"A": "a", "B": {"of": "b"}, "C": {"of": "b", "columns": {"x": "mine"}}}
    entry = {"rows": "any", "head": "system", "columns": {"x": cell}, "lines": lines}
    assert table(entry) == f"| system | x |\n|---|---|\n| A | {a} |\n| B | {b} |\n| C | mine |\n"
    monkeypatch.setattr(doc_tables, "entries", lambda: {"some": entry})
    page = "Before.\n\n<!-- rows: some -->\n| old |\n|---|\n\n| another |\n"
    assert renewed(page) == f"Before.\n\n<!-- rows: some -->\n{table(entry)}\n| another |\n"
    entry["seeds"] = [1]
    assert "| B |" in table(entry)
