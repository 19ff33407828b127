"""Tables for people, one JSON document for programs; messages go to standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

__all__ = ["message", "number", "percent", "print_json", "print_table", "status", "with_error"]


def message(text: str) -> None:
    """A line on standard error."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def status(prefix: str) -> Iterator[Callable[[str], None]]:
    """What is being done just now, on standard error: in place on a terminal, else line by line."""
    from rich.console import Console

    console = Console(file=sys.stderr)
    if not console.is_terminal:
        yield lambda text: message(prefix + text)
        return
    with console.status(prefix) as shown:
        yield lambda text: shown.update(prefix + text)


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


def with_error(value: tuple[float, float | None] | None, factor: float, digits: int) -> str:
    """A mean ± its standard error, both times a factor; a dash for None."""
    if value is None:
        return "-"
    spread = "" if value[1] is None else f" ± {value[1] * factor:.{digits}f}"
    return f"{value[0] * factor:.{digits}f}{spread}"
