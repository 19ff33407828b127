"""Shortcuts in the training data, and who takes them: worst-group accuracy along β̃.

    python -m benchmarks.flowclf.shortcuts [--share 0.9] [--seeds 0 1 2] [--seconds 20]

On 10,000 digits of 14x14 a bright patch of 2x2 pixels in the first two rows stands at a place of
its class, in a share of the training images; in the others, and in all test images, at a place of
any class. Groups are the ten classes, each where the patch tells its class and where it tells
another. "Generative classifiers avoid shortcut solutions" (Li, Kumar, Pathak, ICLR 2025) measure
the same of diffusion models. Rows go to results/shortcuts.csv.
"""

import argparse
from itertools import product
from typing import Any

import torch
from torch import Tensor

from benchmarks.flowclf.classify import halved
from benchmarks.results import append_rows, recorded
from flowclf.config import make_config
from flowclf.data import Dataset, Split, load_dataset
from flowclf.evaluation import predict_split
from flowclf.training import train

IMAGES = 10_000
BETAS = (0.02, 0.2, 2.0, 20.0, float("inf"))
VARIANTS: dict[str, dict[str, Any]] = {
    **{f"ib-inn, β̃ = {beta:g}": {"system": "ib-inn", "beta": beta} for beta in BETAS},
    "class-nll": {"system": "class-nll"},
    "ce": {"system": "ce"},
    "gm": {"system": "gm"},
}


def patched(split: Split, classes: int, share: float, seed: int) -> tuple[Split, Tensor]:
    """Return the split with a patch in each image, and the class that it tells, (N,)."""
    generator = torch.Generator().manual_seed(seed)
    told = torch.randint(classes, split.y.shape, generator=generator)
    true = torch.rand(split.y.shape, generator=generator) < share
    told = torch.where(true, split.y, told)
    x, rows = split.x.clone(), torch.arange(len(split))
    for row, column in product((0, 1), (0, 1)):
        x[rows, :, row, told + column] = 255
    return Split(x, split.y), told


def groups(right: Tensor, y: Tensor, told: Tensor) -> dict[str, float]:
    """Return the accuracy of all, of images with a true and a false patch, and the worst group's.

    Args:
        right: whether the prediction is, (N,) bool.
        y: true classes.
        told: classes that the patches tell.
    """
    right, true = right.double(), told == y
    parts = [right[(y == k) & (true == agree)] for k in y.unique() for agree in (True, False)]
    return {
        "accuracy": float(right.mean()),
        "true_patch": float(right[true].mean()),
        "false_patch": float(right[~true].mean()),
        "worst_group": min(float(part.mean()) for part in parts if len(part)),
    }


def survey(variant: str, seed: int, share: float, seconds: float) -> dict[str, Any]:
    """Train one variant and return its row."""
    full = load_dataset("mnist")
    classes = len(full.class_names)
    training, test = (
        patched(halved(split), classes, p, s)
        for split, p, s in (
            (Split(full.train.x[:IMAGES], full.train.y[:IMAGES]), share, seed),
            (full.test, 0.0, 0),
        )
    )
    dataset = Dataset("mnist14", training[0], test[0], full.class_names, full.levels)
    options = dict(VARIANTS[variant])
    preset = "image" if options["system"] in ("ce", "gm") else "mnist14"
    loop = {"epochs": 1000, "cpu_seconds": seconds, "threads": 1}
    config = make_config(
        options.pop("system"), "mnist14", full.shape, preset=preset, seed=seed, **options,
        overrides={"train": loop, "data.augment": "none"},
    )  # fmt: skip
    trained = train(config, dataset, device="cpu")
    found = predict_split(trained.model, test[0])
    right = found.log_posterior.argmax(1) == found.y
    row = {"variant": variant, "seed": seed, "share": share, "cpu_seconds": seconds}
    row |= groups(right, found.y, test[1])
    return row | {"precision": trained.precision}


def main() -> None:
    """Train all variants; print and record a row each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=0.9, help="of images whose patch is true")
    parser.add_argument("--seconds", type=float, default=20, help="CPU-seconds of training each")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    given = parser.parse_args()
    for seed, variant in product(given.seeds, VARIANTS):
        row = survey(variant, seed, given.share, given.seconds)
        append_rows(recorded("shortcuts.csv"), [row])
        print(f"{variant:20} {seed} worst group {100 * row['worst_group']:.1f} %", flush=True)


if __name__ == "__main__":
    main()
