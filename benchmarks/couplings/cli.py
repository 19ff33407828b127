"""`python -m benchmarks.couplings`."""

import argparse
import json
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import NoReturn

import torch

from benchmarks.couplings.affine import affine_cases
from benchmarks.couplings.case import PEERS, Case, Options, label, notice, report_missing_peers
from benchmarks.couplings.mixture import mixture_cases
from benchmarks.couplings.networks import network_cases
from benchmarks.couplings.run import AgreementError, Effort, run_case
from benchmarks.couplings.spline import spline_cases
from benchmarks.couplings.utilisation import line, utilisation
from benchmarks.results import ROOT, Row, append, check_columns, circumstances

RECORDED = ROOT / "couplings" / "results.csv"
COLUMNS = (
    "date", "device", "threads", "python", "torch", *PEERS, "commit",
    "bench", "case", "shape", "dtype", "provider", "pass", "compiled", "compile_s", "median_ms",
    "p20_ms", "p80_ms", "peak_mb", "ratio", "memory_ratio", "roofline",
)  # fmt: skip
Cases = Callable[[Options], Iterator[Case]]
BENCHES: dict[str, tuple[Cases, ...]] = {
    "couplings": (affine_cases, spline_cases),
    "mixture": (mixture_cases,),
    "networks": (network_cases,),
}
WHAT = "default: all, one after another; gpu: tests of the kernels, then all, within ten minutes"

BENCH = ("-m", "benchmarks.couplings", "--device", "cuda")
# What is worth running on a GPU that is lent for minutes: arguments to Python, and seconds,
# together under ten minutes. A part that fails or hangs costs itself alone.
PARTS: dict[str, tuple[tuple[str, ...], int]] = {
    "kernel tests": (("-m", "pytest", "-q", "tests/kernels"), 120),
    "couplings": ((*BENCH, "couplings"), 220),
    "mixture": ((*BENCH, "mixture"), 40),
    "networks, not compiled": ((*BENCH, "networks", "--no-compile"), 60),
    "networks": ((*BENCH, "networks"), 150),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benches that are asked for; return the exit status."""
    try:
        options = _parse(arguments)
    except SystemExit as error:
        return int(error.code or 0)
    if options.bench == "gpu":
        where = ["--no-record"] if options.no_record else ["--out", str(options.out.resolve())]
        return run_parts([*where, "--quick"] if options.quick else where, PARTS)
    try:
        rows = _run(options)
    except (AgreementError, OSError) as error:
        notice(str(error))
        return 1
    print(json.dumps(rows, indent=2) if options.json else table(rows))
    return 0


def run_parts(arguments: Sequence[str], parts: dict[str, tuple[tuple[str, ...], int]]) -> int:
    """Run all parts, the benches with these further arguments; return 1 if any failed."""
    outcomes = {}
    for name, (part, seconds) in parts.items():
        command = [sys.executable, *part, *(arguments if "benchmarks.couplings" in part else ())]
        try:
            status = subprocess.run(command, cwd=ROOT.parent, timeout=seconds).returncode
            outcomes[name] = f"failed with status {status}" if status else "done"
        except subprocess.TimeoutExpired:
            outcomes[name] = f"stopped after {seconds} s"
    for name, outcome in outcomes.items():
        notice(f"{name}: {outcome}")
    return int({*outcomes.values()} != {"done"})


def table(rows: Sequence[Row]) -> str:
    """Lay out rows for people."""
    texts = ("case", "shape", "dtype", "pass")
    numbers = ("median_ms", "p20_ms", "p80_ms", "peak_mb", "ratio", "memory_ratio", "roofline")
    lines = [[*texts, "provider", *numbers]]
    for row in rows:
        lines.append([*(row[c] for c in texts), label(row), *(_number(row[c]) for c in numbers)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    formats = [f"{{:{'<' if i <= len(texts) else '>'}{width}}}" for i, width in enumerate(widths)]
    return "\n".join("  ".join(formats).format(*line).rstrip() for line in lines)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        notice(message)
        raise SystemExit(2)


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
    found = torch.cuda.is_available()
    gpu = options.bench == "gpu" or (options.device == "cuda" if options.device else found)
    options.device = "cuda" if gpu else "cpu"
    if options.seconds is None:
        options.seconds = 1.0 if gpu else 4.0
    if gpu and not found:
        parser.error("there is no CUDA device; use --device cpu")
    if options.threads is not None and options.threads < 1:
        parser.error(f"expected --threads >= 1, got {options.threads}")
    if not 0 <= options.seconds < 1e6:
        parser.error(f"expected --seconds >= 0, got {options.seconds}")
    if not options.no_record:
        if not options.out.parent.is_dir():
            parser.error(f"there is no folder {options.out.parent} for --out")
        try:
            check_columns(options.out, COLUMNS)
        except ValueError as error:
            parser.error(str(error))
    return options


def _run(options: argparse.Namespace) -> list[Row]:
    """Run case after case, whose rows are in the CSV as soon as it is done."""
    if options.threads:
        torch.set_num_threads(options.threads)
    report_missing_peers()
    device = torch.device(options.device)
    where = {"device": _name(device), "threads": torch.get_num_threads()}
    facts = circumstances("torch", *PEERS, **where)
    made_for = Options(device, options.quick, not options.no_compile)
    makers = BENCHES.values() if options.bench == "all" else [BENCHES[options.bench]]
    effort = Effort(0, least=2) if options.quick else Effort(options.seconds)
    rows: list[Row] = []
    for make in chain.from_iterable(makers):
        for case in make(made_for):
            new = [facts | row for row in run_case(case, effort)]
            append(None if options.no_record else options.out, new)
            rows += new
    if device.type == "cpu" and options.bench in ("networks", "all"):
        beside = None if options.no_record else options.out.with_name("utilisation.csv")
        for row in utilisation(options.quick, effort.seconds):
            append(beside, [facts | row])
            print(line(row), file=sys.stderr if options.json else sys.stdout, flush=True)
    return rows


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _name(device: torch.device) -> str:
    """Name the GPU, or the CPU's model."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text("utf-8").splitlines() if facts.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
