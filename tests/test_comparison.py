"""The evidence that the page of features names is there."""

import re
from pathlib import Path

from typer.main import get_command

from flowclf.cli.app import app

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "comparison.md").read_text("utf-8")
ROWS = [line.strip("| ").split(" | ") for line in PAGE.splitlines() if line.startswith("| ")]


def test_every_row_has_as_many_cells_as_its_table() -> None:
    lengths = [len(row) for row in ROWS]
    assert set(lengths) == {13, 3}
    assert lengths == sorted(lengths, reverse=True)


def test_the_evidence_exists() -> None:
    named = [row[-1] for row in ROWS if row[-1].startswith("`")]
    assert len(named) > 50
    commands = get_command(app).commands  # type: ignore[attr-defined]
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    for evidence in (name.strip("`") for name in named):
        kind, _, verb = evidence.partition(" ")
        if kind in ("flowclf", "make"):
            assert verb in (commands if kind == "flowclf" else targets), evidence
        else:
            assert (ROOT / evidence).is_file(), evidence
