"""`flowclf bench`."""

from __future__ import annotations

from typing import Annotated

import typer

from flowclf.cli.output import number, percent, print_json, print_table
from flowclf.errors import UserError

__all__ = ["bench"]

BENCHES = ("mnist14",)


def bench(
    name: Annotated[str, typer.Argument(help="mnist14: small MNIST in 75 CPU-seconds.")],
    seeds: Annotated[str, typer.Option(help="Seeds, separated by commas.")] = "0,1,2",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Measure on a fixed task, and append the rows to the results in the repository."""
    if name not in BENCHES:
        raise UserError(f"unknown bench {name!r}; choose from: {', '.join(BENCHES)}")
    from flowclf.bench.mnist14 import COLUMNS, run_bench

    try:
        numbers = [int(seed) for seed in seeds.split(",")]
    except ValueError:
        raise UserError(f"expected --seeds like 0,1,2, got {seeds!r}") from None
    rows = run_bench(numbers)
    if as_json:
        print_json(rows)
        return
    table = [
        (
            str(r["seed"]),
            percent(r["accuracy"]),
            number(r["ece"], 4),
            number(r["bits_per_dim"]),
            number(r["cpu_seconds"], 1),
        )
        for r in rows
    ]
    print_table("14x14 MNIST, one thread", COLUMNS, table)
