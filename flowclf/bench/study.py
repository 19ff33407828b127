"""Studies: several systems on one task over several seeds, as means with their standard errors.

A study is a YAML file in `studies/`: the data, the seeds, settings that all share, and variants.
Each run is recorded as soon as it ends, and a run that is recorded is not repeated: a study that
was interrupted goes on where it stopped.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from importlib import resources
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, stdev
from typing import Any
from zlib import crc32

import torch
import yaml

from flowclf.bench.results import append_rows, read_rows
from flowclf.config import RunConfig, make_config, merge
from flowclf.data import DATASETS, load_dataset
from flowclf.errors import UserError
from flowclf.evaluation.metrics import variance_ratio
from flowclf.runs import Run, load_data
from flowclf.training import Trained, train

__all__ = ["METRICS", "Study", "averages", "read_study", "run_study", "study_names"]

METRICS = (
    "accuracy", "ece", "ece_20_bins", "auroc", "negative_log_posterior_nats", "bits_per_dim",
    "variance_ratio", "seconds", "parameters",
)  # fmt: skip
MOST_LATENTS = 10_000


@dataclass(frozen=True)
class Study:
    """What a study's file says.

    Attributes:
        name: of the file.
        data: a known data set, or a file below $FLOWCLF_DATA.
        seeds: by default.
        settings: of all variants.
        variants: label to the system's name and what it sets besides.
        workers: runs at a time.
        device: where they run.
    """

    name: str
    data: str
    seeds: tuple[int, ...]
    settings: dict[str, Any]
    variants: dict[str, dict[str, Any]]
    workers: int = 2
    device: str = "cpu"

    def config(self, variant: str, seed: int) -> RunConfig:
        """The configuration of one run."""
        own = dict(self.variants[variant])
        system, preset = own.pop("system"), own.pop("preset", None)
        dataset, shape = self.dataset()
        overrides = [self.settings, own]
        return make_config(system, dataset, shape, preset=preset, seed=seed, overrides=overrides)

    def dataset(self) -> tuple[str, tuple[int, ...]]:
        """Name or path of the data, and the shape of a sample where it picks a preset.

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
    """The studies there are."""
    return sorted(p.name.removesuffix(".yaml") for p in _folder().iterdir())


def read_study(name: str) -> Study:
    """The study of that name."""
    document = yaml.safe_load((_folder() / f"{name}.yaml").read_text("utf-8"))
    document["seeds"] = tuple(document["seeds"])
    return Study(name, **document)


def run_study(
    study: Study, seeds: Sequence[int], runs: Path | None = None
) -> Iterator[dict[str, Any]]:
    """A row for each variant and seed, as they end; those already recorded come first.

    With a folder `runs` each run that is not recorded yet becomes a run folder in it, or goes on
    from the checkpoint that is there.
    """
    known = {_key(row): row for row in read_rows(f"{study.name}.csv")}
    waiting = []
    for seed in seeds:
        for variant in study.variants:
            config = study.config(variant, seed)
            row = known.get((variant, str(seed), _digest(config)))
            if row is None:
                folder = runs and runs / f"{re.sub(r'[^A-Za-z0-9.-]+', '-', variant)}-{seed}"
                waiting.append((variant, config, folder, study.device))
            else:
                yield _numbers(row)
    context = get_context("spawn")
    with ProcessPoolExecutor(study.workers, mp_context=context) as pool:
        jobs = [pool.submit(_run, *job) for job in waiting]
        for job in as_completed(jobs):
            row = job.result()
            append_rows(f"{study.name}.csv", [row])
            yield row


def averages(rows: Sequence[dict[str, Any]], variants: Iterable[str]) -> list[dict[str, Any]]:
    """One row a variant: number of seeds, and mean and standard error of each metric (or None)."""
    return [_average(v, [row for row in rows if row["variant"] == v]) for v in variants]


def _average(variant: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    summary: dict[str, Any] = {"variant": variant, "seeds": len(rows)}
    for metric in METRICS:
        values = [row[metric] for row in rows if row[metric] is not None]
        error = stdev(values) / len(values) ** 0.5 if len(values) > 1 else None
        summary[metric] = (mean(values), error) if values else None
    return summary


def _run(variant: str, config: RunConfig, folder: Path | None, device: str) -> dict[str, Any]:
    torch.set_num_threads(1)
    run = Run(folder) if folder else None
    resume = run is not None and run.checkpoint_file.exists()
    trained = train(config, load_data(config), run, device=device, resume=resume)
    values = trained.summary | trained.summary["test"]
    values["variance_ratio"] = _variance_ratio(trained)
    row = {"variant": variant, "system": config.system, "seed": config.seed}
    return row | {name: values[name] for name in METRICS} | {"settings": _digest(config)}


@torch.no_grad()
def _variance_ratio(trained: Trained) -> float | None:
    """Of the first training latents; None where the mixture has no variances."""
    model, split = trained.model, trained.training.labelled()
    if model.settings.mixture.kind != "gaussian":
        return None
    x, y = split.x[:MOST_LATENTS], split.y[:MOST_LATENTS]
    means, std = model.mixture.means, model.mixture.std()
    z = torch.cat([model.encode(part.to(means.device)).z for part in x.split(512)])
    return variance_ratio(z, y.to(means.device), means, std)


def _digest(config: RunConfig) -> str:
    """Changes with any setting, but not with where the data lie."""
    plain = merge([config.to_dict(), {"dataset": Path(config.dataset).name}])
    return f"{crc32(json.dumps(plain, sort_keys=True).encode()):08x}"


def _key(row: dict[str, str]) -> tuple[str, str, str]:
    return row["variant"], row["seed"], row["settings"]


def _numbers(row: dict[str, str]) -> dict[str, Any]:
    return (
        row | {m: float(row[m]) if row[m] else None for m in METRICS} | {"seed": int(row["seed"])}
    )


def _folder() -> Any:
    return resources.files("flowclf.bench") / "studies"
