"""Classes that come later: five tasks of two digits each, with no image of an earlier task kept.

    python -m benchmarks.flowclf.learning_on [mnist14 | mnist] [--steps 300] [--seeds 0 1 2]

An IB-INN learns two digits, then two more, and so on. Each new class is a new mean of the latent
mixture, first the average of its latents. "rehearsal": a copy of the model as it was draws images
of the earlier classes, as many of each as there are new ones of each; "fine-tuning": new images
alone; "all at once": images of all classes seen so far, which is what nobody has. "frozen flow":
only the first two digits train the network; each class is a Gaussian of full covariance in its
latent space, computed in one pass over the images of its task, and what is kept are these moments.
Accuracy and bits/dim are those of the test images of all classes seen. Rows go to
results/learning-on-DATA.csv.
"""

import argparse
from collections.abc import Iterator
from itertools import product
from math import log

import torch

from benchmarks.flowclf.classify import TASKS
from benchmarks.results import Row, append_rows, recorded
from flowclf.classifier import GenerativeClassifier, latents
from flowclf.config import RunConfig, make_config
from flowclf.data import Dataset, Split
from flowclf.evaluation import predict_split
from flowclf.latent.full import ClassMoments
from flowclf.models import build, with_gaussians
from flowclf.support.seeding import generator_for
from flowclf.training.loop import clip_gradients, schedule_factor, set_learning_rates
from flowclf.training.setup import make_optimizer

METHODS = ("frozen flow", "rehearsal", "fine-tuning", "all at once")
MEASURED = ("accuracy", "bits_per_dim")
TASK_SIZE, BATCH, LEVELS = 2, 128, 256


def learn(
    method: str, dataset: Dataset, config: RunConfig, steps: int
) -> Iterator[dict[str, float]]:
    """Learn task after task, and yield accuracy and bits/dim after each."""
    if method == "frozen flow":
        yield from _learn_frozen(dataset, config, steps)
        return
    model: GenerativeClassifier | None = None
    for seen, new in _tasks(dataset):
        before, model = model, grown(model, seen, new, dataset, config)
        pool = _of(dataset.train, range(seen)) if method == "all at once" else new
        source = before if method == "rehearsal" else None
        _train(model, source, pool, config, steps, seen)
        yield _judged(model, dataset, seen)


def _learn_frozen(dataset: Dataset, config: RunConfig, steps: int) -> Iterator[dict[str, float]]:
    model: GenerativeClassifier | None = None
    moments: ClassMoments | None = None
    for seen, new in _tasks(dataset):
        if model is None:
            model = grown(None, seen, new, dataset, config)
            _train(model, None, new, config, steps, seen)
        z = latents(model, model.perturb(new.x, generator_for(config.seed, "learning on", seen)))
        own = ClassMoments.of(z, new.y - (seen - TASK_SIZE), TASK_SIZE)
        moments = moments.joined(own) if moments else own
        yield _judged(with_gaussians(model, moments), dataset, seen)


def _tasks(dataset: Dataset) -> Iterator[tuple[int, Split]]:
    """Yield for each task how many classes are known then, and the images of its own."""
    for seen in range(TASK_SIZE, dataset.classes + 1, TASK_SIZE):
        yield seen, _of(dataset.train, range(seen - TASK_SIZE, seen))


def _judged(model: GenerativeClassifier, dataset: Dataset, seen: int) -> dict[str, float]:
    found = predict_split(model.eval(), _of(dataset.test, range(seen)))
    assert found.log_prob is not None
    right = (found.log_posterior.argmax(1) == found.y).double()
    bits = -found.log_prob.double().mean() / (found.dims * log(2))
    return {"classes": seen, "accuracy": float(right.mean()), "bits_per_dim": float(bits)}


def grown(
    model: GenerativeClassifier | None,
    classes: int,
    new: Split,
    dataset: Dataset,
    config: RunConfig,
) -> GenerativeClassifier:
    """Return a model of more classes: the old one with new means, at the new classes' latents."""
    larger = build(
        "ib-inn", shape=dataset.shape, classes=classes, levels=dataset.levels,
        preset=config.preset, seed=config.seed,
    )  # fmt: skip
    if model is None:
        larger.fit_statistics(new.x, new.y)
        return larger
    own = larger.state_dict()
    with torch.no_grad():
        z = latents(model.eval(), new.x)
        averages = [z[new.y == k].mean(0) for k in range(model.classes, classes)]
        for name, value in model.state_dict().items():
            if own[name].shape == value.shape:
                own[name] = value
            else:  # one row a class
                fresh = torch.stack(averages) if "means" in name else value.new_zeros(len(averages))
                own[name] = torch.cat((value, fresh))
    larger.load_state_dict(own)
    return larger


def _train(
    model: GenerativeClassifier,
    source: GenerativeClassifier | None,
    pool: Split,
    config: RunConfig,
    steps: int,
    seen: int,
) -> None:
    """Take steps on batches of the pool and, of earlier classes, of draws from the source."""
    optimizer = make_optimizer(model, config.train)
    old = source.classes if source else 0
    drawn = BATCH * old // seen
    generator = generator_for(config.seed, "learning on", seen)
    for step in range(steps):
        set_learning_rates(optimizer, schedule_factor(config.train, step / steps))
        rows = torch.randint(len(pool), (BATCH - drawn,), generator=generator)
        x, y = model.perturb(pool.x[rows], generator), pool.y[rows]
        if source is not None:
            labels = torch.arange(drawn) % old
            draws = source.sample(labels, generator=generator)
            # As grey levels with their noise lie.
            x, y = torch.cat((x, draws.clamp(0, LEVELS))), torch.cat((y, labels))
        optimizer.zero_grad()
        model.train().loss(x, y, generator)["total"].backward()
        clip_gradients(model, config.train.clip_norm)
        optimizer.step()


def _of(split: Split, classes: range) -> Split:
    rows = torch.isin(split.y, torch.tensor([*classes]))
    return Split(split.x[rows], split.y[rows])


def main() -> None:
    """Learn by each method; print and record a row each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="?", default="mnist14", choices=("mnist14", "mnist"))
    parser.add_argument("--steps", type=int, default=300, help="of each task")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    dataset = TASKS[given.data]()
    for seed, method in product(given.seeds, given.methods):
        config = make_config(
            "ib-inn", dataset.name, dataset.shape, preset=given.data, seed=seed,
            overrides={"data.augment": "none"},
        )  # fmt: skip
        row: Row = {"method": method, "seed": seed, "steps": given.steps}
        for found in learn(method, dataset, config, given.steps):
            row |= {f"{name}_{found['classes']}": found[name] for name in MEASURED}
        append_rows(recorded(f"learning-on-{given.data}.csv"), [row])
        print({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}, flush=True)


if __name__ == "__main__":
    main()
