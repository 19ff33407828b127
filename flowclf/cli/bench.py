"""`flowclf bench`."""

from __future__ import annotations

from typing import Annotated

import typer

from flowclf.cli.options import AsJson
from flowclf.cli.output import number, percent, print_json, print_table
from flowclf.errors import UserError

__all__ = ["bench"]


def bench(
    task: Annotated[str, typer.Argument(help="mnist14 (75 CPU-seconds a seed), digits or mnist.")],
    seeds: Annotated[str, typer.Option(help="Seeds, separated by commas.")] = "0,1,2",
    as_json: AsJson = False,
) -> None:
    """Train on a fixed task, and append the rows to the results kept beside the code."""
    from flowclf.bench.classify import COLUMNS, TASKS, run_bench

    if task not in TASKS:
        raise UserError(f"unknown bench {task!r}; choose from: {', '.join(TASKS)}")
    try:
        numbers = [int(seed) for seed in seeds.split(",")]
    except ValueError:
        raise UserError(f"expected --seeds like 0,1,2, got {seeds!r}") from None
    rows = run_bench(task, numbers)
    if as_json:
        print_json(rows)
        return
    formats = {"accuracy": percent, "ece": lambda v: number(v, 4), "bits_per_dim": number}
    formats["seconds"] = lambda v: number(v, 1)
    table = [[formats.get(c, _plain)(row[c]) for c in COLUMNS] for row in rows]
    print_table(task, COLUMNS, table)


def _plain(value: object) -> str:
    return "" if value is None else str(value)
