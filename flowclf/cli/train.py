"""`flowclf train`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from flowclf.cli.output import (
    AsJson,
    DataDir,
    Device,
    Where,
    message,
    number,
    percent,
    print_json,
    print_table,
)
from flowclf.support.errors import UserError

if TYPE_CHECKING:
    from couplings.core import Shape
    from flowclf.config import RunConfig
    from flowclf.data import Dataset
    from flowclf.runs import Run
    from flowclf.training import Trained

__all__ = ["train"]


def train(
    system: Annotated[str | None, typer.Argument(help="A name of `flowclf systems`.")] = None,
    data: Annotated[
        str | None,
        typer.Option(help="A known name, an .npz file or a folder.", show_default="digits"),
    ] = None,
    beta: Annotated[float | None, typer.Option(help="Weight of the decision.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training data.")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of everything random.", show_default="0")
    ] = None,
    device: Where = Device.auto,
    devices: Annotated[
        int | None,
        typer.Option(
            help="Processes on each machine.", min=1, max=1024, show_default="as started, or 1"
        ),
    ] = None,
    nodes: Annotated[
        int | None,
        typer.Option(help="Machines.", min=1, max=65536, show_default="as started, or 1"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run.")] = None,
    preset: Annotated[str | None, typer.Option(help="A preset of the system.")] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="A setting, as key=value; repeatable.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Settings in a YAML file.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with an interrupted run.")] = None,
    data_dir: DataDir = None,
    baselines: Annotated[bool, typer.Option(help="Also fit QDA and logistic regression.")] = True,
    as_json: AsJson = False,
) -> None:
    """Train a system, evaluate it on the test set, and record the run in a folder."""
    request = Request(system, data, beta, epochs, seed, preset, assignments or [], config)
    place = Place(device.value, devices, nodes)
    with _one_voice():
        run, settings, dataset = _prepare(request, resume, out, data_dir, place)
        trained = _train(settings, dataset, run, place, resume is not None)
    if not trained.main_process:
        return
    rows = _rows(trained, dataset, baselines)
    _report(run, dataset, trained, rows, as_json)


class Place(NamedTuple):
    """Where to compute; None: as many as were started."""

    device: str
    devices: int | None
    nodes: int | None


@dataclass(frozen=True)
class Request:
    """What was asked for on the command line; None where nothing was said."""

    system: str | None
    data: str | None
    beta: float | None
    epochs: int | None
    seed: int | None
    preset: str | None
    assignments: list[str]
    config: Path | None

    def make(self, dataset: str, shape: Shape, base: dict[str, Any] | None = None) -> RunConfig:
        """The configuration: on top of `base`, the file's settings, then those of the options."""
        from flowclf.config import NAMES, make_config, parse_assignments, read_settings

        if self.system is None:
            raise UserError("expected the name of a system, got none; see `flowclf systems`")
        layers = [base or {}, read_settings(self.config) if self.config else {}]
        names = {key: layer.pop(key) for layer in layers for key in NAMES if key in layer}
        layers.append(parse_assignments(self.assignments))
        if self.epochs is not None:
            layers.append({"train": {"epochs": self.epochs}})
        return make_config(
            self.system,
            dataset,
            shape,
            preset=self.preset or names.get("preset"),
            seed=names.get("seed", 0) if self.seed is None else self.seed,
            beta=self.beta,
            overrides=layers,
        )


@contextmanager
def _one_voice() -> Iterator[None]:
    """Of what ends all processes of a training the first alone tells, by its status, too."""
    from flowclf.training import Interrupted, TrainingDiverged
    from flowclf.training.distributed import Elsewhere, told_by_first

    try:
        yield
    except (Elsewhere, Interrupted, TrainingDiverged) as error:
        if not told_by_first(error):
            raise
        # Fabric kills all processes when one that it started ends with another status.
        raise typer.Exit(0) from None


def _prepare(
    request: Request, resume: Path | None, out: Path | None, data_dir: Path | None, place: Place
) -> tuple[Run, RunConfig, Dataset]:
    from flowclf.training.distributed import fail_together, first_process

    try:
        if resume is not None:
            run, settings, dataset = _resumed(resume, out, data_dir, request)
        else:
            settings, dataset = _settings(request, data_dir)
            run = _new_run(settings, out)
    except UserError as error:
        fail_together(error, *place)
        raise
    for notice in dataset.notices if first_process() else ():
        message(f"note: {notice}")
    return run, settings, dataset


def _settings(request: Request, data_dir: Path | None) -> tuple[RunConfig, Dataset]:
    from flowclf.data import DATASETS
    from flowclf.runs import load_data

    name = "digits" if request.data is None else request.data
    # Settings before data: a misspelt key should not cost a download, and they say how texts are
    # read. Only the default preset may be another for the shape that the data turn out to have.
    known = DATASETS[name].shape if name in DATASETS else (1,)
    dataset = load_data(request.make(name, known), data_dir)
    return request.make(name, dataset.shape), dataset


def _resumed(
    folder: Path, out: Path | None, data_dir: Path | None, request: Request
) -> tuple[Run, RunConfig, Dataset]:
    """The run as it is; other settings on the command line must be those that it has."""
    from flowclf.runs import Run

    run = Run(folder)
    config, facts = run.read_config()
    asked = replace(request, system=request.system or config.system)
    wanted = asked.make(request.data or config.dataset, facts.shape, base=config.to_dict())
    if wanted != config or out not in (None, folder):
        raise UserError(
            f"{folder} was started with other settings, and goes on with its own: leave out all "
            "but --resume, or train anew with --out"
        )
    return run, config, run.load_data(data_dir)


def _new_run(config: RunConfig, out: Path | None) -> Run:
    from flowclf.runs import Run, new_run_folder

    return Run(new_run_folder(out, f"{config.system}-{Path(config.dataset).stem}"))


def _train(config: RunConfig, dataset: Dataset, run: Run, place: Place, resume: bool) -> Trained:
    from flowclf.training import Interrupted, TrainingDiverged, progress_bar, train
    from flowclf.training.distributed import ProcessLost, as_started, first_process
    from flowclf.training.progress import silent

    devices, nodes = as_started(place.devices, place.nodes)
    try:
        with progress_bar(config.system) if first_process() else nullcontext(silent) as report:
            return train(
                config,
                dataset,
                run,
                device=place.device,
                devices=devices,
                nodes=nodes,
                resume=resume,
                report=report,
            )
    except Interrupted as error:
        raise Interrupted(f"{error}; go on with: flowclf train --resume {run.folder}") from None
    except ProcessLost as error:
        checkpoint = f"the last checkpoint is in {run.checkpoint_file}"
        raise ProcessLost(f"{error}; {checkpoint}") from None
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
    fitted = len(trained.training)
    table = [
        (
            _label(row, fitted),
            percent(row["accuracy"]),
            number(row["ece"], 4),
            number(row["bits_per_dim"]),
            number(row["seconds"], 1),
        )
        for row in rows
    ]
    columns = ("system", "accuracy", "ECE", "bits/dim", "seconds")
    print_table(f"{dataset.name}: {len(trained.test)} test samples", columns, table)
    print(f"model    {trained.summary['parameters']:,} parameters")
    print(f"run      {run.folder}")
    for path in figures:
        print(f"figure   {path}")


def _label(row: dict[str, Any], fitted: int) -> str:
    """The system's name, and the number of samples where it had fewer than ours."""
    samples = row.get("samples", fitted)
    return row["system"] if samples == fitted else f"{row['system']} ({samples:,} samples)"
