"""Tables for people, one JSON document for programs; messages go to standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

__all__ = ["message", "percent", "print_json", "print_table", "number"]


def message(text: str) -> None:
    """A line on standard error."""
    print(text, file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """The one JSON document on standard output."""
    print(json.dumps(value, indent=2, allow_nan=False))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on standard output."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for position, column in enumerate(columns):
        table.add_column(column, justify="left" if position == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    # Into a pipe nothing need be cut to the width of a screen.
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def percent(value: float | None) -> str:
    """0.9812 to 98.12 %."""
    return "-" if value is None else f"{100 * value:.2f} %"


def number(value: float | None, digits: int = 3) -> str:
    """A float, or a dash for None."""
    return "-" if value is None else f"{value:.{digits}f}"
