"""`flowclf train`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from flowclf.catalogue import find_metric
from flowclf.cli.output import AsJson, DataDir, Device, Where, message, print_json, print_table
from flowclf.support.atomic_files import claimed, locked
from flowclf.support.errors import UserError

if TYPE_CHECKING:
    from couplings.core import Shape
    from flowclf.config import RunConfig
    from flowclf.data import Dataset
    from flowclf.runs import Run
    from flowclf.training import Trained
    from flowclf.training.progress import Report

MAIN = ("accuracy", "ece", "bits_per_dim", "seconds")


def train(
    system: Annotated[str | None, typer.Argument(help="A name of `flowclf systems`.")] = None,
    data: Annotated[
        str | None,
        typer.Option(help="A known name, an .npz file or a folder.", show_default="digits"),
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            help="Frozen features of pictures or texts: efficientnet-lite0, wordllama, timm:NAME, "
            "transformers:NAME."
        ),
    ] = None,
    beta: Annotated[float | None, typer.Option(help="β̃, the weight of the cross-entropy.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training data.")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of everything random.", show_default="0")
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
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress and no notes: the results alone.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Also a line for each epoch.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Time a few steps, print what a training would take, write nothing."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train a system, evaluate it on the test set, and record the run in a folder."""
    own = [*(assignments or []), *([f"data.features={features}"] if features else [])]
    request = Request(system, data, beta, epochs, seed, preset, own, config)
    place = Place(device.value, devices, nodes)
    # At once: to import torch and read the data takes seconds, in which another could begin.
    with _held(out, resume) if place.alone else nullcontext(), _errors_told_once():
        run, settings, dataset = _prepare(request, resume, out, data_dir, place)
        for notice in dataset.notices if place.reports and not quiet else ():
            message(f"note: {notice}")
        if dry_run:
            _print_plan(settings, dataset, place, as_json)
            return
        shown = place.reports and not quiet
        bar = _progress(settings.system, verbose) if shown else nullcontext()
        trained = _train(settings, dataset, run, place, resume is not None, bar)
    if trained.main_process:
        _report(run, dataset, trained, baselines, as_json)


class Place(NamedTuple):
    """Device and processes to compute on; None: as many processes as were started."""

    device: str
    devices: int | None
    nodes: int | None

    @property
    def alone(self) -> bool:
        """True if no other process was asked for, or started by torchrun, SLURM or Fabric."""
        started = os.environ.keys() & {"WORLD_SIZE", "SLURM_NTASKS", "LOCAL_RANK"}
        return not started and (self.devices or 1) * (self.nodes or 1) == 1

    @property
    def reports(self) -> bool:
        """True if this process reports for all."""
        if self.alone:
            return True
        from flowclf.training.distributed import first_process

        return first_process()


@contextmanager
def _held(out: Path | None, resume: Path | None) -> Iterator[None]:
    """Hold the folder that is to be trained in, where it is known before the data are.

    Raises:
        FolderInUse: another process holds it.
        UserError: `out` holds something already, or cannot be made.
    """
    if resume is not None:
        with locked(resume, wait=0.3) if resume.is_dir() else nullcontext():
            yield
    elif out is not None:
        with claimed(out, f"choose another --out, or go on with --resume {out}"):
            yield
    else:
        yield


@dataclass(frozen=True)
class Request:
    """Request of the command line; None where an option was left out."""

    system: str | None
    data: str | None
    beta: float | None
    epochs: int | None
    seed: int | None
    preset: str | None
    assignments: list[str]
    config: Path | None

    def make(
        self,
        dataset: str,
        shape: Shape,
        base: dict[str, Any] | None = None,
        samples: int | None = None,
    ) -> RunConfig:
        """Make the configuration: `base`, then the file's settings, then those of the options."""
        from flowclf.config import NAMES, make_config, parse_assignments, read_settings

        layers = [base or {}, read_settings(self.config) if self.config else {}]
        names = {key: layer.pop(key) for layer in layers for key in NAMES if key in layer}
        system = self.system or names.get("system")
        if system is None:
            raise UserError("expected the name of a system, got none; see `flowclf systems`")
        layers.append(parse_assignments(self.assignments))
        if self.epochs is not None:
            layers.append({"train": {"epochs": self.epochs}})
        return make_config(
            system,
            dataset,
            shape,
            preset=self.preset or names.get("preset"),
            seed=names.get("seed", 0) if self.seed is None else self.seed,
            beta=self.beta,
            overrides=layers,
            samples=samples,
        )


@contextmanager
def _errors_told_once() -> Iterator[None]:
    """Let the first rank alone report an error that ends all ranks.

    The others exit with status 0: Fabric kills all processes when one that it started ends with
    another status.
    """
    from flowclf.training import Interrupted, TrainingDiverged

    try:
        yield
    except (UserError, Interrupted, TrainingDiverged) as error:
        from flowclf.training.distributed import ReportedElsewhere, reported_by_first

        reported = isinstance(error, ReportedElsewhere | Interrupted | TrainingDiverged)
        if not (reported and reported_by_first(error)):
            raise
        raise typer.Exit(0) from None


def _prepare(
    request: Request, resume: Path | None, out: Path | None, data_dir: Path | None, place: Place
) -> tuple[Run, RunConfig, Dataset]:
    from flowclf.runs import Run, new_run_folder

    try:
        if resume is not None:
            run, config, dataset = _resumed(resume, out, data_dir, request)
        else:
            config, dataset = settings_and_data(request, data_dir)
            if config.dataset == "digits" and request.data is None and request.config is None:
                note = (
                    "no --data was given, so this trains on digits; --data takes a name or a path"
                )
                dataset = replace(dataset, notices=(*dataset.notices, note))
            run = Run(new_run_folder(out, f"{config.system}-{Path(config.dataset).stem}"))
    except UserError as error:
        if not place.alone:
            from flowclf.training.distributed import raise_in_first

            raise_in_first(error, *place)
        raise
    return run, config, dataset


def settings_and_data(request: Request, data_dir: Path | None) -> tuple[RunConfig, Dataset]:
    """Load the data of a request, and make its settings for their shape."""
    from flowclf.config import read_settings
    from flowclf.data import DATASETS, absolute_name
    from flowclf.runs import load_data

    name = request.data
    if name is None and request.config is not None:
        name = read_settings(request.config).get("dataset")
    name = absolute_name("digits" if name is None else name)
    # Settings before data: a misspelt key should not cost a download, and they say how texts are
    # read. Only the default preset may be another for the shape that the data turn out to have.
    first = _any_shape(request, name, DATASETS[name].shape if name in DATASETS else None)
    dataset = load_data(first, data_dir)
    return request.make(name, dataset.shape, samples=len(dataset.train)), dataset


def _any_shape(request: Request, name: str, known: Shape | None) -> RunConfig:
    """Make settings before the shape of the data is known: those of a table, or of images."""
    if known is not None:
        return request.make(name, known)
    try:
        return request.make(name, (1,))
    except UserError as error:
        try:
            return request.make(name, (3, 32, 32))
        except UserError:
            raise error from None


def _resumed(
    folder: Path, out: Path | None, data_dir: Path | None, request: Request
) -> tuple[Run, RunConfig, Dataset]:
    """Open the run; other settings on the command line must be those that it has."""
    from flowclf.data import absolute_name
    from flowclf.runs import Run

    run = Run(folder)
    config, facts = run.read_config()
    asked = replace(request, system=request.system or config.system)
    same = request.data is None or absolute_name(request.data) == absolute_name(config.dataset)
    name = config.dataset if same else str(request.data)
    wanted = asked.make(name, facts.shape, base=config.to_dict())
    if wanted != config or out not in (None, folder):
        raise UserError(
            f"expected the settings that {folder} was started with, got other settings; leave out "
            "all but --resume, or train anew with --out"
        )
    return run, config, run.load_data(data_dir)


def _progress(name: str, verbose: bool) -> AbstractContextManager[Report]:
    from flowclf.training import progress_bar

    return progress_bar(name, verbose)


def _print_plan(config: RunConfig, dataset: Dataset, place: Place, as_json: bool) -> None:
    """Print what a training would take."""
    from dataclasses import asdict

    from flowclf.training.plan import plan_training
    from flowclf.training.progress import clock_time

    if not place.alone:
        raise UserError("expected one process for --dry-run, got several; leave out --devices")
    plan = plan_training(config, dataset, place.device)
    if as_json:
        print_json(asdict(plan))
        return
    splits = f"{plan.training:,} training, {plan.validation:,} validation, {plan.test:,} test"
    rows = {
        "samples": splits,
        "parameters": f"{plan.parameters:,}",
        "steps": f"{plan.steps:,} of {plan.batch_size} samples, {plan.epochs:,} epochs",
        "operations a step": f"{plan.flops / 1e9:.3g} GFLOP",
        "memory at the peak": f"{plan.memory / 2**20:,.0f} MiB",
        "time a step": f"{1000 * plan.seconds_per_step:.3g} ms",
        "time to the end": clock_time(plan.seconds),
    }
    print_table(
        f"{config.system} on {dataset.name}, {config.preset}", ("plan", ""), [*rows.items()]
    )


def _train(
    config: RunConfig,
    dataset: Dataset,
    run: Run,
    place: Place,
    resume: bool,
    bar: AbstractContextManager[Report | None],
) -> Trained:
    from flowclf.training import Interrupted, TrainingDiverged
    from flowclf.training.loop import train

    devices, nodes = 1, 1
    if not place.alone:
        from flowclf.training.distributed import as_started

        devices, nodes = as_started(place.devices, place.nodes)
    start = partial(train, device=place.device, devices=devices, nodes=nodes, resume=resume)
    try:
        with bar as report:
            return start(config, dataset, run, report=report)
    except Interrupted as error:
        raise Interrupted(f"{error}; go on with: flowclf train --resume {run.folder}") from None
    except ConnectionError as error:
        raise type(error)(f"{error}; the last checkpoint is in {run.checkpoint_file}") from None
    except TrainingDiverged as error:
        kept = f"the last good checkpoint is in {run.checkpoint_file}"
        raise TrainingDiverged(f"{error}\n{kept}") from None


def _report(run: Run, dataset: Dataset, trained: Trained, baselines: bool, as_json: bool) -> None:
    from flowclf.evaluation.baselines import (
        baseline_rows,
        beaten_by,
        few_samples,
        overfits,
    )
    from flowclf.figures.run import run_figures

    summary, fitted, test = trained.summary, trained.training, trained.test
    others = []
    if baselines:
        others = baseline_rows(fitted, test, dataset.levels, dataset.features is not None)
    try:
        figures = [str(path) for path in run_figures(trained.model, test, dataset, run.figures)]
    except (OSError, UserError) as error:
        # The run is complete without them, and its weights are all that cannot be had again.
        message(f"note: {run.folder} is complete but for its figures: {error}")
        figures = []
    own = {"system": summary["system"], "seconds": summary["seconds"], **summary["test"]}
    warnings = beaten_by(own, others) + few_samples(fitted, dataset.class_names)
    history = [row["train"] for row in run.read_metrics() if "train" in row]
    warnings += overfits(history[-1].get("accuracy") if history else None, own["accuracy"])
    if as_json:
        found = {"baselines": others, "warnings": warnings, "figures": figures}
        print_json({"run": str(run.folder), **summary, **found})
        return
    table = []
    for row in (own, *others):
        samples = row.get("samples", len(fitted))
        few = "" if samples == len(fitted) else f" ({samples:,} samples)"
        numbers = [find_metric(name).written(row[name]) for name in MAIN]
        table.append([row["system"] + few, *numbers])
    columns = ("system", *(find_metric(name).column for name in MAIN))
    print_table(f"{dataset.name}: {len(test)} test samples", columns, table)
    asked, ran = summary["precision"]["asked"], summary["precision"]["ran"]
    chosen = "" if ran == asked else f" (train.precision={asked})"
    print(f"model    {summary['parameters']:,} parameters, trained in {ran}{chosen}")
    print(f"run      {run.folder}")
    for path in figures:
        print(f"figure   {path}")
    for line in warnings:
        print(f"warning  {line}")
