"""Settings by their dotted names: where runs differ, and the command that makes a run again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from couplings.core import Shape
from flowclf.config import NAMES, RunConfig, default_preset, flatten, make_config, nested
from flowclf.systems import find_system

__all__ = [
    "command_line",
    "common_settings",
    "differing",
    "train_command",
    "written",
]

Nested = dict[str, Any]
Flat = Mapping[str, Any]
_ABSENT = object()


def differing(runs: Sequence[Flat]) -> list[str]:
    """Names of the settings that not all runs have, or have alike."""
    names = dict.fromkeys(name for run in runs for name in run)
    return [name for name in names if any(_differs(run, runs[0], name) for run in runs[1:])]


def common_settings(runs: Sequence[Flat]) -> Nested:
    """Those that all runs share."""
    apart = set(differing(runs))
    return {name: value for name, value in runs[0].items() if name not in apart}


def written(value: Any) -> str:
    """A value as YAML on one line, as `--set` reads it."""
    text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def command_line(arguments: Sequence[str]) -> str:
    """For a POSIX shell."""
    return shlex.join(arguments)


def train_command(config: RunConfig, shape: Shape, dataset: str) -> list[str]:
    """Arguments of `flowclf train` that make this configuration.

    What the preset has already is left out.

    Args:
        config: of the run.
        shape: of one sample, by which a preset is chosen.
        dataset: what `--data` is to be.
    """
    arguments = ["flowclf", "train", config.system, "--data", dataset]
    if config.preset != default_preset(config.system, dataset, shape):
        arguments += ["--preset", config.preset]
    changes = _changes(config, shape)
    place = find_system(config.system).beta
    for name, option in ((".".join(place or ()), "--beta"), ("train.epochs", "--epochs")):
        if name in changes:
            arguments += [option, _plain(changes.pop(name))]
    if config.seed:
        arguments += ["--seed", str(config.seed)]
    for name, value in changes.items():
        arguments += ["--set", f"{name}={written(value)}"]
    return arguments


def _changes(config: RunConfig, shape: Shape) -> Nested:
    """What differs from the preset, by dotted names.

    A section whose kind is another starts anew, so that it is compared with that kind's defaults.
    """
    wanted = _own(config)
    base = _own(_preset(config, shape))
    kinds = {
        name: wanted[name]
        for name in wanted
        if name.endswith(".kind") and base.get(name) != wanted[name]
    }
    if kinds:
        base = _own(_preset(config, shape, kinds))
    return kinds | {
        name: value for name, value in wanted.items() if base.get(name, _ABSENT) != value
    }


def _preset(config: RunConfig, shape: Shape, changes: Flat | None = None) -> RunConfig:
    return make_config(
        config.system,
        config.dataset,
        shape,
        preset=config.preset,
        seed=config.seed,
        overrides=[nested(changes or {})],
    )


def _plain(number: float) -> str:
    """1.0 as 1."""
    return str(number).removesuffix(".0")


def _own(config: RunConfig) -> Nested:
    """Its settings, without what the run is called."""
    document = config.to_dict()
    return flatten({key: value for key, value in document.items() if key not in NAMES})


def _differs(run: Flat, other: Flat, name: str) -> bool:
    return run.get(name, _ABSENT) != other.get(name, _ABSENT)
