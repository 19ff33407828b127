"""Which classes lie near each other in latent space.

    python -m benchmarks.flowclf.class_similarity RUN…

IB-INN's Figure 7 on CIFAR-10: by the distances of the class means, the rank of truck among the
neighbours of automobile, and of dog among those of cat (1: the nearest of nine). Rows go to
results/class-similarity.csv.
"""

import argparse
from pathlib import Path

import torch

from benchmarks.results import Row, append_rows, recorded
from flowclf.evaluation.clustering import class_distances
from flowclf.runs import Run
from flowclf.training.task import load_task

PAIRS = (("automobile", "truck"), ("cat", "dog"))


def main() -> None:
    """Measure each run; print and record the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", help="runs on CIFAR-10")
    for run in parser.parse_args().runs:
        task = load_task(run, device="cpu")
        config, names = task.config, task.dataset.class_names
        mixture = task.model.mixture
        with torch.no_grad():
            distances = class_distances(mixture.embed(mixture.centres()), mixture.std())
        distances.fill_diagonal_(torch.inf)
        row: Row = {"data": config.dataset, "system": config.system, "preset": config.preset}
        row["seed"] = config.seed
        for of, near in PAIRS:
            nearest = [names[k] for k in distances[names.index(of)].argsort()]
            row |= {f"nearest_to_{of}": nearest[0], f"rank_{near}": nearest.index(near) + 1}
        row["mean_rank"] = sum(row[f"rank_{near}"] for _, near in PAIRS) / len(PAIRS)
        print(row, flush=True)
        append_rows(recorded("class-similarity.csv"), [row], Run(run).read_precision())


if __name__ == "__main__":
    main()
