"""One job of a study: a run on n samples, or the baselines fitted to the same samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowclf.classifier import GenerativeClassifier
from flowclf.config import RunConfig, flatten
from flowclf.data import Dataset, Split
from flowclf.evaluation.baselines import baseline_rows
from flowclf.many.rows import COLUMNS, Row, read_baselines, run_row
from flowclf.runs import Run, git_commit, load_data
from flowclf.support.atomic_files import FolderInUse, locked, write_json
from flowclf.support.errors import UserError, first_line
from flowclf.training import TrainingDiverged, train
from flowclf.training.progress import file_report
from flowclf.training.setup import augmentation, fresh_model, splits

__all__ = ["Drawing", "Job", "Outcome", "check_folder", "check_trainable", "kept"]

# Of a model, its test split, the data, and the folder for the pictures.
Drawing = Callable[[GenerativeClassifier, Split, Dataset, Path], object]


@dataclass(frozen=True)
class Job:
    """What is to be done, so that another process can do it.

    Attributes:
        config: of the run; of baselines, that of a run beside them.
        path: folder of a run, file of baselines.
        name: for messages.
        device: where to train.
        data_dir: where to look for data first.
        baselines: fit these instead of training.
        draw: makes the figures of a trained run.
    """

    config: RunConfig
    path: Path
    name: str
    device: str = "auto"
    data_dir: Path | None = None
    baselines: bool = False
    draw: Drawing | None = None

    def __call__(self) -> Outcome:
        """Train and evaluate, going on from a checkpoint that is there; or fit the baselines."""
        try:
            return _fit_baselines(self) if self.baselines else _train(self)
        except FolderInUse:
            return Outcome(self.name, busy=True)
        except (UserError, TrainingDiverged) as error:
            return Outcome(self.name, failure=first_line(error))

    def killed(self) -> Outcome:
        """What to say of it where its process is killed however often it is tried."""
        return Outcome(self.name, failure="its process was killed at each try (out of memory?)")


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
        name: such as "gm, n = 50, seed 0".
        rows: one of a run, one of each baseline that could be fitted.
        failure: why a run failed.
        busy: another process is at it.
        notes: on the baselines of this n.
        kept: it had been done before.
    """

    name: str
    rows: Sequence[Row] = ()
    failure: str | None = None
    busy: bool = False
    notes: Sequence[str] = ()
    kept: bool = False


def check_folder(job: Job) -> None:
    """Do nothing while the folder is free, or holds a run of this configuration.

    Raises:
        UserError: it holds another run; the first setting that differs is named.
    """
    run = Run(job.path)
    if job.baselines or not run.config_file.exists():
        return
    found = run.read_config()[0]
    if found != job.config:
        raise UserError(
            f"{job.path} has other settings: {_difference(found, job.config)}; "
            "choose another --out, or remove that run"
        )


def check_trainable(config: RunConfig, dataset: Dataset) -> None:
    """Build all that a training builds.

    Raises:
        UserError: settings that do not fit the data.
        ShapeError: a network that does not take samples of their shape.
    """
    augmentation(config, dataset)
    fresh_model(config, dataset, splits(config, dataset)[0])


def kept(job: Job) -> Outcome | None:
    """What was found before, if the job had been done."""
    if not job.baselines:
        run = Run(job.path)
        return Outcome(job.name, [run_row(run)], kept=True) if run.read_summary() else None
    if not job.path.exists():
        return None
    document = read_baselines(job.path)
    if document.get("of") != _subset_facts(job.config):
        return None
    return Outcome(job.name, document["rows"], notes=document.get("notes", ()), kept=True)


def _train(job: Job) -> Outcome:
    run, dataset = Run(job.path), load_data(job.config, job.data_dir)
    with locked(run.folder):
        # Another process may have ended it since this one looked.
        if done := kept(job):
            return done
        report, resume = file_report(run.progress_file), run.has_checkpoint
        trained = train(job.config, dataset, run, device=job.device, resume=resume, report=report)
        # What cannot be drawn has been trained all the same.
        with suppress(UserError):
            if job.draw:
                job.draw(trained.model, trained.test, dataset, run.figures)
    return Outcome(job.name, [run_row(run)])


def _fit_baselines(job: Job) -> Outcome:
    """Kept in a file, as runs are in their folders."""
    config, dataset = job.config, load_data(job.config, job.data_dir)
    training, _, test = splits(config, dataset)
    try:
        found = baseline_rows(training, test, dataset.levels)
    except ValueError as error:  # of scikit-learn, numpy or ours
        reason = first_line(error)
        return Outcome(job.name, notes=[f"{job.name} cannot be fitted: {reason}"])
    rows, notes = [_row(config, row) for row in found], _notes(config, training, found)
    write_json(job.path, {"of": _subset_facts(config), "rows": rows, "notes": notes})
    return Outcome(job.name, rows, notes=notes)


def _subset_facts(config: RunConfig) -> dict[str, Any]:
    """All that decides what baselines are fitted to."""
    return {"data": config.dataset, "seed": config.seed, **config.data.model_dump(mode="json")}


def _row(config: RunConfig, found: Row) -> Row:
    """Of a baseline, in the columns of a run."""
    own = {"data": config.dataset, "seed": config.seed, "train_size": config.data.train_size}
    values = found | own | {"seconds": round(found["seconds"], 3), "commit": git_commit()}
    return {name: values.get(name) for name in COLUMNS}


def _notes(config: RunConfig, training: Split, found: Sequence[Row]) -> list[str]:
    """Where baselines are less than their names say."""
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


def _difference(found: RunConfig, wanted: RunConfig) -> str:
    """The first setting that differs."""
    old, new = flatten(found.to_dict()), flatten(wanted.to_dict())
    key = next(key for key in old | new if old.get(key) != new.get(key))
    return f"{key} is {old.get(key)!r} there, and {new.get(key)!r} was asked for"
