"""`flowclf study`: many runs for one question."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowclf.catalogue import find_metric
from flowclf.cli.output import (
    AsJson,
    DataDir,
    Device,
    Where,
    message,
    print_json,
    print_table,
    whole_numbers,
)

if TYPE_CHECKING:
    from flowclf.many import LowData, Outcome, Plan

__all__ = ["study"]

study = typer.Typer(help="Many runs for one question.", no_args_is_help=True)

SHOWN = ("accuracy", "ece")


# A group, although there is one study so far.
@study.callback()
def _group() -> None:
    """Many runs for one question."""


@study.command("low-data")
def low_data(
    systems: Annotated[
        list[str], typer.Argument(metavar="SYSTEM", help="Names of `flowclf systems`.")
    ],
    data: Annotated[str, typer.Option(help="A known name, an .npz or .csv file or a folder.")],
    out: Annotated[Path, typer.Option(help="Folder of the runs, the results and the figure.")],
    sizes: Annotated[
        str, typer.Option(help="Numbers n of training samples, separated by commas.")
    ] = "50,100,200,500,1000",
    seeds: Annotated[str, typer.Option(help="Seeds, separated by commas.")] = "0,1,2",
    updates: Annotated[
        int | None,
        typer.Option(
            help="Optimiser steps of each run, at every n.",
            show_default="those that the preset makes on all data, at most 2,000",
            min=1,
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(help="Passes over the n samples, instead of equal updates.", min=1),
    ] = None,
    preset: Annotated[str | None, typer.Option(help="A preset of all systems.")] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="A setting, as key=value; repeatable.")
    ] = None,
    device: Where = Device.auto,
    workers: Annotated[
        int, typer.Option(help="Runs at a time, one thread each.", min=1, max=1024)
    ] = 2,
    data_dir: DataDir = None,
    baselines: Annotated[bool, typer.Option(help="Also fit QDA and logistic regression.")] = True,
    as_json: AsJson = False,
) -> int:
    """Train systems on n samples, for several n and seeds: a table and learning curves.

    At one seed all systems see the same n samples, drawn by class; all are
    tested on the whole test set. Every run makes equally many updates, whatever
    n is, in batches of at most n samples: the fewer samples, the more epochs.
    With --epochs (or --set train.epochs, train.cpu_seconds) runs are as long as
    these say.

    Each run is a folder OUT/SYSTEM-n-seed. The same command again goes on where
    it was interrupted, and tries again what failed. OUT/results.csv has a row
    for every run in the folder, OUT/low-data.png the learning curves.
    """
    from flowclf.config import parse_assignments
    from flowclf.many import LowData, plan_low_data

    numbers = whole_numbers("--sizes", sizes, "50,100"), whole_numbers("--seeds", seeds, "0,1,2")
    names, overrides = list(dict.fromkeys(systems)), parse_assignments(assignments or [])
    own: dict[str, Any] = {"epochs": epochs, "updates": updates, "baselines": baselines}
    wanted = LowData(names, data, *numbers, out, overrides, preset, data_dir=data_dir, **own)
    plan = plan_low_data(wanted)
    for notice in plan.notices:
        message(f"note: {notice}")
    outcomes = _run(plan, workers, device.value)
    _report(wanted, outcomes, as_json)
    return 1 if any(outcome.failure for outcome in outcomes) else 0


def _run(plan: Plan, workers: int, device: str) -> list[Outcome]:
    """Run all jobs, with a line as each ends."""
    from flowclf.many import run_low_data
    from flowclf.training import Interrupted

    outcomes: list[Outcome] = []
    try:
        for outcome in run_low_data(plan, workers, device):
            outcomes.append(outcome)
            message(f"{len(outcomes)}/{len(plan.points)}  {outcome.name}: {_in_words(outcome)}")
    except (Interrupted, KeyboardInterrupt):
        done = f"stopped after {len(outcomes)} of {len(plan.points)} runs"
        raise Interrupted(f"{done}; the same command goes on there") from None
    return outcomes


def _in_words(outcome: Outcome) -> str:
    if outcome.failure:
        return f"failed: {outcome.failure}"
    if outcome.busy:
        return "in use by another process"
    several, accuracy = len(outcome.rows) > 1, find_metric("accuracy").written
    found = [f"{row['system']} " * several + accuracy(row["accuracy"]) for row in outcome.rows]
    text = ", ".join(found) or "not fitted"
    return f"{text} (from before)" if outcome.kept else text


def _report(study: LowData, outcomes: Sequence[Outcome], as_json: bool) -> None:
    """Notes and failures on standard error; tables, or one document; the figure."""
    from flowclf.many import averages

    notes = list(dict.fromkeys(note for outcome in outcomes for note in outcome.notes))
    failed = {outcome.name: outcome.failure for outcome in outcomes if outcome.failure}
    rows = [row for outcome in outcomes for row in outcome.rows]
    means = averages(rows, study.systems)
    several = len(study.seeds) > 1
    figure = _draw(study, means) if means else None
    for note in notes:
        message(f"note: {note}")
    for name, reason in failed.items():
        message(f"failed: {name}: {reason}")
    results = study.folder / "results.csv"
    if as_json:
        paths = {"results": str(results), "figure": figure and str(figure)}
        document = {"averages": means, "runs": rows, "failed": failed, "notes": notes}
        print_json(document | paths)
    elif figure:
        for metric in SHOWN:
            _print_table(Path(study.data).stem, means, metric)
        print(f"seeds    {', '.join(map(str, study.seeds))}" + ": mean ± standard error" * several)
        print(f"results  {results}")
        print(f"figure   {figure}")


def _draw(study: LowData, means: Sequence[dict[str, Any]]) -> Path:
    from flowclf.figures.curves import low_data_figure
    from flowclf.figures.style import save_figure

    path = study.folder / "low-data.png"
    references: Collection[str] = {row["system"] for row in means} - {*study.systems}
    seeds = len(study.seeds)
    spread = f", mean ± standard error of {seeds} seeds" if seeds > 1 else ""
    save_figure(low_data_figure(means, references, Path(study.data).stem + spread), path)
    return path


def _print_table(title: str, means: Sequence[dict[str, Any]], metric: str) -> None:
    """Print a row for each system and a column for each size; a dash: no result."""
    sizes = sorted({row["train_size"] for row in means})
    cells: dict[str, dict[int, str]] = {}
    shown = find_metric(metric)
    for row in means:
        cells.setdefault(row["system"], {})[row["train_size"]] = shown.text(*row[metric] or (None,))
    table = [[name, *(own.get(size, "-") for size in sizes)] for name, own in cells.items()]
    columns = ("system", *(f"n = {size:,}" for size in sizes))
    print_table(f"{title}: {shown.heading}", columns, table)
