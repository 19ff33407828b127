"""Jobs: each trains and evaluates a run, or fits baselines to the samples of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowclf.classifier import GenerativeClassifier
from flowclf.config import RunConfig
from flowclf.data import Dataset, Split, public_name
from flowclf.evaluation.baselines import baseline_rows
from flowclf.many.table import COLUMNS, Row, read_baselines, run_row
from flowclf.runs import Run, git_commit, load_data
from flowclf.support.atomic_files import FolderInUse, locked, write_json
from flowclf.support.errors import UserError, first_line
from flowclf.training import TrainingDiverged
from flowclf.training.loop import train
from flowclf.training.progress import file_report
from flowclf.training.setup import augmentation, fresh_model, splits

__all__ = ["Drawing", "Job", "Outcome", "check_folder", "check_trainable", "kept"]

# Draws a model, given its test split, the data set, and the folder of the figures.
Drawing = Callable[[GenerativeClassifier, Split, Dataset, Path], object]


@dataclass(frozen=True)
class Job:
    """One run, or the baselines beside it, in a form that another process can execute."""

    config: RunConfig  # settings of the run; for baselines, those of a run on the same samples
    path: Path  # folder of a run, file of baselines
    name: str  # name in messages
    device: str = "auto"  # where to train
    data_dir: Path | None = None  # where to look for data first
    baselines: bool = False  # fit baselines instead of training
    draw: Drawing | None = None  # makes the figures of a trained run

    def __call__(self) -> Outcome:
        """Train and evaluate, from the checkpoint if there is one; or fit the baselines."""
        try:
            return _fit_baselines(self) if self.baselines else _train(self)
        except FolderInUse:
            return Outcome(self.name, busy=True)
        except (UserError, TrainingDiverged) as error:
            return Outcome(self.name, failure=first_line(error))

    def killed(self) -> Outcome:
        """Record a failure of a job whose process was killed at each try."""
        failure = "its process was killed at each try (out of memory?)"
        if not self.baselines:
            Run(self.path).write_failure(failure)
        return Outcome(self.name, failure=failure)


@dataclass(frozen=True)
class Outcome:
    """Result of a job."""

    name: str  # such as "gm, n = 50, seed 0"
    rows: Sequence[Row] = ()  # one for a run, one for each baseline that could be fitted
    failure: str | None = None  # reason why a run failed
    busy: bool = False  # True if another process trains the run
    notes: Sequence[str] = ()  # on the baselines of this n
    kept: bool = False  # True if the job had ended before


def check_folder(job: Job) -> None:
    """Check that the folder is free, or holds a run of this configuration.

    Raises:
        UserError: it holds another run; names the first setting that differs.
    """
    if not job.baselines:
        Run(job.path).check_settings(job.config)


def check_trainable(config: RunConfig, dataset: Dataset) -> None:
    """Check that a run can be trained, by building its model and augmentation.

    Raises:
        UserError: settings that do not fit the data.
        ShapeError: a network that does not take samples of their shape.
    """
    augmentation(config, dataset)
    fresh_model(config, dataset, splits(config, dataset)[0])


def kept(job: Job) -> Outcome | None:
    """Return the recorded outcome of a job; None: it has not ended."""
    if not job.baselines:
        run = Run(job.path)
        if run.read_summary():
            return Outcome(job.name, [run_row(run)], kept=True)
        failure = run.read_failure()
        return Outcome(job.name, failure=failure, kept=True) if failure else None
    if not job.path.exists():
        return None
    document = read_baselines(job.path)
    if document.get("of") != _subset_facts(job.config):
        return None
    return Outcome(job.name, document["rows"], notes=document.get("notes", ()), kept=True)


def _train(job: Job) -> Outcome:
    run = Run(job.path)
    with locked(run.folder):
        # Another process may have ended it since this one looked.
        if done := kept(job):
            return done
        report, resume = file_report(run.progress_file), run.has_checkpoint
        try:
            data = load_data(job.config, job.data_dir)
            trained = train(job.config, data, run, device=job.device, resume=resume, report=report)
        except (UserError, TrainingDiverged) as error:
            run.write_failure(first_line(error))
            raise
        # A figure that cannot be drawn does not make the run a failure.
        with suppress(UserError):
            if job.draw:
                job.draw(trained.model, trained.test, data, run.figures)
    return Outcome(job.name, [run_row(run)])


def _fit_baselines(job: Job) -> Outcome:
    """Fit the baselines and write their file."""
    config, dataset = job.config, load_data(job.config, job.data_dir)
    training, _, test = splits(config, dataset)
    try:
        rows = baseline_rows(training, test, dataset.levels, dataset.features is not None)
    except ValueError as error:  # of scikit-learn, numpy or ours
        reason = first_line(error)
        return Outcome(job.name, notes=[f"{job.name} cannot be fitted: {reason}"])
    found = [row for row in rows if row["accuracy"] is not None]
    rows, notes = [_row(config, row) for row in found], _notes(config, training, found)
    write_json(job.path, {"of": _subset_facts(config), "rows": rows, "notes": notes})
    return Outcome(job.name, rows, notes=notes)


def _subset_facts(config: RunConfig) -> dict[str, Any]:
    """Return the settings that decide which samples the baselines are fitted to."""
    return {"data": config.dataset, "seed": config.seed, **config.data.model_dump(mode="json")}


def _row(config: RunConfig, found: Row) -> Row:
    """Return the row of a baseline, in the columns of a run."""
    data = public_name(config.dataset)
    own = {"data": data, "seed": config.seed, "train_size": config.data.train_size}
    values = found | own | {"seconds": round(found["seconds"], 3), "commit": git_commit()}
    return {name: values.get(name) for name in COLUMNS}


def _notes(config: RunConfig, training: Split, found: Sequence[Row]) -> list[str]:
    """Note where QDA is missing or reduced, and where samples are left out."""
    size, samples = f"n = {config.data.train_size}", found[0]["samples"]
    qda = next((row["system"] for row in found if row["system"].startswith("QDA")), None)
    notes = []
    if qda is None:
        notes.append(f"{size}: no QDA, for want of samples of each class")
    elif qda != "QDA":
        notes.append(f"{size}: {qda}, for want of samples of each class")
    if samples < len(training.labelled()):
        notes.append(f"{size}: baselines are fitted to {samples:,} samples")
    return notes
