"""`flowclf evaluate`."""

from __future__ import annotations

from typing import Annotated

import typer

from flowclf.cli.options import AsJson, DataDir, Device, RunFolder, Where
from flowclf.cli.output import message, number, percent, print_json, print_table

__all__ = ["evaluate"]


def evaluate(
    run: RunFolder,
    suite: Annotated[
        str, typer.Option(help="Suites, separated by commas.")
    ] = "accuracy,calibration,likelihood",
    data_dir: DataDir = None,
    device: Where = Device.auto,
    as_json: AsJson = False,
) -> None:
    """Evaluate a trained run on its test set."""
    from flowclf.evaluation import evaluate as evaluate_model
    from flowclf.training.task import load_task

    task = load_task(run, data_dir, device.value)
    for notice in task.dataset.notices:
        message(f"note: {notice}")
    suites = [name.strip() for name in suite.split(",")]
    results = evaluate_model(task.model, task.test, suites, seed=task.config.seed)
    if as_json:
        print_json(
            {"run": str(run), "system": task.config.system, "data": task.config.dataset, **results}
        )
        return
    per_class = results.pop("accuracy_per_class", None) or []
    rows = [(name, _shown(name, value)) for name, value in results.items()]
    rows += [
        (f"accuracy of {name}", percent(value))
        for name, value in zip(task.dataset.class_names, per_class, strict=False)
    ]
    print_table(f"{run}: {task.config.system} on {task.config.dataset}", ("metric", "value"), rows)


def _shown(name: str, value: float | None) -> str:
    return percent(value) if name == "accuracy" else number(value, 4)
