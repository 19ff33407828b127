"""`python -m benchmarks.couplings`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import NoReturn

import torch

from benchmarks.couplings.affine import affine_cases
from benchmarks.couplings.agreement import AgreementError
from benchmarks.couplings.case import Case, Options
from benchmarks.couplings.gpu import PARTS, run_parts
from benchmarks.couplings.measure import Effort
from benchmarks.couplings.mixture import mixture_cases
from benchmarks.couplings.networks import network_cases
from benchmarks.couplings.peers import tell_of_missing
from benchmarks.couplings.results import (
    RECORDED,
    Row,
    append,
    check_columns,
    circumstances,
    table,
)
from benchmarks.couplings.run import run_case
from benchmarks.couplings.spline import spline_cases

__all__ = ["BENCHES", "main"]

Cases = Callable[[Options], Iterator[Case]]
BENCHES: dict[str, tuple[Cases, ...]] = {
    "couplings": (affine_cases, spline_cases),
    "mixture": (mixture_cases,),
    "networks": (network_cases,),
}
WHAT = "default: all, one after another; gpu: tests of the kernels, then all, within ten minutes"
WRONG_INPUT, FAILURE = 2, 1
QUICK = Effort(seconds=0, least=2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benches that are asked for; the exit status."""
    try:
        options = _parse(arguments)
        if options.bench == "gpu":
            return run_parts(_recording(options), PARTS)
        rows = _run(options)
    except _WrongInput as error:
        return _fail(error, WRONG_INPUT)
    except (AgreementError, OSError) as error:
        return _fail(error, FAILURE)
    print(json.dumps(rows, indent=2) if options.json else table(rows))
    return 0


class _WrongInput(ValueError):
    pass


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _WrongInput(message)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser("python -m benchmarks.couplings", description=__doc__)
    add = parser.add_argument
    add("bench", nargs="?", default="all", choices=[*BENCHES, "all", "gpu"], help=WHAT)
    add("--device", choices=["cpu", "cuda"], help="default: cuda where there is one")
    add("--threads", type=int, help="of the CPU; default: torch's own choice")
    add("--seconds", type=float, help="of measuring a pass; default: 4, on a GPU 1")
    add("--quick", action="store_true", help="tiny cases, which measure nothing")
    add("--no-compile", action="store_true", help="without the rows of torch.compile")
    add("--json", action="store_true", help="print one JSON document, not a table")
    add("--out", type=Path, default=RECORDED, help="CSV to append to; default: %(default)s")
    add("--no-record", action="store_true", help="print only")
    options = parser.parse_args(arguments)
    if options.bench == "gpu":
        options.device = "cuda"
    options.device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if options.seconds is None:
        options.seconds = 1.0 if options.device == "cuda" else 4.0
    _check(options)
    return options


def _check(options: argparse.Namespace) -> None:
    if options.device == "cuda" and not torch.cuda.is_available():
        raise _WrongInput("there is no CUDA device; use --device cpu")
    if options.threads is not None and options.threads < 1:
        raise _WrongInput(f"expected --threads >= 1, got {options.threads}")
    if not 0 <= options.seconds < 1e6:
        raise _WrongInput(f"expected --seconds >= 0, got {options.seconds}")
    if options.no_record:
        return
    if not options.out.parent.is_dir():
        raise _WrongInput(f"there is no folder {options.out.parent} for --out")
    try:
        check_columns(options.out)
    except ValueError as error:
        raise _WrongInput(str(error)) from error


def _run(options: argparse.Namespace) -> list[Row]:
    """Row by row into the CSV, as soon as a case is done."""
    if options.threads:
        torch.set_num_threads(options.threads)
    tell_of_missing()
    device = torch.device(options.device)
    facts = circumstances(device)
    made_for = Options(device, options.quick, not options.no_compile)
    makers = BENCHES.values() if options.bench == "all" else [BENCHES[options.bench]]
    effort = QUICK if options.quick else Effort(seconds=options.seconds)
    rows: list[Row] = []
    for make in chain.from_iterable(makers):
        for case in make(made_for):
            measured = run_case(case, effort)
            new = [facts | row for row in measured]
            if not options.no_record:
                append(options.out, new)
            rows += new
    return rows


def _recording(options: argparse.Namespace) -> list[str]:
    """Where rows go, as arguments again."""
    where = ["--no-record"] if options.no_record else ["--out", str(options.out.resolve())]
    return [*where, "--quick"] if options.quick else where


def _fail(error: Exception, status: int) -> int:
    print(f"bench: {error}", file=sys.stderr)
    return status
