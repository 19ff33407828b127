"""Plans of many runs, and the grid of settings that a sweep makes one of."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from math import exp, inf, log, prod
from pathlib import Path
from typing import Any

from couplings.core import Shape
from flowclf.config import NAMES, RunConfig, make_config, nest
from flowclf.data import DATASETS, absolute_name
from flowclf.many.jobs import Job, check_folder, check_trainable
from flowclf.runs import load_data
from flowclf.support.atomic_files import check_no_file, locked, write_yaml
from flowclf.support.errors import UserError, first_line
from flowclf.support.parse import parse_yaml, read_yaml

__all__ = ["Plan", "Point", "Sweep", "parse_betas", "parse_grid", "plan_sweep", "read_plan"]

Nested = dict[str, Any]
FILE = "sweep.yaml"
MOST_RUNS = 10_000
NAME = re.compile(r"[\w=+-][\w.=+-]*")


@dataclass(frozen=True)
class Sweep:
    """Request of a sweep."""

    system: str  # a name of `flowclf systems`
    data: str  # a known name, or a path
    folder: Path  # folder of the runs and the results
    betas: Sequence[float] = ()  # values of β̃; none: the system's own
    # further settings, dotted name to values
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    seeds: Sequence[int] = (0,)  # each setting is run with each of them
    overrides: Nested = field(default_factory=dict)  # settings of all runs, as of `make_config`
    preset: str | None = None  # None: that of the data
    data_dir: Path | None = None  # where to look for data first

    def configs(self, shape: Shape, samples: int | None = None) -> list[tuple[Nested, RunConfig]]:
        """Return the varied settings and the configuration of each run, seeds innermost.

        Raises:
            UserError: settings that a system does not have, or of the wrong type.
        """
        betas: Sequence[float | None] = self.betas or [None]
        count = prod(map(len, (betas, *self.grid.values(), self.seeds)))
        if count > MOST_RUNS:
            raise UserError(f"expected a sweep of at most {MOST_RUNS:,} runs, got {count:,}")
        axes = [[(key, value) for value in values] for key, values in self.grid.items()]
        return [
            self._config(beta, dict(setting), seed, shape, samples)
            for beta in betas
            for setting in product(*axes)
            for seed in self.seeds
        ]

    def _config(
        self, beta: float | None, setting: Nested, seed: int, shape: Shape, samples: int | None
    ) -> tuple[Nested, RunConfig]:
        layers = [self.overrides, *(nest(key, value) for key, value in setting.items())]
        own: Nested = {"preset": self.preset, "seed": seed, "beta": beta, "overrides": layers}
        config = make_config(self.system, self.data, shape, samples=samples, **own)
        return {} if beta is None else {"beta": beta}, config


@dataclass(frozen=True)
class Point:
    """One run of a plan, or the baselines fitted to the samples of one."""

    name: str  # name of its folder, or of the file of baselines
    varied: Nested  # settings that differ within the plan, dotted name to value
    config: RunConfig  # complete settings
    title: str = ""  # name in messages; empty: `name`
    baselines: bool = False  # True for baselines


@dataclass(frozen=True)
class Plan:
    """All runs of a folder, and notices on their data."""

    folder: Path
    points: Sequence[Point]
    shape: Shape
    data_dir: Path | None = None
    notices: Sequence[str] = ()

    def job(self, point: Point, device: str = "auto") -> Job:
        """Return the job of a point."""
        path, title = self.folder / point.name, point.title or point.name
        return Job(point.config, path, title, device, self.data_dir, point.baselines)


def parse_betas(text: str) -> tuple[float, ...]:
    """Parse "0.02:50:24", 24 values from 0.02 to 50 evenly spaced in log β̃, or "0,1,inf".

    Raises:
        UserError: neither of the two.
    """
    parts = text.split(":")
    try:
        if len(parts) == 3:
            return _log_spaced(float(parts[0]), float(parts[1]), int(parts[2]))
        betas = tuple(dict.fromkeys(float(part) for part in text.split(",")))
        if all(beta >= 0 for beta in betas):
            return betas
    except ValueError:
        pass
    raise UserError(
        "expected --betas FIRST:LAST:COUNT with 0 < FIRST < LAST and a COUNT from 2 to "
        f"{MOST_RUNS:,}, or values of at least 0 with commas between them, got {text!r}"
    )


def parse_grid(texts: Sequence[str]) -> dict[str, list[Any]]:
    """Parse ["train.lr=1e-3,2e-3"] to {"train.lr": [0.001, 0.002]}; values are YAML.

    Raises:
        UserError: no "=", no values, or one that is not YAML.
    """
    grid = {}
    for text in texts:
        key, separator, values = text.partition("=")
        try:
            found = parse_yaml(f"[{values}]")
        except ValueError:
            found = None
        if not (separator and key.strip() and found):
            raise UserError(f"expected --grid key=value,value, got {text!r}")
        grid[key.strip()] = found
    return grid


def plan_sweep(sweep: Sweep) -> Plan:
    """Check all that can be checked before training, and write the points to sweep.yaml.

    Points of earlier commands in the same folder stay.

    Raises:
        UserError: unknown system, data or settings; a system that cannot train on the data; a run
            in the folder that has other settings.
    """
    check_no_file(sweep.folder)
    sweep = replace(sweep, data=absolute_name(sweep.data))
    # Settings before data: a misspelt key should not cost a download.
    known = DATASETS[sweep.data].shape if sweep.data in DATASETS else (1,)
    first = sweep.configs(known)[0][1]
    dataset = load_data(first, sweep.data_dir)
    points = [_point(sweep, *each) for each in sweep.configs(dataset.shape, len(dataset.train))]
    if len({point.name for point in points}) < len(points):
        raise UserError("expected settings that differ in each run, got the same one twice")
    plan = Plan(sweep.folder, points, dataset.shape, sweep.data_dir, dataset.notices)
    for point in points:
        check_folder(plan.job(point))
    for point in points[:: len(sweep.seeds)]:
        check_trainable(point.config, dataset)
    _write(plan)
    return plan


def read_plan(folder: Path) -> Plan:
    """Read all points of a folder's sweep.yaml.

    Raises:
        UserError: there is none, or a damaged one.
    """
    file = folder / FILE
    if not file.is_file():
        raise UserError(f"expected a sweep's folder with a {FILE}, got {folder}")
    document = read_yaml(file)
    try:
        shape, where = tuple(document["shape"]), document["data_dir"]
        points = [_read_point(each, shape) for each in document["points"]]
        return Plan(folder, points, shape, where and Path(where))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{file} is damaged ({first_line(error)}); remove it, and start the sweep's "
            "command again"
        ) from None


def _point(sweep: Sweep, beta: Nested, config: RunConfig) -> Point:
    varied = {**beta, **{key: _value(config, key) for key in sweep.grid}}
    parts = [f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}" for k, v in varied.items()]
    name = "-".join([sweep.system, *parts, f"seed={config.seed}"])
    return Point(re.sub(r"[^\w.=+-]+", "_", name), varied, config)


def _write(plan: Plan) -> None:
    """Write the points to sweep.yaml, with those of earlier commands."""
    file = plan.folder / FILE
    with locked(plan.folder, wait=5.0):
        old = read_plan(plan.folder).points if file.exists() else []
        points = {point.name: point for point in (*old, *plan.points)}
        document = {
            "shape": list(plan.shape),
            "data_dir": plan.data_dir and str(plan.data_dir),
            "points": [
                {"name": point.name, "varied": point.varied, "config": point.config.to_dict()}
                for point in points.values()
            ],
        }
        write_yaml(file, document)


def _read_point(document: Nested, shape: Shape) -> Point:
    settings, name, varied = document["config"], document["name"], document["varied"]
    # The name is that of the run's folder.
    if not (isinstance(varied, dict) and isinstance(name, str) and NAME.fullmatch(name)):
        raise ValueError(f"{name!r} is no name of a run")
    own: Nested = {key: settings[key] for key in NAMES}
    layers = [{key: value for key, value in settings.items() if key not in NAMES}]
    return Point(name, varied, make_config(shape=shape, overrides=layers, **own))


def _log_spaced(first: float, last: float, count: int) -> tuple[float, ...]:
    if not (0 < first < last < inf and 2 <= count <= MOST_RUNS):
        raise ValueError
    step = log(last / first) / (count - 1)
    # Six digits, as they name folders.
    return tuple(float(f"{first * exp(step * i):.6g}") for i in range(count))


def _value(config: RunConfig, key: str) -> Any:
    """Return the setting of a dotted name, as the configuration holds it."""
    found: Any = config.to_dict()
    for part in key.split("."):
        found = found[part]
    return found
