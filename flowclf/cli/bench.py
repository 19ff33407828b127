"""`flowclf bench`: the benches of a source checkout, run and printed."""

import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from flowclf.cli.output import AsJson, Device, message, print_json, print_table, whole_numbers
from flowclf.support.errors import UserError

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
    from benchmarks.flowclf.classify import TASKS, run_bench
    from benchmarks.flowclf.cost import COSTS, run_cost
    from benchmarks.flowclf.study import study_names
    from benchmarks.results import recorded
    from flowclf.catalogue import find_metric
    from flowclf.support.devices import pick_device

    place = device and pick_device(device.value)
    record = None if quick else out or recorded(f"{task}.csv")
    if task in TASKS:
        numbers = whole_numbers("--seeds", seeds or ("0" if quick else "0,1,2"), "0,1,2")
        rows = run_bench(task, numbers, record, place or "cpu", quick)
    elif task in COSTS:
        cost, repeats = (replace(COSTS[task], batch=4), 1) if quick else (COSTS[task], 15)
        rows = run_cost(cost, record, repeats, place or "cpu")
    elif task in study_names():
        _run_study(task, seeds, runs, place, record, as_json)
        return 0
    else:
        choices = ", ".join((*TASKS, *MAPS, *COSTS, *study_names()))
        raise UserError(f"unknown bench {task!r}; choose from: {choices}")
    if as_json:
        print_json(rows)
    else:
        cells = [[find_metric(name).written(row[name]) for name in row] for row in rows]
        print_table(task, [find_metric(name).label for name in rows[0]], cells)
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


def _run_study(
    name: str,
    seeds: str | None,
    runs: Path | None,
    device: str | None,
    record: Path | None,
    as_json: bool,
) -> None:
    from benchmarks.flowclf.study import averages, differences, read_study, run_study
    from flowclf.catalogue import find_metric

    study = read_study(name)
    study = replace(study, device=device or study.device, quick=record is None)
    numbers = whole_numbers("--seeds", seeds, "0,1,2") if seeds else study.seeds
    numbers = numbers if seeds or record else numbers[:1]
    rows = []
    for row in run_study(study, numbers, runs, record):
        rows.append(row)
        done = f"{len(rows)}/{len(numbers) * len(study.variants)}"
        accuracy = find_metric("accuracy").written(row["accuracy"])
        message(f"{done}  {row['variant']}, seed {row['seed']}: {accuracy}")
    summary, pairs = averages(rows, study), differences(rows, study)
    if as_json:
        own = {v: [asdict(pair) for pair in pairs if pair.variant == v] for v in study.variants}
        print_json([row | {"differences": own[row["variant"]]} for row in summary])
        return
    table = [["seeds", *(str(row["seeds"]) for row in summary)]]
    for key in study.metrics:
        if any(row[key] for row in summary):
            metric = find_metric(key)
            table.append([metric.heading, *(metric.text(*(row[key] or [None])) for row in summary)])
    variants = [row["variant"] for row in summary]
    print_table(f"{name}: mean ± standard error", ("metric", *variants), table)
    cells = []
    for pair in pairs:
        metric = find_metric(pair.metric)
        ends = f"{metric.text(pair.low)} to {metric.text(pair.high)}"
        versus = f"{pair.variant} - {pair.reference}"
        decided = "yes" if pair.decided else "no"
        cells.append(
            [versus, metric.heading, metric.text(pair.mean), ends, str(pair.pairs), decided]
        )
    if cells:
        columns = ("pair", "metric", "difference", "95 % interval", "seeds", "excludes 0")
        print_table("paired differences", columns, cells)
