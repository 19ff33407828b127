"""`flowclf bench`."""

from __future__ import annotations

import subprocess
import sys
from typing import Annotated

import typer

from flowclf.cli.options import AsJson, Device, Where
from flowclf.cli.output import number, percent, print_json, print_table
from flowclf.errors import UserError

__all__ = ["bench"]


MAPS = ("couplings", "networks", "mixture")


def bench(
    task: Annotated[
        str,
        typer.Argument(
            help="mnist14 (75 CPU-seconds a seed), digits or mnist: whole classifiers; "
            "couplings, networks or mixture: side by side with other packages."
        ),
    ],
    seeds: Annotated[
        str, typer.Option(help="Seeds of a classifier, separated by commas.")
    ] = "0,1,2",
    device: Where = Device.auto,
    quick: Annotated[bool, typer.Option("--quick", help="Tiny sizes, not recorded.")] = False,
    as_json: AsJson = False,
) -> int:
    """Measure a fixed task, and append the rows to the results kept beside the code."""
    if task in MAPS:
        return _compare(task, device, quick, as_json)
    _classify(task, seeds, as_json)
    return 0


def _compare(task: str, device: Device, quick: bool, as_json: bool) -> int:
    """`python -m couplings.bench`, which sets its own environment; its exit status."""
    arguments = [] if device == Device.auto else ["--device", device.value]
    arguments += ["--quick", "--no-record"] if quick else []
    arguments += ["--json"] if as_json else []
    return subprocess.run([sys.executable, "-m", "couplings.bench", task, *arguments]).returncode


def _classify(task: str, seeds: str, as_json: bool) -> None:
    from flowclf.bench.classify import COLUMNS, TASKS, run_bench

    if task not in TASKS:
        choices = ", ".join((*TASKS, *MAPS))
        raise UserError(f"unknown bench {task!r}; choose from: {choices}")
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
