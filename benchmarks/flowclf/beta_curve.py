"""The trade-off on CIFAR-10, drawn from the recorded rows.

    python -m benchmarks.flowclf.beta_curve [OUT]    # notebooks/pictures/cifar10-trade-off.png

IB-INN's Figures 8 and 10: trainings at β̃ = 0.02 to 50 are of the study `ib-beta-cifar10`, those at
0, 1 and ∞ and the ResNet of `ib-table1-cifar10`, all of seed 0; AUROC is by typicality.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.results import Row, read, recorded
from flowclf.figures import save_figure, trade_off_figure

PICTURE = Path(__file__).parents[2] / "notebooks" / "pictures" / "cifar10-trade-off.png"
ENDS = {"only L_X": 0, "IB-INN, 1": 1, "only L_Y": float("inf"), "ResNet": None}
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
    for row in read(recorded("ib-table1-cifar10.csv")):
        if row["seed"] == "0" and row["variant"] in ENDS:
            yield _row(row, ENDS[row["variant"]])
    for row in read(recorded("ib-beta-cifar10.csv")):
        if row["seed"] == "0" and row["variant"][0].isdigit():
            yield _row(row, float(row["variant"]))


def _row(row: dict[str, str], beta: float | None) -> Row:
    shown = {heading: row[metric] for heading, metric in PANELS.items()}
    if beta == 0:  # an accuracy of chance has no calibration to speak of, and an axis of its own
        shown["ece"] = ""
    return {"system": row["system"], "beta": beta, **shown}


def main() -> None:
    """Draw the picture."""
    path = Path(sys.argv[1]) if sys.argv[1:] else PICTURE
    save_figure(trade_off_figure(list(rows()), list(PANELS)), path)
    print(path)


if __name__ == "__main__":
    main()
