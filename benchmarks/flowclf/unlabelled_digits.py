"""Digits without a name: python -m benchmarks.flowclf.unlabelled_digits --seeds 0-9

The experiment of Gemp, Parente, Mahadevan, "Inverting VAEs for improved generative accuracy", 2017,
Sec. 3: of the 70,000 digits of MNIST 0-4 have labels, 20,000 images drawn from all have none, and
the score is the cross-entropy on all 5-9, once the free labels have been assigned. As in the
released code images are rounded to black and white (--grey: they are not), and the optimiser is
Adam with ε = 1e-4, gradients scaled to a norm of at most 5 and then clipped to ±1.

Networks and objectives are the presets `paper` and `code`. A row is recorded as soon as there is
one, and a recorded one is not measured again.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from statistics import mean, stdev
from typing import Any

import torch

from benchmarks.flowclf.study import t_interval
from benchmarks.results import append_rows, digest, read, recorded
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

FILE = "untapped.csv"
SCORES = (
    "cross_entropy_nats", "accuracy", "cross_entropy_nats_matched", "accuracy_matched", "distinct",
)  # fmt: skip
# Name to system and preset; each reverse bound has its own M2 beside it.
VARIANTS = {
    "m2": ("m2", "paper"), "untapped": ("untapped", "paper"),
    "m2-code": ("m2", "code"), "untapped-code": ("untapped", "code"),
}  # fmt: skip
PAIRS = (("untapped", "m2"), ("untapped-code", "m2-code"))
LR, EPSILON, NORM, LARGEST = 0.01, 1e-4, 5.0, 1.0
BATCH_SIZE = 4096
SCALE = ("updates", "batch", "labelled", "unlabelled")  # options that are numbers


@dataclass(frozen=True)
class Experiment:
    """Scale of the experiment; by default the paper's."""

    updates: int = 600  # of all parameters; 150 epochs of 4
    batch: int = 10_000  # labelled and as many unlabelled images in each
    labelled: int | None = None  # images with a label, of a random order; None: all of 0-4
    unlabelled: int = 20_000  # images drawn with replacement from all
    known: int = 5  # classes with labels
    grey: bool = False  # leave the images' grey levels


@dataclass(frozen=True)
class Task:
    """The pooled images, and the classifier that reads decoded ones."""

    pool: Split
    levels: int
    classes: int
    reader: ImageClassifier

    def draw(self, experiment: Experiment, seed: int) -> tuple[Split, Split]:
        """Draw labelled images of the known classes, and images whose labels are -1."""
        generator = generator_for(seed, "extraction")
        known = (self.pool.y < experiment.known).nonzero()[:, 0]
        known = known[torch.randperm(len(known), generator=generator)[: experiment.labelled]]
        rows = torch.randint(len(self.pool), (experiment.unlabelled,), generator=generator)
        unlabelled = Split(self.pool.x[rows], torch.full_like(rows, -1))
        return self.pool.take(known), unlabelled


def pooled(dataset: Dataset, *, grey: bool = False) -> Task:
    """Pool training and test images, rounded to 0 and the highest level unless `grey`."""
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
    """Yield a row for each seed and variant; those already recorded are not measured again."""
    path = recorded(FILE)
    known = {(row["variant"], row["seed"], row["settings"]): row for row in read(path)}
    task = None
    for seed, variant in product(seeds, variants):
        settings = _digest(variant, experiment)
        if row := known.get((variant, str(seed), settings)):
            yield row | {name: float(row[name]) for name in SCORES} | {"seed": seed}
            continue
        task = task or make_task()
        found = measure(task, experiment, variant, seed, device) | {"settings": settings}
        append_rows(path, [found])
        yield found


def measure(
    task: Task, experiment: Experiment, variant: str, seed: int, device: str = "cpu"
) -> dict[str, Any]:
    """Train one system and score how it reads the digits without labels."""
    system, preset = VARIANTS[variant]
    facts: dict[str, Any] = {"classes": task.classes, "levels": task.levels, "seed": seed}
    model = build(system, shape=tuple(task.pool.x.shape[1:]), preset=preset, **facts).to(device)
    assert isinstance(model, Untapped)
    labelled, unlabelled = task.draw(experiment, seed)
    start = time.perf_counter()
    learn(model, labelled, unlabelled, experiment, seed)
    seconds = time.perf_counter() - start
    images = canonical_images(model, average_latent(model, labelled.x, labelled.y))
    p = class_probabilities(task.reader, images, task.levels - 1)
    unknown = task.pool.take(task.pool.y >= experiment.known)
    with torch.no_grad(), evaluating(model):
        parts = unknown.x.split(BATCH_SIZE)
        log_q = torch.cat([model.log_posterior(part.to(device)).cpu() for part in parts])
    scores = extraction(p, log_q, unknown.y, experiment.known)
    row = {"variant": variant, "seed": seed, **{name: scores[name] for name in SCORES}}
    scale = {name: value for name, value in asdict(experiment).items() if name != "known"}
    return row | {"seconds": round(seconds, 1), "device": device} | scale


def learn(
    model: Untapped, labelled: Split, unlabelled: Split, experiment: Experiment, seed: int
) -> None:
    """Make all updates, each of fresh labelled and unlabelled batches."""
    device = model.pairs.device
    splits = [Split(split.x.to(device), split.y.to(device)) for split in (labelled, unlabelled)]
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, LR, eps=EPSILON)
    generator = torch.Generator(device)
    model.train()
    for step in range(experiment.updates):
        order = generator_for(seed, "batch", step)
        rows = [torch.randperm(len(s), generator=order)[: experiment.batch] for s in splits]
        batches = [s.take(r.to(device)) for s, r in zip(splits, rows, strict=True)]
        x, y = (torch.cat([getattr(batch, name) for batch in batches]) for name in "xy")
        generator.manual_seed(derive_seed(seed, "draws", step))
        optimizer.zero_grad()
        model.loss(x, y, generator)["total"].backward()
        torch.nn.utils.clip_grad_norm_(parameters, NORM, error_if_nonfinite=True)
        torch.nn.utils.clip_grad_value_(parameters, LARGEST)
        optimizer.step()
    model.eval()


def paired_difference(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float]:
    """Return the mean difference and half its 95 % t-interval (NaN of one pair)."""
    return t_interval([a - b for a, b in zip(ours, theirs, strict=True)])


def _digest(variant: str, experiment: Experiment) -> str:
    system, preset = VARIANTS[variant]
    settings = build(system, shape=(1, 28, 28), classes=10, preset=preset).settings.model_dump()
    return digest([system, settings, asdict(experiment), [LR, EPSILON, NORM, LARGEST]])


def _summary(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    for variant in dict.fromkeys(row["variant"] for row in rows):
        own = [row for row in rows if row["variant"] == variant]
        for name in SCORES:
            values = [float(row[name]) for row in own]
            spread = f"sd {stdev(values):.3f}" if len(values) > 1 else ""
            yield f"{variant:14} {name:28} mean {mean(values):.3f} {spread} of {len(values)}"
    found = {(row["variant"], row["seed"]): row for row in rows}
    for one, other in PAIRS:
        seeds = [seed for variant, seed in found if variant == one and (other, seed) in found]
        for name in SCORES if seeds else ():
            ours, theirs = ([float(found[v, s][name]) for s in seeds] for v in (one, other))
            difference, half = paired_difference(ours, theirs)
            count = f"(95 %, {len(seeds)} seeds)"
            yield f"{one} - {other}: {name} {difference:+.3f} ± {half:.3f} {count}"


def _seeds(text: str) -> list[int]:
    """Parse 0-9, or 0,3,5."""
    first, dash, last = text.partition("-")
    return [*range(int(first), int(last) + 1)] if dash else [int(s) for s in text.split(",")]


def _arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flowclf.unlabelled_digits")
    add = parser.add_argument
    add("--seeds", type=_seeds, default=[*range(10)], help="0-9 or 0,3,5")
    add("--variants", nargs="+", choices=VARIANTS, default=[*VARIANTS])
    for name in SCALE:
        add(f"--{name}", type=int, default=getattr(Experiment, name))
    add("--grey", action="store_true", help="do not round the images")
    add("--device", default="cpu", choices=["auto", "cpu", "cuda"])
    add("--threads", type=int, default=1)
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> None:
    """Run the command."""
    options = _arguments(given)
    torch.set_num_threads(options.threads)
    experiment = Experiment(**{name: getattr(options, name) for name in (*SCALE, "grey")})
    wanted = experiment, options.variants, options.seeds, pick_device(options.device)
    rows = []
    for row in run_experiment(lambda: pooled(load_dataset("mnist"), grey=options.grey), *wanted):
        rows.append(row)
        scores = ", ".join(f"{name} {float(row[name]):.3f}" for name in SCORES)
        print(f"{row['variant']} seed {row['seed']}: {scores}", flush=True)
    print("\n".join(_summary(rows)))


if __name__ == "__main__":
    main()
