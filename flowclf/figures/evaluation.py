"""The figures that go with an evaluation's rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from math import nan
from pathlib import Path
from typing import Any

import torch

from flowclf.evaluation.calibration import Reliability
from flowclf.figures.calibration import reliability_figure
from flowclf.figures.robustness import attack_figure, corruption_figure
from flowclf.figures.style import save_figure

__all__ = ["evaluation_figures"]

Rows = Sequence[Mapping[str, Any]]


def evaluation_figures(name: str, results: Mapping[str, Any], folder: Path) -> list[Path]:
    """reliability.png, shift.png and attack.png, of the suites that were run; their paths.

    Args:
        name: of the system.
        results: of `evaluate`.
        folder: where they go.
    """
    figures = {}
    if "reliability" in results:
        figures["reliability"] = reliability_figure({name: _reliability(results["reliability"])})
    if "shift" in results:
        figures["shift"] = corruption_figure({name: results["shift"]})
    if "attack" in results:
        figures["attack"] = attack_figure(_curves(results["attack"]))
    paths = [folder / f"{kind}.png" for kind in figures]
    for path, figure in zip(paths, figures.values(), strict=True):
        save_figure(figure, path)
    return paths


def _curves(rows: Rows) -> dict[str, Rows]:
    """Of each kind of attack and loss."""
    groups = groupby(rows, key=lambda row: f"{row['kind']}, {row['loss']}")
    return {attack: list(group) for attack, group in groups}


def _reliability(rows: Rows) -> Reliability:
    def column(name: str) -> torch.Tensor:
        values = [nan if row[name] is None else row[name] for row in rows]
        return torch.tensor(values, dtype=torch.float64)

    edges = torch.cat((column("low"), column("high")[-1:]))
    return Reliability(column("confidence"), column("accuracy"), column("count").long(), edges)
