"""Systems where data are few: each trained on n samples, for several n and seeds.

At one seed all systems see the same n samples, drawn by class; smaller subsets lie within larger
ones, but for rounding. All are tested on the whole test split; of a file of texts these are all
other rows.

On n samples an epoch is few steps, so that equal epochs would compare how little was trained, not
how little was known. Here every run makes as many updates as the preset makes on all data, at most
2,000 (or `updates`): the epochs grow as n shrinks, and with them the epochs between two looks at a
validation split. Batches have at most n samples. Where epochs are given, or seconds of CPU time by
`train.cpu_seconds`, these are taken as they are.

Each run is a folder SYSTEM-n-seed. One that has ended is not trained again, one that was
interrupted goes on from its checkpoint, one that failed is tried again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from couplings.core import Shape
from flowclf.config import RunConfig, make_config
from flowclf.data import DATASETS, Dataset, absolute_name
from flowclf.many.grid import Plan, Point
from flowclf.many.jobs import Outcome, check_folder, check_trainable
from flowclf.many.run import execute
from flowclf.many.table import recorded_rows, row_key, write_rows
from flowclf.runs import load_data
from flowclf.support.atomic_files import check_no_file
from flowclf.support.devices import pick_device
from flowclf.support.errors import UserError
from flowclf.training.batches import Batches
from flowclf.training.setup import splits

__all__ = ["LowData", "plan_low_data", "run_low_data"]

MOST_UPDATES = 2000

Nested = dict[str, Any]


@dataclass(frozen=True)
class LowData:
    """Request of a low-data study."""

    systems: Sequence[str]  # names of `flowclf systems`
    data: str  # a known name, or a path
    sizes: Sequence[int]  # numbers n of labelled training samples
    seeds: Sequence[int]  # of the subset, and of everything random in a run
    folder: Path  # of the runs, and of results.csv
    overrides: Nested = field(default_factory=dict)  # settings of all runs, as of `make_config`
    preset: str | None = None  # of all systems; None: that of the data
    epochs: int | None = None  # passes over the n samples; None: by updates
    # optimiser steps of each run; None: those of the preset, at most 2,000
    updates: int | None = None
    baselines: bool = True  # also fit QDA and logistic regression to each subset
    data_dir: Path | None = None  # where to look for data first

    def config(
        self, system: str, shape: Shape, seed: int = 0, more: Sequence[Nested] = ()
    ) -> RunConfig:
        """Return the configuration of a system on all data or, by `more` settings, on fewer."""
        epochs = [] if self.epochs is None else [{"train": {"epochs": self.epochs}}]
        layers = [self.overrides, *epochs, *more]
        return make_config(
            system, self.data, shape, preset=self.preset, seed=seed, overrides=layers
        )

    @property
    def sets_length(self) -> bool:
        """True if the length of a run is set other than by updates."""
        given = self.overrides.get("train", {}).keys() & {"epochs", "cpu_seconds"}
        return self.epochs is not None or bool(given)


def plan_low_data(study: LowData) -> Plan:
    """Check all that can be checked before training; nothing is written.

    Raises:
        UserError: unknown systems, data or settings; sizes that the data do not have; a system
            that cannot train on them; a run in the folder that has other settings.
        ShapeError: a network that does not take samples of their shape.
    """
    _check_lists(study)
    study = replace(study, data=absolute_name(study.data))
    # Settings before data: a misspelt key should not cost a download.
    known = DATASETS[study.data].shape if study.data in DATASETS else (1,)
    wanted = [study.config(system, known) for system in study.systems]
    _check_settings(study)
    dataset = load_data(wanted[0], study.data_dir)
    _check_sizes(study, dataset)
    points = _points(study, dataset)
    plan = Plan(study.folder, points, dataset.shape, study.data_dir, dataset.notices)
    for point in points:
        check_folder(plan.job(point))
    for point in points[: len(study.systems)]:
        check_trainable(point.config, dataset)
    return plan


def run_low_data(plan: Plan, workers: int = 2, device: str = "auto") -> Iterator[Outcome]:
    """Yield the outcome of each job, as they end; those that had ended before come first.

    results.csv is written after each, with a row for every finished run in the folder, including
    other systems and sizes. Runs that failed before are tried again.

    Raises:
        UserError: a device that is not there.
        Interrupted: Ctrl-C; the checkpoints are saved.
    """
    pick_device(device)
    table = {row_key(row): row for row in recorded_rows(plan.folder)}

    def record(outcome: Outcome | None) -> None:
        table.update({row_key(row): row for row in (outcome.rows if outcome else ())})
        if table or outcome:
            write_rows(plan.folder / "results.csv", table.values())

    record(None)
    jobs = [plan.job(point, device) for point in plan.points]
    yield from execute(jobs, workers, record, retry_failed=True, wait=False)


def _points(study: LowData, dataset: Dataset) -> list[Point]:
    """Return the points size by size and seed by seed, baselines after the systems."""
    points = []
    for size in study.sizes:
        layers = [(system, _of_size(study, system, dataset, size)) for system in study.systems]
        for seed in study.seeds:
            configs = [study.config(system, dataset.shape, seed, more) for system, more in layers]
            points += [_point(config) for config in configs]
            points += [_point(configs[0], baselines=True)] if study.baselines else []
    return points


def _point(config: RunConfig, *, baselines: bool = False) -> Point:
    size, seed = config.data.train_size, config.seed
    system = "baselines" if baselines else config.system
    name = f"{system}-{size}-{seed}" + ".json" * baselines
    title = f"{system}, n = {size}, seed {seed}"
    return Point(name, {"system": system, "train_size": size}, config, title, baselines)


def _of_size(study: LowData, system: str, dataset: Dataset, size: int) -> list[Nested]:
    """Return the settings of a run on `size` samples."""
    few: Nested = {"data": {"train_size": size, "subset": "stratified"}}
    if study.sets_length:
        return [few]
    config = study.config(system, dataset.shape)
    preset = config.train.epochs * _steps_per_epoch(config, dataset)
    updates = study.updates or min(MOST_UPDATES, preset)
    one_epoch = _steps_per_epoch(study.config(system, dataset.shape, more=[few]), dataset)
    epochs = max(1, round(updates / one_epoch))
    every = max(1, round(config.train.evaluate_every * epochs / config.train.epochs))
    return [few, {"train": {"epochs": epochs, "evaluate_every": every, "cpu_seconds": None}}]


def _steps_per_epoch(config: RunConfig, dataset: Dataset) -> int:
    training, train = splits(config, dataset)[0], config.train
    size, seed = train.batch_size, config.seed
    return Batches(training, size, seed, None, lambda x, _: x, labelled=train.labelled).per_epoch


def _check_lists(study: LowData) -> None:
    lists = {"systems": study.systems, "sizes": study.sizes, "seeds": study.seeds}
    for name, values in lists.items():
        if not values:
            raise UserError(f"expected one or more {name}, got none")
    check_no_file(study.folder)


def _check_settings(study: LowData) -> None:
    fixed = study.overrides.get("data", {}).keys() & {"train_size", "subset"}
    if fixed:
        raise UserError(f"data.{min(fixed)} is the study's own: leave it out, and say --sizes")
    if study.updates is not None and study.sets_length:
        raise UserError(
            "expected the length of a run either in updates or in epochs or CPU seconds, got "
            "both; leave one out"
        )


def _check_sizes(study: LowData, dataset: Dataset) -> None:
    most = len(dataset.train.labelled())
    for size in study.sizes:
        if not dataset.classes <= size <= most:
            raise UserError(
                f"expected sizes from {dataset.classes}, one sample a class, to the {most:,} "
                f"labelled training samples of {dataset.name}, got {size:,}; change --sizes"
            )
