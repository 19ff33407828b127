"""The catalogue knows every number that is shown, and labels stand nowhere else."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_systems import small

import flowclf
from flowclf import build
from flowclf.catalogue import ENDS, METRICS, find_metric
from flowclf.data import Split
from flowclf.data.outliers import Outliers
from flowclf.evaluation import SUITES, Options, evaluate
from flowclf.many.run import FIRST
from flowclf.many.table import COLUMNS
from flowclf.support.errors import UserError
from flowclf.systems import SYSTEMS

CLASSES = 3


def keys(document: Any) -> Iterator[str]:
    """Yield the names in a document, but the classes that head the columns of a matrix."""
    if isinstance(document, dict):
        yield from (key for key in document if not key.isdigit())
    for each in document.values() if isinstance(document, dict) else document:
        if isinstance(each, dict | list):
            yield from keys(each)


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_key_of_every_suite_is_known(name: str, generator: torch.Generator) -> None:
    y = torch.arange(120) % CLASSES
    x = torch.randint(0, 256, (120, 1, 8, 8), generator=generator, dtype=torch.uint8)
    split = Split(x, y)
    model = build(name, shape=(1, 8, 8), classes=CLASSES, samples=120, **small(name, image=True))
    model.fit_statistics(x, y)
    options = Options(
        (Outliers("noise", x),),
        ("defocus_blur",),
        (1,),
        None,
        (0.1,),
        samples=4,
        draws=2,
        explained=2,
        judge_steps=2,
    )
    refused = set()
    for suite in SUITES:
        try:
            found = evaluate(model, split, [suite], 0, split, split, options)
        except UserError:
            refused.add(suite)
            continue
        for key in keys(found):
            end = next((end for end in ENDS if key.endswith(end)), "")
            assert key.removesuffix(end) in METRICS, f"{suite}: {key}"
    assert refused <= {"bound", "cycle", "explain", "samples", "attack"}


def test_every_column_of_results_is_known() -> None:
    assert {*FIRST, *COLUMNS} <= METRICS.keys()


def test_definitions_are_one_line_and_directions_have_arrows() -> None:
    for name, metric in METRICS.items():
        assert metric.label, name
        assert "\n" not in metric.definition, name
        assert metric.definition.endswith((".", "?")), name
        assert metric.arrow == {"higher": "↑", "lower": "↓", "": ""}[metric.better]


@pytest.mark.parametrize(
    ("name", "value", "heading", "written"),
    [
        ("accuracy", 0.98765, "accuracy in %", "98.77 %"),
        ("bits_per_dim", None, "bits/dim", "-"),
        ("inverse_error", 1.5e-6, "inverse error", "1.5e-06"),
        ("samples", 30, "samples", "30"),
        ("density", "exact", "density", "exact"),
        ("accuracy_at_0.02", 0.5, "accuracy at β̃ = 0.02 in %", "50.00 %"),
        ("ece_severity_3", 0.5, "ECE (15 bins) at severity 3 in %", "50.00 %"),
        ("my_rate_nats", 0.5, "my rate in nats", "0.5000"),
    ],
)
def test_values_for_people(name: str, value: float | str, heading: str, written: str) -> None:
    metric = find_metric(name)
    assert metric.heading == heading
    assert metric.written(value) == written


def test_errors_are_scaled_too() -> None:
    assert find_metric("accuracy").text(0.5, 0.01) == "50.00 ± 1.00"


def test_labels_are_written_in_the_catalogue_alone() -> None:
    """Look for labels with a symbol or a unit, which plain prose does not contain."""
    known = {metric.label for metric in METRICS.values()} | {m.heading for m in METRICS.values()}
    marked = {label for label in known if any(mark in label for mark in "(%−") or " in " in label}
    root = Path(flowclf.__file__).parent
    written = {
        f"{path.relative_to(root)}: {node.value}"
        for path in root.rglob("*.py")
        if path.name != "catalogue.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value in marked
    }
    assert not written
