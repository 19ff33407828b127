"""Suite `samples`: how good drawn images look to a network that was trained on real ones."""

from dataclasses import dataclass
from statistics import mean
from typing import Any

import torch
from torch import Tensor, nn

from flowclf.classifier import GenerativeClassifier, evaluating
from flowclf.data import Split
from flowclf.evaluation import metrics
from flowclf.evaluation.context import Subject
from flowclf.support.errors import UserError
from flowclf.support.seeding import derive_seed, generator_for, private_rng

__all__ = [
    "Judge",
    "class_changes",
    "dip",
    "fit_judge",
    "frechet_distance",
    "largest_step",
    "samples_suite",
]

BATCH_SIZE, LEARNING_RATE = 128, 3e-3
CHUNK = 500
WIDTH, FEATURES = 32, 64
# Walks between test images of different classes, and images of each.
WALKS, WALK_STEPS = 100, 11


@dataclass(frozen=True, eq=False)
class Judge:
    """Convolutional network that saw real images alone; in eval mode."""

    body: nn.Module  # to features (B, F)
    head: nn.Module  # from these to the logits of the classes
    levels: int  # grey levels

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """Compute features of images (N, C, H, W), (N, F), float64, on the CPU.

        The images are as a picture shows them: of whole grey levels, clipped to their range.
        """
        device = next(self.body.parameters()).device
        parts = [self.body(_scaled(part.to(device), self.levels)) for part in x.split(CHUNK)]
        return torch.cat(parts).double().cpu()

    @torch.no_grad()
    def log_posterior(self, features: Tensor) -> Tensor:
        """Compute log p(class|image) of features (N, F), (N, K)."""
        like = next(self.head.parameters())
        return self.head(features.to(like)).log_softmax(1).cpu()


def fit_judge(
    split: Split,
    classes: int,
    levels: int,
    seed: int = 0,
    device: torch.device | str = "cpu",
    steps: int = 600,
) -> Judge:
    """Train a small convolutional network on labelled images, in so many steps of 128.

    Three convolutions and a linear layer to 64 features, batch norm, AdamW on a one-cycle schedule.
    It never sees the model that it is to judge.
    """
    device = torch.device(device)
    with private_rng(derive_seed(seed, "judge"), device):
        body, head = _network(split.x.shape[1:], classes)
    body, head = body.to(device), head.to(device)
    parameters = [*body.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, steps)
    order = generator_for(seed, "judge", 1)
    for _ in range(steps):
        rows = torch.randint(len(split), (BATCH_SIZE,), generator=order)
        batch = split.take(rows)
        logits = head(body(_scaled(batch.x.to(device), levels)))
        loss = nn.functional.cross_entropy(logits, batch.y.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return Judge(body.eval(), head.eval(), levels)


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Compute the Fréchet distance of Gaussians fitted to features (N, F) and (M, F).

        d² = ‖μ_a - μ_b‖² + tr(C_a + C_b - 2 (C_a C_b)^½)

    With features of an Inception network d² is the FID (Heusel et al. 2017). It falls with N: only
    values of equally many samples can be compared.

    Raises:
        UserError: fewer than two samples.
    """
    if min(len(a), len(b)) < 2:
        raise UserError(f"expected at least 2 samples of each kind, got {len(a)} and {len(b)}")
    a, b = a.double(), b.double()
    first, second = (torch.atleast_2d(each.T.cov()) for each in (a, b))
    values, vectors = torch.linalg.eigh(first)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    overlap = torch.linalg.eigvalsh(root @ second @ root).clamp_min(0).sqrt().sum()
    distance = (a.mean(0) - b.mean(0)).square().sum() + first.trace() + second.trace() - 2 * overlap
    return max(0.0, float(distance))


def dip(log_prob: Tensor) -> Tensor:
    """Return how far log q(x) (S, B) of walks falls below the line between their ends, (B,)."""
    weights = torch.linspace(0, 1, len(log_prob), dtype=log_prob.dtype)[:, None]
    return (log_prob[0].lerp(log_prob[-1], weights) - log_prob).max(0).values


def class_changes(predicted: Tensor) -> Tensor:
    """Count the changes of the predicted class (S, B) along walks, (B,); one is the least."""
    return (predicted[1:] != predicted[:-1]).sum(0)


def largest_step(features: Tensor) -> Tensor:
    """Return the largest step of features (S, B, F) over the mean one, (B,); 1 of an even walk."""
    steps = features.diff(dim=0).norm(dim=2)
    return steps.max(0).values / steps.mean(0).clamp_min(torch.finfo(steps.dtype).tiny)


def samples_suite(subject: Subject) -> dict[str, Any]:
    """Judge samples and walks by a network that was trained on the real training images.

    - `class_consistency`: share of the samples whose class it recognises, mean over the classes;
      `judge_accuracy` is that of real images
    - `frechet_distance` of its features (`frechet_distance`) between samples and one half of the
      real images, with the classes of the other half; `frechet_floor` between the two halves
    - `walk_dip_per_dim_nats`: mean fall of log q(x) below its ends on straight lines in latent
      space between test images of two classes; `walk_class_changes`, of the class that it
      recognises (at least 1); `walk_largest_step`, of its features over the mean step

    Rows of `sample_quality`: consistency and distance at each temperature, on the validation split
    if there is one. At the temperature of the least distance there (1 without a validation split),
    `sample_temperature`, the test split then gives the single numbers. What a system cannot do is
    None.

    Raises:
        UserError: no images, no training split, or a system that neither samples nor decodes.
    """
    split, levels = subject.images("samples")
    model = subject.model
    if not (model.can_sample or model.can_decode):
        raise UserError(
            f"the suite 'samples' needs a system that draws or decodes images, got "
            f"{type(model).__name__}; leave it out"
        )
    training = subject.needs_training("samples")
    subject.report("samples: training the judge")
    own = subject.seed, model.mixture.device, subject.options.judge_steps
    judge = fit_judge(training, model.classes, levels, *own)
    found = {"judge_accuracy": metrics.accuracy(_read(judge, split.x), split.y)}
    with evaluating(model), torch.no_grad():
        return found | _sample_quality(subject, judge) | _walk_quality(subject, judge)


def _sample_quality(subject: Subject, judge: Judge) -> dict[str, Any]:
    names = ("sample_temperature", "class_consistency", "frechet_distance", "frechet_floor")
    if not subject.model.can_sample:
        return dict.fromkeys(names)
    most, rows = subject.options.samples, []
    known = (subject.validation or subject.test).labelled().spread(2 * most)
    for temperature in subject.options.temperatures:
        subject.report(f"samples: temperature {temperature:g}")
        rows.append({"temperature": temperature, **_quality(subject, judge, known, temperature)})
    least = min(rows, key=lambda row: row["frechet_distance"])
    best = least["temperature"] if subject.validation else 1.0
    own = _quality(subject, judge, subject.test.labelled().spread(2 * most), best)
    return {"sample_temperature": best, **own, "sample_quality": rows}


def _quality(subject: Subject, judge: Judge, known: Split, temperature: float) -> dict[str, Any]:
    """Compare as many samples as half of the known images with the other half."""
    half = len(known) // 2
    order = torch.randperm(len(known), generator=generator_for(subject.seed, "halves"))
    one, other = (known.take(rows) for rows in order[: 2 * half].split(max(half, 1)))
    x = _drawn(subject.model, one.y, temperature, subject.seed)
    real, held_out, drawn = (judge.features(each) for each in (one.x, other.x, x))
    right = metrics.accuracy_per_class(judge.log_posterior(drawn), one.y)
    return {
        "class_consistency": mean(value for value in right if value is not None),
        "frechet_distance": frechet_distance(drawn, held_out),
        "frechet_floor": frechet_distance(real, held_out),
    }


def _drawn(model: GenerativeClassifier, y: Tensor, temperature: float, seed: int) -> Tensor:
    """Draw an image of each class y (N,), around the training data as `flowclf sample` does."""
    device = model.mixture.device
    generator = generator_for(seed, "sample", device=device)
    parts = y.to(device).split(CHUNK)
    return torch.cat([model.sample(k, temperature, generator, "data").cpu() for k in parts])


def _walk_quality(subject: Subject, judge: Judge) -> dict[str, Any]:
    names = ("walk_dip_per_dim_nats", "walk_class_changes", "walk_largest_step")
    model, split = subject.model, subject.test.labelled()
    pairs = _pairs(split.y, generator_for(subject.seed, "walks"))
    if not model.can_decode or not len(pairs):
        return dict.fromkeys(names)
    subject.report("samples: walks")
    first, second = (split.x[rows].to(model.mixture.device) for rows in pairs.unbind(1))
    walks = model.interpolate(first, second, WALK_STEPS)
    features = judge.features(walks.flatten(0, 1)).unflatten(0, walks.shape[:2])
    predicted = judge.log_posterior(features.flatten(0, 1)).argmax(1).view(walks.shape[:2])
    values: list[Tensor | None] = [None, class_changes(predicted), largest_step(features)]
    if model.has_density:
        log_prob = torch.stack([model.log_prob(x) for x in walks]).double().cpu()
        values[0] = dip(log_prob) / model.dims
    means = [None if each is None else float(each.double().mean()) for each in values]
    return dict(zip(names, means, strict=True))


def _pairs(y: Tensor, generator: torch.Generator) -> Tensor:
    """Draw up to `WALKS` pairs of rows of different classes, (P, 2)."""
    pairs = torch.randperm(len(y), generator=generator)[: len(y) // 2 * 2].view(-1, 2)
    return pairs[y[pairs[:, 0]] != y[pairs[:, 1]]][:WALKS]


def _read(judge: Judge, x: Tensor) -> Tensor:
    return judge.log_posterior(judge.features(x))


def _scaled(x: Tensor, levels: int) -> Tensor:
    """Bring images to the whole grey levels of a picture, -1 … 1."""
    return x.float().floor().clamp(0, levels - 1) * (2 / (levels - 1)) - 1


def _network(shape: torch.Size, classes: int) -> tuple[nn.Module, nn.Module]:
    """Return body and head; images of 16 pixels or more are halved at once."""
    channels, height, width = shape
    stride = 2 if min(height, width) >= 16 else 1
    layers: list[nn.Module] = []
    for count, step in ((WIDTH, stride), (2 * WIDTH, 2), (2 * WIDTH, 1)):
        convolution = nn.Conv2d(channels, count, 3, step, 1, bias=False)
        layers += [convolution, nn.BatchNorm2d(count), nn.ReLU()]
        channels = count
    height, width = (-(-side // (2 * stride)) for side in (height, width))
    linear = nn.Linear(channels * height * width, FEATURES)
    body = nn.Sequential(*layers, nn.Flatten(), linear, nn.ReLU())
    return body, nn.Linear(FEATURES, classes)
