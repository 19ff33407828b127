"""The trade-off on CIFAR-10, drawn from the recorded rows.

    python -m benchmarks.flowclf.beta_curve          # notebooks/pictures/cifar10-trade-off.png

IB-INN's Figures 8 and 10, of the trainings in the table `ib-beta-cifar10` of docs/measured.md, and
the ResNet of `ib-table1-cifar10`, all of seed 0; AUROC is by typicality.
"""

from collections.abc import Iterator, Mapping
from math import inf
from pathlib import Path
from typing import Any

from benchmarks.flowclf.doc_tables import entries, places, rows_of
from benchmarks.results import Row, by_seed, recorded
from flowclf.figures import save_figure, trade_off_figure

PICTURE = Path(__file__).parents[2] / "notebooks" / "pictures" / "cifar10-trade-off.png"
SEED = "0"
RESNET = {"rows": "ib-table1-cifar10", "of": "ResNet"}
# A heading of a panel, and what it shows.
PANELS = {
    "accuracy": "accuracy",
    "ece": "ece",
    "bits_per_dim": "bits_per_dim",
    "AUROC: turned colours": "typicality_rgb-rotation:0.348",
    "AUROC: drawings": "typicality_drawings",
    "AUROC: noise of 0.015": "typicality_noise:0.015",
}


def rows() -> Iterator[Row]:
    """Yield a row a training, with its β̃ and the numbers of the panels."""
    for label, where in places(entries()["ib-beta-cifar10"]).items():
        row = {"system": "ib-inn", "beta": inf if label == "∞" else float(label), **_shown(where)}
        # An accuracy of chance has no calibration to speak of, and would have an axis of its own.
        yield row if row["beta"] else row | {"ece": None}
    yield {"system": "resnet", "beta": None, **_shown(RESNET)}


def _shown(where: Mapping[str, Any]) -> Row:
    found = rows_of(recorded(f"{where['rows']}.csv"))
    numbers = {k: by_seed(found, "variant", where["of"], v) for k, v in PANELS.items()}
    return {heading: each.get(SEED) for heading, each in numbers.items()}


def main() -> None:
    """Draw the picture."""
    save_figure(trade_off_figure(list(rows()), list(PANELS)), PICTURE)
    print(PICTURE)


if __name__ == "__main__":
    main()
