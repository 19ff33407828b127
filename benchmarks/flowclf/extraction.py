"""Digits that nobody named: python -m benchmarks.flowclf.extraction --seeds 0-9

The experiment of Gemp, Parente, Mahadevan, "Inverting VAEs for improved generative accuracy", 2017,
Sec. 3: of the 70,000 digits of MNIST 0-4 have labels, 20,000 images drawn from all have none, and
what counts is the cross-entropy on all 5-9, once the free labels have been assigned. As in the
released code images are rounded to black and white (--grey: they are not). Their optimiser, too:
Adam with ε = 1e-4, gradients scaled to a norm of at most 5 and then clipped to ±1.

Networks and objectives are the presets `paper` and `code`. A row is recorded as soon as there is
one, and a recorded one is not measured again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import mean, stdev
from typing import Any

import torch
from torch import Tensor

from benchmarks.flowclf.results import append_rows, digest, read_rows
from flowclf.classifier import evaluating
from flowclf.data import Dataset, Split, load_dataset
from flowclf.evaluation.extraction import (
    ImageClassifier,
    average_latent,
    canonical_images,
    class_probabilities,
    extraction,
    fit_image_classifier,
)
from flowclf.models import build
from flowclf.support.devices import pick_device
from flowclf.support.seeding import derive_seed, generator_for
from flowclf.systems.untapped import Untapped

__all__ = ["VARIANTS", "Experiment", "Task", "paired_difference", "pooled", "run_experiment"]

FILE = "untapped.csv"
SCORES = (
    "cross_entropy_nats", "accuracy", "cross_entropy_nats_matched", "accuracy_matched", "distinct",
)  # fmt: skip
# Name to system and preset; each reverse bound has its own M2 beside it.
VARIANTS = {
    "m2": ("m2", "paper"),
    "untapped": ("untapped", "paper"),
    "m2-code": ("m2", "code"),
    "untapped-code": ("untapped", "code"),
}
PAIRS = (("untapped", "m2"), ("untapped-code", "m2-code"))
LR, EPSILON, NORM, LARGEST = 0.01, 1e-4, 5.0, 1.0
BATCH_SIZE = 4096


@dataclass(frozen=True)
class Experiment:
    """Its scale; by default the paper's.

    Attributes:
        updates: of all parameters; 150 epochs of 4.
        batch: labelled and as many unlabelled images in each.
        labelled: images with a label, the first of a random order; None: all of 0-4.
        unlabelled: images drawn with replacement from all.
        known: classes with labels.
        grey: leave the images' grey levels.
    """

    updates: int = 600
    batch: int = 10_000
    labelled: int | None = None
    unlabelled: int = 20_000
    known: int = 5
    grey: bool = False


@dataclass(frozen=True)
class Task:
    """The pooled images, and the classifier that reads decoded ones."""

    pool: Split
    levels: int
    classes: int
    reader: ImageClassifier

    @property
    def top(self) -> int:
        """The highest grey level."""
        return self.levels - 1

    def draw(self, experiment: Experiment, seed: int) -> tuple[Split, Split]:
        """Labelled images of the known classes, and images whose labels are -1."""
        generator = generator_for(seed, "extraction")
        known = (self.pool.y < experiment.known).nonzero()[:, 0]
        known = known[torch.randperm(len(known), generator=generator)[: experiment.labelled]]
        rows = torch.randint(len(self.pool), (experiment.unlabelled,), generator=generator)
        unlabelled = Split(self.pool.x[rows], torch.full_like(rows, -1))
        return self.pool.take(known), unlabelled


def pooled(dataset: Dataset, *, grey: bool = False) -> Task:
    """Training and test images together, rounded to 0 and the highest level unless `grey`."""
    assert dataset.levels is not None
    top = dataset.levels - 1
    x = torch.cat((dataset.train.x, dataset.test.x))
    y = torch.cat((dataset.train.y, dataset.test.y))
    x = x if grey else top * (2 * x.int() > top).to(torch.uint8)
    reader = fit_image_classifier(x, y, top)
    return Task(Split(x, y), dataset.levels, dataset.classes, reader)


def run_experiment(
    make_task: Callable[[], Task],
    experiment: Experiment,
    variants: Sequence[str],
    seeds: Sequence[int],
    device: str = "cpu",
) -> Iterator[dict[str, Any]]:
    """A row for each seed and variant; those already recorded are not measured again."""
    known = {(row["variant"], row["seed"], row["settings"]): row for row in read_rows(FILE)}
    task = None
    for seed in seeds:
        for variant in variants:
            settings = _digest(variant, experiment)
            row = known.get((variant, str(seed), settings))
            if row is not None:
                numbers = {name: float(row[name]) for name in SCORES}
                yield row | numbers | {"seed": seed}
                continue
            task = task or make_task()
            found = measure(task, experiment, variant, seed, device) | {"settings": settings}
            append_rows(FILE, [found])
            yield found


def measure(
    task: Task, experiment: Experiment, variant: str, seed: int, device: str = "cpu"
) -> dict[str, Any]:
    """Train one system and score what it made of the digits without labels."""
    system, preset = VARIANTS[variant]
    shape = tuple(task.pool.x.shape[1:])
    model = build(
        system, shape=shape, classes=task.classes, levels=task.levels, preset=preset, seed=seed
    ).to(device)
    assert isinstance(model, Untapped)
    labelled, unlabelled = task.draw(experiment, seed)
    start = time.perf_counter()
    learn(model, labelled, unlabelled, experiment, seed)
    seconds = time.perf_counter() - start
    images = canonical_images(model, average_latent(model, labelled.x, labelled.y))
    p = class_probabilities(task.reader, images, task.top)
    unknown = task.pool.take(task.pool.y >= experiment.known)
    scores = extraction(p, log_posteriors(model, unknown.x), unknown.y, experiment.known)
    row = {"variant": variant, "seed": seed, **{name: scores[name] for name in SCORES}}
    scale = {name: value for name, value in asdict(experiment).items() if name != "known"}
    return row | {"seconds": round(seconds, 1), "device": device} | scale


def learn(
    model: Untapped, labelled: Split, unlabelled: Split, experiment: Experiment, seed: int
) -> None:
    """All updates, each of fresh labelled and unlabelled batches."""
    device = model.pairs.device
    parts = [Split(split.x.to(device), split.y.to(device)) for split in (labelled, unlabelled)]
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, LR, eps=EPSILON)
    generator = torch.Generator(device)
    model.train()
    for step in range(experiment.updates):
        order = generator_for(seed, "batch", step)
        batches = [_some(part, experiment.batch, order) for part in parts]
        x, y = (torch.cat(both) for both in zip(*batches, strict=True))
        generator.manual_seed(derive_seed(seed, "draws", step))
        optimizer.zero_grad()
        model.loss(x, y, generator)["total"].backward()
        torch.nn.utils.clip_grad_norm_(parameters, NORM, error_if_nonfinite=True)
        torch.nn.utils.clip_grad_value_(parameters, LARGEST)
        optimizer.step()
    model.eval()


@torch.no_grad()
def log_posteriors(model: Untapped, x: Tensor) -> Tensor:
    """log q(k|x) of images (N, *shape), (N, K), on the CPU."""
    device = model.pairs.device
    with evaluating(model):
        return torch.cat([model.log_posterior(p.to(device)).cpu() for p in x.split(BATCH_SIZE)])


def paired_difference(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float]:
    """Mean of the differences, and half the width of its 95 % t-interval (NaN of one pair)."""
    from scipy.stats import t

    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    count = len(differences)
    if count < 2:
        return mean(differences), float("nan")
    return mean(differences), float(t.ppf(0.975, count - 1)) * stdev(differences) / count**0.5


def _some(split: Split, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    rows = torch.randperm(len(split), generator=generator)[:count].to(split.y.device)
    return split.x[rows], split.y[rows]


def _digest(variant: str, experiment: Experiment) -> str:
    """Changes with any setting of the model or the experiment."""
    system, preset = VARIANTS[variant]
    model = build(system, shape=(1, 28, 28), classes=10, preset=preset)
    optimizer = [LR, EPSILON, NORM, LARGEST]
    plain = [system, model.settings.model_dump(), asdict(experiment), optimizer]
    return digest(plain)


def _summary(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    for variant in dict.fromkeys(row["variant"] for row in rows):
        own = [row for row in rows if row["variant"] == variant]
        for name in SCORES:
            values = [float(row[name]) for row in own]
            spread = f"sd {stdev(values):.3f}" if len(values) > 1 else ""
            yield f"{variant:14} {name:28} mean {mean(values):.3f} {spread} of {len(values)}"
    for one, other in PAIRS:
        yield from _compared(rows, one, other)


def _compared(rows: Sequence[dict[str, Any]], one: str, other: str) -> Iterator[str]:
    found = {(row["variant"], row["seed"]): row for row in rows}
    seeds = [seed for variant, seed in found if variant == one and (other, seed) in found]
    for name in SCORES if seeds else ():
        ours, theirs = ([float(found[v, s][name]) for s in seeds] for v in (one, other))
        difference, half = paired_difference(ours, theirs)
        yield f"{one} - {other}: {name} {difference:+.3f} ± {half:.3f} (95 %, {len(seeds)} seeds)"


def _seeds(text: str) -> list[int]:
    """0-9, or 0,3,5."""
    first, dash, last = text.partition("-")
    return [*range(int(first), int(last) + 1)] if dash else [int(s) for s in text.split(",")]


def _arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    scale = Experiment()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flowclf.extraction")
    parser.add_argument("--seeds", type=_seeds, default=[*range(10)], help="0-9 or 0,3,5")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=[*VARIANTS])
    parser.add_argument("--updates", type=int, default=scale.updates)
    parser.add_argument("--batch", type=int, default=scale.batch)
    parser.add_argument("--labelled", type=int, default=scale.labelled, help="default: all 0-4")
    parser.add_argument("--unlabelled", type=int, default=scale.unlabelled)
    parser.add_argument("--grey", action="store_true", help="do not round the images")
    parser.add_argument("--device", default="cpu", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> None:
    """The command."""
    options = _arguments(given)
    torch.set_num_threads(options.threads)
    names = ("updates", "batch", "labelled", "unlabelled", "grey")
    experiment = Experiment(**{name: getattr(options, name) for name in names})
    device = pick_device(options.device)
    rows = []
    for row in run_experiment(
        lambda: pooled(load_dataset("mnist"), grey=options.grey),
        experiment,
        options.variants,
        options.seeds,
        device,
    ):
        rows.append(row)
        scores = ", ".join(f"{name} {float(row[name]):.3f}" for name in SCORES)
        print(f"{row['variant']} seed {row['seed']}: {scores}", flush=True)
    print("\n".join(_summary(rows)))


if __name__ == "__main__":
    main()
