"""`flowclf sweep`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
from flowclf.support.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from flowclf.many import Plan, Point, State
    from flowclf.many.jobs import Outcome

__all__ = ["sweep"]

CURVES = (
    "accuracy", "bits_per_dim", "ece", "negative_log_posterior_nats", "brier", "overconfidence",
)  # fmt: skip
TITLE = "how each measure changes with β̃, the weight of the cross-entropy"
MEASURED = ("bits_per_dim", "ece")
COLUMNS = (
    "state", "epoch", "error", *(find_metric(name).column for name in MEASURED), "minutes left"
)  # fmt: skip


def sweep(
    what: Annotated[
        str, typer.Argument(metavar="SYSTEM|DIR", help="A system, or the folder of a sweep.")
    ],
    betas: Annotated[
        str | None,
        typer.Option(help="FIRST:LAST:COUNT, evenly spaced in log β̃, or values with commas."),
    ] = None,
    grid: Annotated[
        list[str] | None, typer.Option(help="A setting's values, as key=a,b,c; repeatable.")
    ] = None,
    seeds: Annotated[str, typer.Option(help="Seeds, separated by commas.")] = "0",
    data: Annotated[str, typer.Option(help="A known name, a file or a folder.")] = "digits",
    out: Annotated[Path | None, typer.Option(help="Folder of the sweep.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training data.")] = None,
    preset: Annotated[str | None, typer.Option(help="A preset of the system.")] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of all runs, as key=value.")
    ] = None,
    engine: Annotated[str, typer.Option(help="local, ray or slurm.")] = "local",
    address: Annotated[str | None, typer.Option(help="Of a Ray cluster.")] = None,
    workers: Annotated[
        int, typer.Option(help="Runs at a time, one thread each.", min=1, max=1024)
    ] = 2,
    device: Where = Device.auto,
    status: Annotated[bool, typer.Option("--status", help="Only say how far it is.")] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try again what failed before.")
    ] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> int:
    """Train a system at many settings; results.csv and curves in the sweep's folder.

    Each run is a folder of its own. Kill the sweep at any time and start the
    same command again, or `flowclf sweep DIR`: what has ended stays, what was
    interrupted goes on from its checkpoint, what failed is listed and left
    (--retry-failed). A second command on the same folder shares the work.
    """
    from flowclf.config import merge, parse_assignments
    from flowclf.many import Sweep, parse_betas, parse_grid, plan_sweep, read_plan, states
    from flowclf.many.run import Engine, run_here

    folder = _folder(what, out)
    if status:
        _print_states(states(read_plan(folder)), as_json)
        return 0
    runner: Engine = run_here
    if engine != "local" or address is not None:
        from flowclf.many.engines import find_engine

        runner = find_engine(engine, folder, address)
    if Path(what) == folder:
        if betas is not None or grid or assignments or epochs or preset:
            raise UserError(
                f"{folder} goes on as it was begun: name the system to add other settings"
            )
        plan = read_plan(folder)
    else:
        overrides = parse_assignments(assignments or [])
        if epochs is not None:
            overrides = merge([overrides, {"train": {"epochs": epochs}}])
        wanted = () if betas is None else parse_betas(betas)
        values, numbers = parse_grid(grid or []), whole_numbers("--seeds", seeds, "0,1,2")
        settings = wanted, values, numbers, overrides, preset, data_dir
        plan = plan_sweep(Sweep(what, data, folder, *settings))
    for notice in plan.notices:
        message(f"note: {notice}")
    outcomes = _run(plan, workers, device.value, retry_failed, runner)
    _report(plan, outcomes, as_json)
    return 1 if any(outcome.failure for outcome in outcomes) else 0


def _folder(what: str, out: Path | None) -> Path:
    from flowclf.systems import SYSTEMS

    if what not in SYSTEMS and Path(what).is_dir():
        return Path(what)
    if out is None:
        raise UserError("expected --out DIR, the folder of the sweep, got none")
    return out


def _run(plan: Plan, workers: int, device: str, retry_failed: bool, engine: Any) -> list[Outcome]:
    """Run the sweep, with a live table on a terminal, else a line as each run ends."""
    from flowclf.figures.run import run_figures
    from flowclf.many import run_sweep
    from flowclf.training import Interrupted

    outcomes: list[Outcome] = []
    options: dict[str, Any] = {"retry_failed": retry_failed, "engine": engine, "draw": run_figures}
    try:
        with _live(plan) as live:
            for point, outcome in run_sweep(plan, workers, device, **options):
                outcomes.append(outcome)
                if not live:
                    place = f"{len(outcomes)}/{len(plan.points)}"
                    message(f"{place}  {point.name}: {_in_words(outcome)}")
    except (Interrupted, KeyboardInterrupt):
        done = f"stopped after {len(outcomes)} of {len(plan.points)} runs"
        raise Interrupted(f"{done}; the same command goes on there") from None
    return outcomes


@contextmanager
def _live(plan: Plan) -> Iterator[bool]:
    """Show a table that follows the runs, if standard error is a terminal."""
    from rich.console import Console
    from rich.live import Live

    from flowclf.many import states

    console = Console(file=sys.stderr, markup=False, emoji=False)
    if not console.is_terminal:
        yield False
        return
    table = lambda: _table(states(plan))  # noqa: E731
    with Live(get_renderable=table, console=console, refresh_per_second=1):
        yield True


def _table(found: Sequence[State]) -> Table:
    from rich.table import Table

    names = list(dict.fromkeys(key for state in found for key in _settings(state.point)))
    table = Table(*names, *COLUMNS)
    for state in found:
        settings = _settings(state.point)
        table.add_row(*(str(settings.get(name, "-")) for name in names), *_cells(state))
    return table


def _settings(point: Point) -> dict[str, Any]:
    shown = {key: f"{v:g}" if isinstance(v, float) else v for key, v in point.varied.items()}
    return {"system": point.config.system, **shown, "seed": point.config.seed}


def _cells(state: State) -> list[str]:
    test, progress = state.test, state.progress
    error = 1 - test["accuracy"] if test else None
    epoch = f"{progress['epoch'] + 1}" if state.kind == "running" and progress else ""
    left = state.seconds_left
    return [
        state.kind if state.reason is None else f"failed: {state.reason}",
        epoch,
        "" if error is None else find_metric("accuracy").written(error),
        *("" if not test else find_metric(name).written(test.get(name)) for name in MEASURED),
        "" if left is None else f"{left / 60:.1f}",
    ]


def _print_states(found: Sequence[State], as_json: bool) -> None:
    if as_json:
        rows = [
            {"run": s.point.name, "state": s.kind, "reason": s.reason, "progress": s.progress}
            for s in found
        ]
        print_json(rows)
        return
    kinds = [state.kind for state in found]
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    cells = [[state.point.name, *_cells(state)] for state in found]
    print_table(counts, ("run", *COLUMNS), cells)


def _in_words(outcome: Outcome) -> str:
    if outcome.failure:
        return f"failed: {outcome.failure}" + " (before: --retry-failed)" * outcome.kept
    row = outcome.rows[0]
    shown = {name: find_metric(name) for name in ("accuracy", "bits_per_dim")}
    text = ", ".join(f"{each.label} {each.written(row[name])}" for name, each in shown.items())
    return f"{text} (from before)" if outcome.kept else text


def _report(plan: Plan, outcomes: Sequence[Outcome], as_json: bool) -> None:
    """Failures on standard error; a table, or one document."""
    from flowclf.many import read_plan, states, sweep_rows

    failed = {outcome.name: outcome.failure for outcome in outcomes if outcome.failure}
    for name, reason in failed.items():
        message(f"failed: {name}: {reason}")
    results, rows = plan.folder / "results.csv", sweep_rows(read_plan(plan.folder))
    figures = [str(path) for path in _draw(plan.folder, rows)]
    if as_json:
        print_json({"runs": rows, "failed": failed, "results": str(results), "figures": figures})
        return
    _print_states(states(plan), as_json=False)
    print(f"results  {results}")
    for path in figures:
        print(f"figure   {path}")


def _draw(folder: Path, rows: Sequence[dict[str, Any]]) -> list[Path]:
    """Curves against β̃, and the information plane once the runs are evaluated for it."""
    from flowclf.figures.style import save_figures
    from flowclf.figures.trade_off import information_plane_figure, trade_off_figure

    if len({row["beta"] for row in rows} - {None}) < 2:
        return []
    metrics = [name for name in CURVES if any(row.get(name) is not None for row in rows)]
    figures = {"trade-off": trade_off_figure(rows, metrics, title=TITLE)}
    if any(row.get("input_information_nats") or row.get("mi_nats") for row in rows):
        figures["information-plane"] = information_plane_figure(rows)
    return save_figures(figures, folder)
