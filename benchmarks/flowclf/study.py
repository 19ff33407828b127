"""Studies: several systems on one task over several seeds, as means with their standard errors.

A study is a YAML file in `studies/`: the data, the seeds, settings that all share, and variants.
Each run is recorded as soon as it ends, and a run that is recorded is not repeated: a study that
was interrupted goes on where it stopped.
"""

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from benchmarks.flowclf.classify import tiny
from benchmarks.flowclf.measures import MEASURES
from benchmarks.results import append_rows, digest, read
from flowclf.config import RunConfig, make_config
from flowclf.data import DATASETS, load_dataset
from flowclf.many.pool import run_jobs
from flowclf.many.table import mean_metrics
from flowclf.runs import Run, load_data
from flowclf.support.averages import mean_and_error
from flowclf.support.errors import UserError
from flowclf.training import train

FOLDER = Path(__file__).with_name("studies")
METRICS = (
    "accuracy", "ece", "ece_20_bins", "auroc", "negative_log_posterior_nats", "bits_per_dim",
)  # fmt: skip
COSTS = ("seconds", "parameters")


@dataclass(frozen=True)
class Study:
    """A study's file."""

    name: str
    data: str  # a known data set, or a file below $FLOWCLF_DATA
    seeds: tuple[int, ...]
    settings: dict[str, Any]  # of all variants
    variants: dict[str, dict[str, Any]]  # label to the system's name and what it sets besides
    measures: tuple[str, ...] = ("variance",)  # of `MEASURES`, besides what an evaluation gives
    workers: int = 2  # runs at a time
    device: str = "cpu"
    quick: bool = False  # shorten every run, to see that all works

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the numbers in a row."""
        measured = [name for measure in self.measures for name in MEASURES[measure].names]
        return (*METRICS, *measured, *COSTS)

    def config(self, variant: str, seed: int) -> RunConfig:
        """Make the configuration of one run."""
        own = dict(self.variants[variant])
        system, preset = own.pop("system"), own.pop("preset", None)
        dataset, shape = self.dataset()
        overrides = [self.settings, own]
        config = make_config(system, dataset, shape, preset=preset, seed=seed, overrides=overrides)
        return tiny(config) if self.quick else config

    def dataset(self) -> tuple[str, tuple[int, ...]]:
        """Return name or path of the data, and the shape of a sample where it picks a preset.

        Raises:
            UserError: a file that is not below $FLOWCLF_DATA.
        """
        if self.data in DATASETS:
            return self.data, DATASETS[self.data].shape
        path = Path(os.environ.get("FLOWCLF_DATA", ".")) / self.data
        if not path.is_file():
            raise UserError(f"expected {self.data} below $FLOWCLF_DATA, found no {path}")
        return str(path), (1,) if path.suffix == ".csv" else load_dataset(str(path)).shape


def study_names() -> list[str]:
    """List the studies."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read_study(name: str) -> Study:
    """Read a study; settings that its file leaves out are those of the study it is `like`."""
    document = yaml.safe_load((FOLDER / f"{name}.yaml").read_text("utf-8"))
    if like := document.pop("like", None):
        document = yaml.safe_load((FOLDER / f"{like}.yaml").read_text("utf-8")) | document
    for key in {"seeds", "measures"} & document.keys():
        document[key] = tuple(document[key])
    return Study(name, **document)


def run_study(
    study: Study, seeds: Sequence[int], runs: Path | None = None, record: Path | None = None
) -> Iterator[dict[str, Any]]:
    """Yield a row for each variant and seed, as they end; those already recorded come first.

    With a folder `runs` each run that is not recorded yet becomes a run folder in it, or goes on
    from the checkpoint that is there.
    """
    keys = ("variant", "seed", "settings")
    known = {tuple(map(row.get, keys)): row for row in read(record)}
    waiting = []
    for seed, variant in product(seeds, study.variants):
        config = study.config(variant, seed)
        if row := known.get((variant, str(seed), _digest(config))):
            numbers = {m: float(row[m]) if row[m] else None for m in study.metrics}
            yield row | numbers | {"seed": seed}
        else:
            folder = runs and runs / f"{re.sub(r'[^A-Za-z0-9.-]+', '-', variant)}-{seed}"
            waiting.append(partial(_run, study, variant, config, folder))
    for row in run_jobs(waiting, study.workers):
        append_rows(record, [row])
        yield row


def averages(rows: Sequence[dict[str, Any]], study: Study) -> list[dict[str, Any]]:
    """Return for each variant the seeds, and mean and standard error of each metric (or None)."""
    own = {v: [row for row in rows if row["variant"] == v] for v in study.variants}
    return [
        {"variant": variant, "seeds": len(found), **mean_metrics(found, study.metrics)}
        for variant, found in own.items()
    ]


@dataclass(frozen=True)
class Difference:
    """Paired difference of two variants in one metric, with its 95 % interval (Student's t)."""

    variant: str
    reference: str
    metric: str
    pairs: int  # seeds that both have
    mean: float  # variant less reference
    low: float
    high: float

    @property
    def decided(self) -> bool:
        """True if the interval excludes 0."""
        return self.low > 0 or self.high < 0


def differences(
    rows: Sequence[dict[str, Any]], study: Study, metrics: Sequence[str] = METRICS
) -> list[Difference]:
    """Return the difference of each later variant to each earlier one, seed by seed."""
    names, found = list(study.variants), []
    values = {(row["variant"], row["seed"]): row for row in rows}
    for (i, variant), metric in product(enumerate(names), metrics):
        for reference in names[:i]:
            pairs = [
                (float(row[metric]), float(other[metric]))
                for (name, seed), row in values.items()
                if name == variant and (other := values.get((reference, seed)))
                if row[metric] is not None and other[metric] is not None
            ]
            if len(pairs) < 2:
                continue
            mean, half = t_interval([ours - theirs for ours, theirs in pairs])
            ends = mean - half, mean + half
            found.append(Difference(variant, reference, metric, len(pairs), mean, *ends))
    return found


def t_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and half its 95 % interval by Student's t (NaN of one value)."""
    from scipy.stats import t

    mean, error = mean_and_error(values)
    if error is None:
        return mean, float("nan")
    return mean, float(t.ppf(0.975, len(values) - 1)) * error


def _run(study: Study, variant: str, config: RunConfig, folder: Path | None) -> dict[str, Any]:
    run = Run(folder) if folder else None
    resume = run is not None and run.has_checkpoint
    trained = train(config, load_data(config), run, device=study.device, resume=resume)
    values = trained.summary | trained.summary["test"]
    for measure in study.measures:
        values |= MEASURES[measure].of(trained)
    row = {"variant": variant, "system": config.system, "seed": config.seed}
    row |= {name: values[name] for name in study.metrics} | {"settings": _digest(config)}
    return row | {"device": values["device"], "precision": trained.precision}


def _digest(config: RunConfig) -> str:
    """Return a digest of all settings but the folder of the data and the defaults."""
    plain = config.model_dump(mode="json", exclude_defaults=True)
    plain["dataset"] = Path(config.dataset).name
    # A section of another kind may differ in nothing else from its kind's defaults.
    plain["kinds"] = re.findall(r'"kind": "([^"]+)"', json.dumps(config.to_dict()))
    return digest(plain)
