"""Runs of a report, read from their folders; nothing is computed anew."""

import csv
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import isfinite
from os.path import commonpath
from pathlib import Path
from typing import Any

from flowclf.config import RECORDED, RunConfig, flatten
from flowclf.data import public_name
from flowclf.many.grid import read_plan
from flowclf.runs import Run
from flowclf.settings import DataFacts
from flowclf.support.errors import UserError
from flowclf.support.parse import read_text
from flowclf.systems import SYSTEMS

Nested = dict[str, Any]
# Levels of folders within the one that is named.
DEPTH = 3
SIZE = "data.train_size"
# Pictures of a sweep that the page draws anew, of all rows.
DRAWN = ("trade-off", "information-plane")


@dataclass(frozen=True)
class Entry:
    """Run that has ended."""

    name: str  # of its folder, as short as it is unique
    folder: Path  # its path; never shown
    config: RunConfig
    facts: DataFacts
    summary: Nested
    evaluation: Nested  # evaluation.json; empty where there is none
    versions: Nested  # of the packages it was trained with
    commit: str | None  # of the checkout, if it was one

    @cached_property
    def settings(self) -> Nested:
        """Settings by their dotted names."""
        return flatten(self.config.to_dict() | {"dataset": self.data})

    @property
    def data(self) -> str:
        """Name of the data, without their folder."""
        return public_name(self.config.dataset)

    @property
    def measured(self) -> Nested:
        """Single numbers and words: of the test split, then what an evaluation adds."""
        own = {key: self.summary.get(key) for key in ("seconds", "parameters")}
        found = self.summary["test"] | self.evaluation | own
        return {k: v for k, v in found.items() if is_scalar(v) and k not in RECORDED}


@dataclass(frozen=True)
class Unfinished:
    """Run without a result."""

    name: str
    reason: str = "not finished"


@dataclass(frozen=True)
class Collection:
    """Contents of a report."""

    entries: Sequence[Entry]  # runs, by data, system, β̃ and name
    baselines: Sequence[Nested] = ()  # rows of a study's results.csv without a run folder
    unfinished: Sequence[Unfinished] = ()
    pictures: Sequence[Path] = ()  # .png files of the folders as a whole


Baselines = Callable[[Entry], Iterable[Nested]]


def collect(paths: Sequence[Path]) -> Collection:
    """Read the runs of run folders, sweeps, studies, or any other folders that contain runs.

    Raises:
        UserError: no such folder, no finished runs in it, or a damaged file.
    """
    folders = [folder for path in paths for folder in _run_folders(path)]
    folders = list({folder.resolve(): folder for folder in folders}.values())
    if not folders:
        listed = ", ".join(map(str, paths))
        raise UserError(
            f"expected folders of runs, got {listed or 'none'} without any; `flowclf train` and "
            "`flowclf sweep` make runs"
        )
    names = _names([folder.resolve() for folder in folders])
    ended = [(n, f) for n, f in zip(names, folders, strict=True) if Run(f).summary_file.is_file()]
    if not ended:
        raise UserError(
            f"expected runs that have ended, got {len(folders)} that have not; go on with "
            "`flowclf train --resume` or `flowclf sweep`"
        )
    entries = sorted((_read_entry(*each) for each in ended), key=_order)
    begun = [Unfinished(name) for name in names if name not in {n for n, _ in ended}]
    parents = [path for path in paths if not Run(path).config_file.is_file()]
    return Collection(
        entries,
        [row for path in parents for row in _baselines(path)],
        _with_reasons(begun, parents),
        [f for path in parents for f in sorted(path.glob("*.png")) if f.stem not in DRAWN],
    )


def with_baselines(found: Collection, baselines: Baselines) -> Collection:
    """Add baselines of each data set and number of training samples that has none."""
    rows = list(found.baselines)
    done = {(row["data"], row.get(SIZE)) for row in rows}
    for entry in found.entries:
        task = entry.data, entry.config.data.train_size
        if task not in done:
            done.add(task)
            own = {"data": entry.data, "seed": entry.config.seed}
            size = {} if task[1] is None else {SIZE: task[1]}
            rows += [{"run": row["system"], **own, **size, **row} for row in baselines(entry)]
    return replace(found, baselines=rows)


def is_scalar(value: Any) -> bool:
    """Return True for a finite number or text."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, str) or (number and isfinite(value))


def _run_folders(path: Path, depth: int = DEPTH) -> Iterator[Path]:
    if not path.is_dir():
        raise UserError(f"expected a folder of runs, got {path}, which is not a folder")
    if os.path.isfile(Run(path).config_file):  # False also where it cannot be looked at
        yield path
    elif depth:
        try:
            children = [child for child in sorted(path.iterdir()) if child.is_dir()]
        except OSError as error:
            raise UserError(
                f"cannot look into {path} for runs: {error.strerror}; name the folders of runs "
                "themselves, or make it readable"
            ) from None
        for child in children:
            if not child.name.startswith("."):
                yield from _run_folders(child, depth - 1)


def _names(folders: Sequence[Path]) -> list[str]:
    """Return unique names of folders, with the folders around them if needed."""
    names = [folder.name for folder in folders]
    if len(set(names)) == len(names):
        return names
    root = Path(commonpath(folders))
    return [folder.relative_to(root).as_posix() for folder in folders]


def _read_entry(name: str, folder: Path) -> Entry:
    run = Run(folder)
    try:
        config, facts = run.read_config()
    except UserError as error:
        where = "" if str(folder) in str(error) else f"{run.config_file}: "
        raise UserError(f"{where}{error}") from None
    recorded, summary, evaluation = run.read_document(), run.read_summary(), run.read_evaluation()
    # Files of others may say anything there.
    versions, commit = recorded.get("versions"), recorded.get("commit")
    versions = versions if isinstance(versions, dict) else {}
    commit = commit if isinstance(commit, str) else None
    return Entry(name, folder, config, facts, summary, evaluation, versions, commit)


def _order(entry: Entry) -> tuple[Any, ...]:
    beta = -1.0 if entry.config.beta is None else entry.config.beta
    # run-9 comes before run-10.
    parts = [(int(p), "") if p.isdigit() else (0, p) for p in re.split(r"(\d+)", entry.name)]
    size = entry.config.data.train_size or 0
    return entry.data, entry.config.system, size, beta, parts


def _with_reasons(begun: Sequence[Unfinished], parents: Sequence[Path]) -> list[Unfinished]:
    """Return runs begun and points of sweeps without a result, with the reasons of failures."""
    found = {each.name: each for each in begun}
    for folder in parents:
        if not (folder / "sweep.yaml").is_file():
            continue
        for point in read_plan(folder).points:
            run = Run(folder / point.name)
            if not run.summary_file.is_file():
                failure = run.read_failure() or ""
                for path in (folder.resolve(), folder):
                    failure = failure.replace(f"{path}/", "")
                reason = f"failed: {failure}" if failure else "not finished"
                found[point.name] = Unfinished(point.name, reason)
    return list(found.values())


def _baselines(folder: Path) -> Iterator[Nested]:
    """Yield rows of results.csv of baselines such as QDA, which are no systems."""
    file = folder / "results.csv"
    if not file.is_file():
        return
    try:
        rows = list(csv.DictReader(read_text(file).splitlines()))
        yield from (_baseline(row) for row in rows if row["system"] not in SYSTEMS)
    except (KeyError, TypeError, ValueError, csv.Error):
        raise UserError(f"{file} is damaged; remove it, or run the study again") from None


def _baseline(row: dict[str, str]) -> Nested:
    names = ("accuracy", "ece", "bits_per_dim", "negative_log_posterior_nats", "seconds")
    found: Nested = {name: float(row[name]) for name in names if row.get(name)}
    own = {"system": row["system"], "data": public_name(row["data"]), "seed": int(row["seed"])}
    size = {SIZE: int(row["train_size"])} if row.get("train_size") else {}
    return {"run": row["system"], **own, **size, **found}
