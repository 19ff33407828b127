"""`flowclf bench`: the benches of a source checkout, run and printed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from flowclf.cli.output import (
    AsJson,
    Device,
    message,
    number,
    percent,
    print_json,
    print_table,
    whole_numbers,
    with_error,
)
from flowclf.support.errors import UserError

__all__ = ["bench"]

TITLES = {
    "accuracy": "accuracy %",
    "ece": "ECE %",
    "ece_20_bins": "20 bins",
    "negative_log_posterior_nats": "-log q(y|x)",
    "bits_per_dim": "bits/dim",
    "variance_ratio": "variance",
    "knn_accuracy": "kNN %",
    "forest_accuracy": "forest %",
    "clustering_accuracy": "clusters %",
}
MAPS = ("couplings", "networks", "mixture")


def bench(
    task: Annotated[
        str,
        typer.Argument(
            help="mnist14 (75 CPU-seconds a seed), digits or mnist: whole classifiers; "
            "couplings, networks or mixture: side by side with other packages; vc-cost or "
            "vae-as-cost: a training step; or a study of several systems: vc-low-data, bvae …"
        ),
    ],
    seeds: Annotated[
        str | None,
        typer.Option(
            help="Seeds, separated by commas.", show_default="0,1,2, or those of the study"
        ),
    ] = None,
    runs: Annotated[Path | None, typer.Option(help="Keep the runs of a study here.")] = None,
    device: Annotated[
        Device | None,
        typer.Option(help="Device to compute on.", show_default="that of the bench, mostly cpu"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="CSV to append to.", show_default="the results in the checkout"),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Tiny sizes and one seed; nothing is recorded.")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Measure a fixed task, and append the rows to its results. Needs a source checkout."""
    _find_benchmarks()
    if task in MAPS:
        return _compare_maps(task, device, out, quick, as_json)
    from benchmarks.flowclf.classify import TASKS
    from benchmarks.flowclf.cost import COSTS
    from benchmarks.flowclf.study import study_names
    from benchmarks.results import recorded
    from flowclf.support.devices import pick_device

    place = device and pick_device(device.value)
    record = None if quick else out or recorded(f"{task}.csv")
    if task in TASKS:
        numbers = [0] if quick and not seeds else whole_numbers("--seeds", seeds or "0,1,2", "0,1")
        _classify(task, numbers, place or "cpu", record, as_json)
    elif task in COSTS:
        _compare_costs(task, place or "cpu", record, as_json)
    elif task in study_names():
        _run_study(task, seeds, runs, place, record, as_json)
    else:
        choices = ", ".join((*TASKS, *MAPS, *COSTS, *study_names()))
        raise UserError(f"unknown bench {task!r}; choose from: {choices}")
    return 0


def _find_benchmarks() -> None:
    """Make the folder `benchmarks` beside this package importable, before all others.

    Raises:
        UserError: there is none, as in an installed wheel.
    """
    checkout = Path(__file__).parents[2]
    if not (checkout / "benchmarks" / "results.py").is_file():
        raise UserError(
            "expected a source checkout, which has the benches, got an installed package; "
            "run pip install -e CHECKOUT"
        )
    if sys.path[:1] != [str(checkout)]:
        sys.path.insert(0, str(checkout))


def _compare_maps(
    task: str, device: Device | None, out: Path | None, quick: bool, as_json: bool
) -> int:
    """Run `python -m benchmarks.couplings` in this process; return its exit status."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from benchmarks.couplings.cli import main

    options = ["--device", device.value] if device in (Device.cpu, Device.cuda) else []
    options += ["--quick", "--no-compile", "--no-record"] if quick else []
    options += [] if out is None else ["--out", str(out)]
    return main([task, *options, *(["--json"] if as_json else [])])


def _classify(
    task: str, seeds: Sequence[int], device: str, record: Path | None, as_json: bool
) -> None:
    from benchmarks.flowclf.classify import run_bench

    rows = run_bench(task, seeds, record, device, quick=record is None)
    formats = {"accuracy": percent, "ece": lambda v: number(v, 4), "bits_per_dim": number}
    _print(task, rows, formats | {"seconds": lambda v: number(v, 1)}, as_json)


def _compare_costs(task: str, device: str, record: Path | None, as_json: bool) -> None:
    from benchmarks.flowclf.cost import COSTS, run_cost

    cost, repeats = (COSTS[task], 15) if record else (replace(COSTS[task], batch=4), 1)
    rows = run_cost(cost, record, repeats, device)
    tenths = ("milliseconds", "megabytes", "gradient_megabytes")
    formats = dict.fromkeys(tenths, lambda v: number(v, 1))
    _print("time of a training step", rows, formats | {"ratio": number}, as_json)


def _print(
    title: str,
    rows: Sequence[dict[str, Any]],
    formats: dict[str, Callable[[Any], str]],
    as_json: bool,
) -> None:
    if as_json:
        print_json(rows)
        return
    cells = [["" if v is None else formats.get(c, str)(v) for c, v in row.items()] for row in rows]
    print_table(title, [*rows[0]], cells)


def _run_study(
    name: str,
    seeds: str | None,
    runs: Path | None,
    device: str | None,
    record: Path | None,
    as_json: bool,
) -> None:
    from benchmarks.flowclf.study import averages, read_study, run_study

    study = read_study(name)
    study = replace(study, device=device or study.device, quick=record is None)
    numbers = whole_numbers("--seeds", seeds, "0,1,2") if seeds else study.seeds
    numbers = numbers if seeds or record else numbers[:1]
    rows = []
    for row in run_study(study, numbers, runs, record):
        rows.append(row)
        done = f"{len(rows)}/{len(numbers) * len(study.variants)}"
        message(f"{done}  {row['variant']}, seed {row['seed']}: {percent(row['accuracy'])}")
    summary = averages(rows, study)
    if as_json:
        print_json(summary)
        return
    shown = [m for m in study.metrics if any(row[m] for row in summary)]
    table = [
        ["seeds", *(str(row["seeds"]) for row in summary)],
        *([TITLES.get(m, m), *(_with_error(m, row[m]) for row in summary)] for m in shown),
    ]
    titles = [row["variant"] for row in summary]
    print_table(f"{name}: mean ± standard error", ("metric", *titles), table)


def _with_error(metric: str, value: tuple[float, float | None] | None) -> str:
    """Format accuracies and calibration errors in per cent."""
    factor = 100 if metric.endswith("accuracy") or metric.startswith("ece") else 1
    digits = 0 if metric == "parameters" else 1 if metric == "seconds" else 3 - (factor > 1)
    return with_error(value and (value[0], value[1] or None), factor, digits)
