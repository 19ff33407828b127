"""`flowclf decide`."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowclf.cli.output import (
    AsJson,
    DataDir,
    Device,
    RunFolder,
    Where,
    message,
    print_json,
    print_table,
)
from flowclf.support.atomic_files import csv_text

if TYPE_CHECKING:
    from flowclf.data import Split
    from flowclf.decide import Decider
    from flowclf.training.task import Task


class Sets(StrEnum):
    """Nonconformity of the prediction sets."""

    lac = "lac"
    aps = "aps"
    raps = "raps"


def decide(
    run: RunFolder,
    inputs: Annotated[
        list[Path], typer.Option("--input", help="Picture, folder, .npz or .csv; repeatable.")
    ],
    coverage: Annotated[float, typer.Option(help="Of the prediction sets.")] = 0.95,
    false_alarm: Annotated[
        float, typer.Option(help="Share of usual inputs that may be called never seen.")
    ] = 0.01,
    sets: Annotated[
        Sets, typer.Option(help="lac: the smallest sets; aps, raps: adapted to the input.")
    ] = Sets.lac,
    per_class: Annotated[
        bool, typer.Option("--per-class", help="The coverage holds within each class.")
    ] = False,
    score: Annotated[str, typer.Option(help="Of `flowclf evaluate --list-scores`.")] = "auto",
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Anew, even if the run has been calibrated.")
    ] = False,
    data_dir: DataDir = None,
    device: Where = Device.auto,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print comma-separated values.")] = False,
) -> None:
    """Decide for each input: accept its label, call it ambiguous, or say it was never seen.

    The first call calibrates on the run's validation split (train with --set data.validation=0.1),
    or on its test split where there is none, and keeps what it learned beside the model.
    """
    from flowclf.data import binarize
    from flowclf.data.inputs import load_inputs
    from flowclf.data.text import TextOptions
    from flowclf.runs import Run
    from flowclf.support.seeding import generator_for

    config, facts = Run(run).read_config()
    text = TextOptions(config.data.text, config.data.label)
    words, features = Run(run).read_vocabulary(), Run(run).read_features()
    found = load_inputs(inputs, facts, words, text, features)
    wanted = {"sets": sets.value, "per_class": per_class, "score": score}
    levels = {"coverage": coverage, "false_alarm": false_alarm}
    decider = _decider(run, wanted, levels, calibrate, data_dir, device.value)
    for notice in found.notices:
        message(f"note: {notice}")
    kind = config.data.binarize
    if kind != "none":  # as the splits of the run are
        generator = generator_for(config.seed, "binarize", 3)
        found = replace(found, x=binarize(found.x, kind, facts.levels, generator))
    decisions = decider(found.x)
    named = zip(found.names, decisions.rows(facts.class_names), strict=True)
    rows = [{"input": name, **row} for name, row in named]
    if as_json:
        print_json(rows)
    elif as_csv:
        cells = [{**row, "set": "|".join(row["set"])} for row in rows]
        print(csv_text(list(rows[0]), cells), end="")
    else:
        _print(rows, run)


def _decider(
    run: Path,
    wanted: dict[str, Any],
    levels: dict[str, Any],
    anew: bool,
    data_dir: Path | None,
    device: str,
) -> Decider:
    """Load the run's calibration, or make and save it where there is none of this kind."""
    from flowclf.decide import FILE, Decider
    from flowclf.evaluation.context import MOST_TRAINING
    from flowclf.models import load
    from flowclf.support.devices import pick_device
    from flowclf.training.task import load_task

    if not anew and (run / FILE).is_file():
        decider = Decider.load(run, load(run, pick_device(device)), **levels)
        if all(getattr(decider, name) == value for name, value in wanted.items()):
            return decider
    task = load_task(run, data_dir, device)
    decider = Decider(task.model, **wanted, **levels)
    split = _calibration(task)
    decider.fit(split.x, split.y, task.training.spread(MOST_TRAINING).x)
    decider.save(run)
    return decider


def _calibration(task: Task) -> Split:
    """Return the samples to calibrate on; say which."""
    if task.validation:
        return task.validation.labelled()
    message(
        f"note: calibrated on the {len(task.test):,} test samples, as the run has no validation "
        "split (--set data.validation=0.1); do not test these decisions on them"
    )
    return task.test


def _print(rows: list[dict[str, Any]], run: Path) -> None:
    cells = [
        [
            row["input"],
            row["label"],
            f"{row['probability']:.4f}",
            ", ".join(row["set"]) or "none",
            f"{row['p_value']:.4f}",
            row["decision"],
        ]
        for row in rows
    ]
    columns = ("input", "label", "probability", "set", "p-value", "decision")
    print_table(f"decisions of {run}", columns, cells)
