"""`flowclf train`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowclf.cli.output import message, number, percent, print_json, print_table
from flowclf.errors import UserError

if TYPE_CHECKING:
    from flowclf.config import RunConfig
    from flowclf.data import Dataset
    from flowclf.runs import Run
    from flowclf.training import Trained

__all__ = ["Device", "train"]

RUN_KEYS = ("system", "dataset", "preset", "seed")


class Device(StrEnum):
    """Where to compute."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


def train(
    system: Annotated[str | None, typer.Argument(help="A name of `flowclf systems`.")] = None,
    data: Annotated[str, typer.Option(help="A known name, an .npz file or a folder.")] = "digits",
    beta: Annotated[float | None, typer.Option(help="Weight of the decision.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training data.")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of everything random.", show_default="0")
    ] = None,
    device: Annotated[Device, typer.Option(help="Where to compute.")] = Device.auto,
    devices: Annotated[int, typer.Option(help="Number of processes.", min=1)] = 1,
    out: Annotated[Path | None, typer.Option(help="Folder of the run.")] = None,
    preset: Annotated[str | None, typer.Option(help="A preset of the system.")] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="A setting, as key=value; repeatable.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Settings in a YAML file.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with an interrupted run.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where to look for data first.")] = None,
    baselines: Annotated[bool, typer.Option(help="Also fit QDA and logistic regression.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Train a system, evaluate it on the test set, and record the run in a folder."""
    if resume is not None:
        given = (system, beta, epochs, seed, out, preset, assignments, config)
        run, settings, dataset = _resumed(resume, data_dir, given)
    else:
        settings, dataset = _settings(
            system, data, beta, epochs, seed, preset, assignments or [], config, data_dir
        )
        run = _new_run(settings, out)
    for notice in dataset.notices:
        message(f"note: {notice}")
    trained = _train(settings, dataset, run, device, devices, resume is not None)
    if not trained.main_process:
        return
    rows = _rows(trained, dataset, baselines)
    _report(run, dataset, trained, rows, as_json)


def _settings(
    system: str | None,
    data: str,
    beta: float | None,
    epochs: int | None,
    seed: int | None,
    preset: str | None,
    assignments: list[str],
    config: Path | None,
    data_dir: Path | None,
) -> tuple[RunConfig, Dataset]:
    from flowclf.config import make_config, parse_assignments, read_settings
    from flowclf.data import load_dataset
    from flowclf.systems import find_system

    if system is None:
        raise UserError("expected the name of a system, got none; see `flowclf systems`")
    find_system(system)
    overrides = [read_settings(config)] if config else []
    stored = {key: overrides[0].pop(key) for key in RUN_KEYS if overrides and key in overrides[0]}
    overrides.append(parse_assignments(assignments))
    if epochs is not None:
        overrides.append({"train": {"epochs": epochs}})
    # Settings before data: a misspelt key should not cost a download.
    options: dict[str, Any] = {
        "preset": preset or stored.get("preset"),
        "seed": stored.get("seed", 0) if seed is None else seed,
        "beta": beta,
        "overrides": overrides,
    }
    make_config(system, data, (1, 28, 28), **options)
    dataset = load_dataset(data, data_dir)
    return make_config(system, data, dataset.shape, **options), dataset


def _resumed(
    folder: Path, data_dir: Path | None, given: tuple[Any, ...]
) -> tuple[Run, RunConfig, Dataset]:
    from flowclf.data import load_dataset
    from flowclf.runs import Run

    if any(value not in (None, []) for value in given):
        raise UserError(
            "expected --resume alone, got other settings too: a run goes on with its own; "
            "for other settings train anew with --out"
        )
    run = Run(folder)
    config, facts = run.read_config()
    dataset = load_dataset(config.dataset, data_dir)
    if (dataset.shape, dataset.class_names) != (facts.shape, facts.class_names):
        raise UserError(f"{config.dataset} is no longer the data that {folder} was trained on")
    return run, config, dataset


def _new_run(config: RunConfig, out: Path | None) -> Run:
    from flowclf.runs import Run, new_run_folder

    return Run(new_run_folder(out, f"{config.system}-{Path(config.dataset).stem}"))


def _train(
    config: RunConfig, dataset: Dataset, run: Run, device: Device, devices: int, resume: bool
) -> Trained:
    from flowclf.training import Interrupted, TrainingDiverged, progress_bar, train

    try:
        with progress_bar(config.system) as report:
            return train(
                config,
                dataset,
                run,
                device=device.value,
                devices=devices,
                resume=resume,
                report=report,
            )
    except Interrupted as error:
        raise Interrupted(f"{error}; go on with: flowclf train --resume {run.folder}") from None
    except TrainingDiverged as error:
        raise TrainingDiverged(
            f"{error}\nthe last good checkpoint is in {run.checkpoint_file}"
        ) from None


def _rows(trained: Trained, dataset: Dataset, baselines: bool) -> list[dict[str, Any]]:
    from flowclf.evaluation.baselines import baseline_rows

    test, summary = trained.summary["test"], trained.summary
    own = {
        "system": summary["system"],
        **{name: test[name] for name in ("accuracy", "ece", "bits_per_dim")},
        "seconds": summary["seconds"],
    }
    return [
        own,
        *(baseline_rows(trained.training, trained.test, dataset.levels) if baselines else []),
    ]


def _report(
    run: Run, dataset: Dataset, trained: Trained, rows: list[dict[str, Any]], as_json: bool
) -> None:
    from flowclf.figures.run import run_figures

    figures = run_figures(trained.model, trained.test, dataset, run.figures)
    if as_json:
        print_json(
            {"run": str(run.folder), **trained.summary, "baselines": rows[1:],
             "figures": [str(path) for path in figures]}
        )  # fmt: skip
        return
    table = [
        (
            row["system"],
            percent(row["accuracy"]),
            number(row["ece"], 4),
            number(row["bits_per_dim"]),
            number(row["seconds"], 1),
        )
        for row in rows
    ]
    columns = ("system", "accuracy", "ECE", "bits/dim", "seconds")
    print_table(f"{dataset.name}: {len(trained.test)} test samples", columns, table)
    print(f"run      {run.folder}")
    for path in figures:
        print(f"figure   {path}")
