"""`flowclf bench`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from flowclf.cli.output import (
    AsJson,
    Device,
    Where,
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
            "couplings, networks or mixture: side by side with other packages; or a study of "
            "several systems: vc-low-data, bvae …"
        ),
    ],
    seeds: Annotated[
        str | None,
        typer.Option(
            help="Seeds, separated by commas.", show_default="0,1,2, or those of the study"
        ),
    ] = None,
    runs: Annotated[Path | None, typer.Option(help="Keep the runs of a study here.")] = None,
    device: Where = Device.auto,
    quick: Annotated[bool, typer.Option("--quick", help="Tiny sizes, not recorded.")] = False,
    as_json: AsJson = False,
) -> int:
    """Measure a fixed task, and append the rows to the results kept beside the code."""
    if task in MAPS:
        return _compare(task, device, quick, as_json)
    _classify(task, seeds, runs, as_json)
    return 0


def _compare(task: str, device: Device, quick: bool, as_json: bool) -> int:
    """`python -m benchmarks.couplings`, which sets its own environment; its exit status."""
    arguments = [] if device == Device.auto else ["--device", device.value]
    arguments += ["--quick", "--no-record"] if quick else []
    arguments += ["--json"] if as_json else []
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.couplings", task, *arguments]
    ).returncode


def _classify(task: str, seeds: str | None, runs: Path | None, as_json: bool) -> None:
    from benchmarks.flowclf.classify import COLUMNS, TASKS, run_bench
    from benchmarks.flowclf.cost import COSTS
    from benchmarks.flowclf.study import study_names

    if task in COSTS:
        _cost(task, as_json)
        return
    if task in study_names():
        _study(task, seeds, runs, as_json)
        return
    if task not in TASKS:
        choices = ", ".join((*TASKS, *MAPS, *COSTS, *study_names()))
        raise UserError(f"unknown bench {task!r}; choose from: {choices}")
    rows = run_bench(task, whole_numbers("--seeds", seeds or "0,1,2", "0,1,2"))
    if as_json:
        print_json(rows)
        return
    formats = {"accuracy": percent, "ece": lambda v: number(v, 4), "bits_per_dim": number}
    formats["seconds"] = lambda v: number(v, 1)
    table = [[formats.get(c, _plain)(row[c]) for c in COLUMNS] for row in rows]
    print_table(task, COLUMNS, table)


def _cost(task: str, as_json: bool) -> None:
    from benchmarks.flowclf.cost import COST_COLUMNS, COSTS, run_cost

    rows = run_cost(COSTS[task])
    if as_json:
        print_json(rows)
        return
    tenths = ("milliseconds", "megabytes", "gradient_megabytes")
    formats = dict.fromkeys(tenths, lambda v: number(v, 1))
    formats["ratio"] = number
    table = [[formats.get(c, str)(row[c]) for c in COST_COLUMNS] for row in rows]
    print_table("time of a training step", COST_COLUMNS, table)


def _study(name: str, seeds: str | None, runs: Path | None, as_json: bool) -> None:
    from benchmarks.flowclf.study import averages, read_study, run_study

    study = read_study(name)
    numbers = whole_numbers("--seeds", seeds, "0,1,2") if seeds else study.seeds
    rows = []
    for row in run_study(study, numbers, runs):
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
    """Accuracies and calibration errors in per cent."""
    factor = 100 if metric.endswith("accuracy") or metric.startswith("ece") else 1
    digits = 0 if metric == "parameters" else 1 if metric == "seconds" else 3 - (factor > 1)
    return with_error(value and (value[0], value[1] or None), factor, digits)


def _plain(value: object) -> str:
    return "" if value is None else str(value)
