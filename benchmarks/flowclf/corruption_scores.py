"""Which outlier score notices corruptions: AUROC of each family of corrupted test images.

    python -m benchmarks.flowclf.corruption_scores RUN [--severity 3] [--samples 1000]

Corrupted images of the first test images against three times as many others; scores are fitted to
training images alone. A row for each family, and the mean over families last, go to
results/corruption-scores.csv.
"""

import argparse
from pathlib import Path

from benchmarks.flowclf.deciding import SCORED
from benchmarks.results import Row, append_rows, recorded
from flowclf.data.corruptions import CORRUPTIONS, corrupt
from flowclf.evaluation.context import MOST_TRAINING
from flowclf.evaluation.detection import auroc
from flowclf.evaluation.scores import Reference, model_scores
from flowclf.runs import Run
from flowclf.training.task import load_task


def main() -> None:
    """Measure a run; print and record the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--severity", type=int, default=3)
    parser.add_argument("--samples", type=int, default=1000)
    given = parser.parse_args()
    task = load_task(given.run, device="cpu")
    model, config = task.model, task.config
    reference = Reference.fit(model, task.training.spread(MOST_TRAINING).x)
    first, others = task.test.x[: given.samples], task.test.x[given.samples :]
    inside = model_scores(model, others[: 3 * given.samples], reference)
    facts: Row = {"data": config.dataset, "system": config.system, "preset": config.preset}
    facts |= {"seed": config.seed, "severity": given.severity, "samples": given.samples}
    rows: list[Row] = []
    for family in CORRUPTIONS:
        outside = model_scores(model, corrupt(first, family, given.severity, 0), reference)
        found = {n: auroc(inside[n], outside[n]).value if n in inside else None for n in SCORED}
        rows.append({**facts, "family": family, **found})
        print(family, {n: round(v, 3) for n, v in found.items() if v is not None}, flush=True)
    known = [name for name in SCORED if name in inside]
    means = {n: sum(row[n] for row in rows) / len(rows) if n in known else None for n in SCORED}
    rows.append({**facts, "family": "mean", **means})
    print("mean", {name: round(means[name] or 0, 3) for name in known})
    append_rows(recorded("corruption-scores.csv"), rows, Run(given.run).read_precision())


if __name__ == "__main__":
    main()
