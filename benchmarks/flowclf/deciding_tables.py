"""Decisions on tables at default settings: guarantees over splits, and outliers found.

    python -m benchmarks.flowclf.deciding_tables [digits adult] [--seeds 10 11 12]

The digits without the nines, which are among the outliers, and the people of
`benchmarks.flowclf.tables`; half of each table is the test set. Scores by derivatives are among
those that are tried. Rows go to results/deciding-tables.csv.
"""

import argparse
from dataclasses import replace
from itertools import product

import torch
from torch import Tensor

from benchmarks.flowclf import tables
from benchmarks.flowclf.deciding import BY_DERIVATIVES, SCORED, measured, value_names
from benchmarks.results import Row, append_rows, recorded
from flowclf.config import make_config
from flowclf.data import Dataset
from flowclf.data.outliers import TABLE_OUTLIERS, load_outliers
from flowclf.evaluation.statistics import COSTLY, STATISTICS
from flowclf.training.loop import train

SETS = ("held_out_class", *TABLE_OUTLIERS)
SCORES = (*(name for name in SCORED if name != "complexity"), *BY_DERIVATIVES)


def decide_table(name: str, seed: int, system: str) -> Row:
    """Train on half of a table and return its row."""
    data, outside = tables.load(name, seed, test_share=0.5), dict[str, Tensor]()
    if name == "digits":
        data, outside["held_out_class"] = _without_last(data)
    config = make_config(system, data.name, data.shape, seed=seed, samples=len(data.train))
    trained = train(config, data, device="cpu")
    outside |= {spec: load_outliers(spec, data, seed).x for spec in TABLE_OUTLIERS}
    found = measured(trained.model, data.train, data.test, outside, SCORES, (*STATISTICS, *COSTLY))
    right = trained.model.predict(data.test.x) == data.test.y
    facts: Row = {"table": name, "system": system, "seed": seed}
    facts["accuracy"] = float(right.double().mean())
    facts |= {column: found.get(column) for column in ("aurc_doubt", *value_names(SETS, SCORES))}
    return facts | {"precision": trained.precision}


def _without_last(data: Dataset) -> tuple[Dataset, Tensor]:
    """Return the data without the last class, and its test samples."""
    last = len(data.class_names) - 1
    train_, test = (
        split.take((split.y < last).nonzero()[:, 0]) for split in (data.train, data.test)
    )
    kept = replace(data, train=train_, test=test, class_names=data.class_names[:last])
    return kept, data.test.x[data.test.y == last]


def main() -> None:
    """Measure tables; print and record the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tables", nargs="*", default=["digits", "adult"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[10, 11, 12])
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name, seed, system in product(given.tables, given.seeds, ("ib-inn", "ce")):
        row = decide_table(name, seed, system)
        append_rows(recorded("deciding-tables.csv"), [row])
        shown = {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}
        print(shown, flush=True)


if __name__ == "__main__":
    main()
