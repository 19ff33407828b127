"""The figures that go with an evaluation's rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from flowclf.evaluation.calibration import Reliability
from flowclf.evaluation.context import Scores
from flowclf.evaluation.scores import SCORES
from flowclf.figures.calibration import reliability_figure
from flowclf.figures.detection import roc_figure, score_histograms
from flowclf.figures.matrix import confusion_figure, distance_figure
from flowclf.figures.robustness import attack_figure, corruption_figure
from flowclf.figures.style import save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["evaluation_figures"]

Rows = Sequence[Mapping[str, Any]]

PICTURED = ("negative-log-prob", "typicality", "entropy")


def evaluation_figures(
    name: str,
    results: Mapping[str, Any],
    folder: Path,
    class_names: Sequence[str],
    scores: tuple[Scores, Mapping[str, Scores]] | None = None,
) -> list[Path]:
    """Write a figure for each of the results that has one; their paths.

    reliability, shift, attack, confusion, class_distances, and with the scores of outliers
    roc-SCORE and scores-SCORE of those that are `PICTURED`; all .png.

    Args:
        name: of the system.
        results: of `evaluate`.
        folder: where they go.
        class_names: of the data.
        scores: `Subject.outlier_scores`.
    """
    draw: dict[str, Callable[[Rows], Figure]] = {
        "reliability": lambda rows: reliability_figure({name: _reliability(rows)}),
        "shift": lambda rows: corruption_figure({name: rows}),
        "attack": lambda rows: attack_figure(_curves(rows)),
        "confusion": lambda rows: confusion_figure(_matrix(rows), class_names),
        "class_distances": lambda rows: distance_figure(_matrix(rows), class_names),
    }
    figures = {kind: draw[kind](results[kind]) for kind in draw if kind in results}
    for score in PICTURED if scores else ():
        figures |= _score_figures(score, *scores) if scores and score in scores[0] else {}
    paths = [folder / f"{kind}.png" for kind in figures]
    for path, figure in zip(paths, figures.values(), strict=True):
        save_figure(figure, path)
    return paths


def _score_figures(score: str, inside: Scores, outside: Mapping[str, Scores]) -> dict[str, Figure]:
    """ROC curves and histograms of one score."""
    sets = {name: values[score] for name, values in outside.items()}
    return {
        f"roc-{score}": roc_figure(inside[score], sets, SCORES[score].formula),
        f"scores-{score}": score_histograms(
            inside[score], sets, SCORES[score].formula, inside_name="test set"
        ),
    }


def _matrix(rows: Rows) -> torch.Tensor:
    """(K, K), of rows with the classes' numbers as keys."""
    return torch.tensor([[row[str(k)] for k in range(len(rows))] for row in rows])


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
