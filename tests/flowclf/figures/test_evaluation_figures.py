"""The figures of an evaluation come from its rows and scores alone."""

from __future__ import annotations

from pathlib import Path

import torch

from flowclf import build
from flowclf.data import Split
from flowclf.data.outliers import Outliers
from flowclf.evaluation import Options, Subject, evaluate_subject
from flowclf.figures.evaluation import evaluation_figures


def test_a_figure_for_each_suite_that_has_one(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(256, (24, 1, 8, 8), generator=generator, dtype=torch.uint8)
    split = Split(x, torch.arange(24) % 3)
    model = build("ib-inn", shape=(1, 8, 8), classes=3)
    model.fit_statistics(split.x, split.y)
    strange = (Outliers("inverted", 255 - x),)
    options = Options(strange, ("brightness",), (1, 3), epsilons=(0.05, 0.1), samples=9)
    suites = ["reliability", "shift", "attack", "confusion", "clustering", "ood"]
    subject = Subject(model, split, split, options=options)
    results, names = evaluate_subject(subject, suites), ("a", "b", "c")
    paths = evaluation_figures("ib-inn", results, tmp_path, names, subject.outlier_scores)
    assert [path.stem for path in paths] == [
        "reliability", "shift", "attack", "confusion", "class_distances",
        "roc-negative-log-prob", "scores-negative-log-prob", "roc-typicality", "scores-typicality",
        "roc-entropy", "scores-entropy",
    ]  # fmt: skip
    assert all(path.stat().st_size > 5000 for path in paths)
    assert sum(row["count"] for row in results["reliability"]) == 24
    assert evaluation_figures("ib-inn", {"accuracy": 1.0}, tmp_path, names) == []
