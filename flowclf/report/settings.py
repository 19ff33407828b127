"""Settings by their dotted names: where runs differ, and the command that repeats a run."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from couplings.core import Shape
from flowclf.config import NAMES, RunConfig, default_preset, flatten, make_config, nested
from flowclf.systems import find_system

Nested = dict[str, Any]
Flat = Mapping[str, Any]
_ABSENT = object()


def differing(runs: Sequence[Flat]) -> list[str]:
    """Return the names of the settings that not all runs have, or not equal ones."""
    names = dict.fromkeys(name for run in runs for name in run)
    first = {name: runs[0].get(name, _ABSENT) for name in names}
    return [n for n in names if any(run.get(n, _ABSENT) != first[n] for run in runs[1:])]


def common_settings(runs: Sequence[Flat]) -> Nested:
    """Return the settings that all runs share."""
    apart = set(differing(runs))
    return {name: value for name, value in runs[0].items() if name not in apart}


def written(value: Any) -> str:
    """Write a value as YAML on one line, as `--set` reads it."""
    text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def train_command(config: RunConfig, shape: Shape, dataset: str) -> str:
    """Return the `flowclf train` of this configuration, for a POSIX shell.

    Settings of the preset, which is chosen by the shape of one sample, are left out; `dataset` is
    what `--data` is to be.
    """
    arguments = ["flowclf", "train", config.system, "--data", dataset]
    if config.preset != default_preset(config.system, dataset, shape, config.data.target is None):
        arguments += ["--preset", config.preset]
    changes = _changes(config, shape)
    place = find_system(config.system).beta
    for name, option in ((".".join(place or ()), "--beta"), ("train.epochs", "--epochs")):
        if name in changes:
            arguments += [option, str(changes.pop(name)).removesuffix(".0")]
    if config.seed:
        arguments += ["--seed", str(config.seed)]
    for name, value in changes.items():
        arguments += ["--set", f"{name}={written(value)}"]
    return shlex.join(arguments)


def _changes(config: RunConfig, shape: Shape) -> Nested:
    """Return what differs from the preset, by dotted names.

    A section of another kind is compared with that kind's defaults.
    """
    wanted, base = _settings(config), _preset_settings(config, shape, {})
    kinds = {n: v for n, v in wanted.items() if n.endswith(".kind") and base.get(n) != v}
    if kinds:
        base = _preset_settings(config, shape, kinds)
    return kinds | {n: v for n, v in wanted.items() if base.get(n, _ABSENT) != v}


def _preset_settings(config: RunConfig, shape: Shape, changes: Flat) -> Nested:
    options: Nested = {"preset": config.preset, "seed": config.seed, "overrides": [nested(changes)]}
    return _settings(make_config(config.system, config.dataset, shape, **options))


def _settings(config: RunConfig) -> Nested:
    """Return all settings without the names of system, preset and the like."""
    document = config.to_dict()
    return flatten({key: value for key, value in document.items() if key not in NAMES})
