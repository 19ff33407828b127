"""Options that several verbs share, and output: tables for people, one JSON document for programs.

Results go to standard output, messages to standard error.
"""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from flowclf.support.atomic_files import tell
from flowclf.support.errors import UserError, printable


class Device(StrEnum):
    """Device to compute on."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"  # untested


AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
DataDir = Annotated[Path | None, typer.Option(help="Folder that is searched for data first.")]
RunFolder = Annotated[Path, typer.Argument(help="Folder of a trained run.")]
message = tell
Where = Annotated[Device, typer.Option("--device", help="Device to compute on.")]


def whole_numbers(option: str, text: str, example: str) -> list[int]:
    """Parse "2,1,1" to [1, 2]: each number once, in order.

    Raises:
        UserError: anything but whole numbers with commas between them.
    """
    try:
        return sorted({int(number) for number in text.split(",")})
    except ValueError:
        raise UserError(f"expected {option} like {example}, got {text!r}") from None


def parse_temperatures(text: str) -> list[float]:
    """Parse "0.4,0.7,1" to numbers, each once.

    Raises:
        UserError: none, or one that is no number of at least 0.
    """
    try:
        found = [float(value) for value in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(value >= 0 for value in found):
        raise UserError(
            f"expected --temperature of at least 0, or several like 0.4,0.7,1, got {text!r}"
        )
    return list(dict.fromkeys(found))


@contextmanager
def status(prefix: str) -> Iterator[Callable[[str], None]]:
    """Report progress on standard error: in place on a terminal, else line by line."""
    from rich.console import Console
    from rich.text import Text

    console = Console(file=sys.stderr)
    if not console.is_terminal:
        yield lambda text: message(prefix + text)
        return
    with console.status(Text(prefix)) as shown:
        yield lambda text: shown.update(Text(prefix + text))


def print_json(value: Any) -> None:
    """Print the one JSON document to standard output."""
    print(json.dumps(value, indent=2, allow_nan=False))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table to standard output; names in it are text, whatever letters they have."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title if title.isprintable() else printable(title), title_justify="left")
    for position, column in enumerate(columns):
        table.add_column(column, justify="right" if position else "left", overflow="fold")
    for row in rows:
        table.add_row(*(cell if cell.isprintable() else printable(cell) for cell in row))
    # A pipe has no width that rows need be cut to.
    width = None if sys.stdout.isatty() else 160
    Console(width=width, markup=False, emoji=False).print(table)
