"""What a study measures of a trained system besides the suites of an evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from flowclf.autoencoder import Autoencoder
from flowclf.classifier import evaluating, latents
from flowclf.data import Dataset, Split
from flowclf.data.outliers import load_outliers
from flowclf.evaluation import Options, evaluate
from flowclf.evaluation.clustering import cluster_scores, fitted_accuracy, kmeans
from flowclf.evaluation.metrics import variance_ratio
from flowclf.evaluation.rate import aggregate_information, importance_bounds
from flowclf.identity import IdentitySoftmax
from flowclf.seeding import generator_for
from flowclf.training import Trained

__all__ = ["MEASURES", "Measure"]

Values = dict[str, float | None]

MOST_LATENTS = 10_000
# Of test images, and draws of z for each, as in the VAE-AS paper.
BOUND_IMAGES, BOUND_DRAWS = 500, 4096


@dataclass(frozen=True)
class Measure:
    """Names of the numbers, and what computes them."""

    names: tuple[str, ...]
    of: Callable[[Trained], Values]


@torch.no_grad()
def variance(trained: Trained) -> Values:
    """Variance ratio of the first training latents; None where the mixture has no variances."""
    model, split = trained.model, trained.training.labelled()
    if model.settings.mixture.kind != "gaussian":
        return {"variance_ratio": None}
    z, y = latents(model, split.x[:MOST_LATENTS]).cpu(), split.y[:MOST_LATENTS]
    means, std = model.mixture.means.cpu(), model.mixture.std().cpu()
    return {"variance_ratio": variance_ratio(z, y, means, std)}


def clusters(trained: Trained) -> Values:
    """Classifiers fitted to training latents, k-means of the test latents; means of q(z|x)."""
    model, train, test = trained.model, trained.training.labelled(), trained.test
    z, y = latents(model, train.x[:MOST_LATENTS]).cpu(), train.y[:MOST_LATENTS]
    z_test = latents(model, test.x).cpu()
    fitted = {
        f"{kind}_accuracy": fitted_accuracy(kind, (z, y), (z_test, test.y), model.classes)
        for kind in ("knn", "forest")
    }
    return {**fitted, **cluster_scores(kmeans(z_test, model.classes), test.y)}


@torch.no_grad()
def rate(trained: Trained) -> Values:
    """The parts of the bound on test and training samples, in nats; exact I(z; x), KL(q(z) ‖ p)."""
    model = trained.model
    assert isinstance(model, Autoencoder)
    with evaluating(model):
        test, train = (_bound(model, s) for s in (trained.test, trained.training))
        x = trained.test.x[:BOUND_IMAGES].to(model.mixture.means.device)
        bound = importance_bounds(model, x, BOUND_DRAWS)
    exact = aggregate_information(model, trained.training.x)
    units = exact.pop("active_units")
    return {
        "nll_nats": float(-bound.double().mean()),
        **{f"test_{name}": value for name, value in test.items()},
        **{f"train_{name}": value for name, value in train.items()},
        **_softmax_information(model, trained.training, train["kl_nats"]),
        **{f"exact_{name}": value for name, value in exact.items()},
        "active_units": units,
    }


def _bound(model: Autoencoder, split: Split) -> dict[str, float]:
    """-log p(x|z) at one draw of z, and KL(q(z|x) ‖ p(z)), on average."""
    generator = generator_for(0, "rate", device=model.mixture.means.device)
    rec, kl = [], []
    for x in split.x[:MOST_LATENTS].split(500):
        x = x.to(model.mixture.means)
        encoding = model.encode(x)
        z = encoding.draw(1, generator)[0]
        rec.append(-model.log_likelihood(x, z))
        kl.append(model.kl(encoding, model.mixture.densities(z)))
    return {"rec_nats": float(torch.cat(rec).mean()), "kl_nats": float(torch.cat(kl).mean())}


def _softmax_information(model: Autoencoder, split: Split, kl: float) -> Values:
    """By the system's own softmax over training samples, where it has one; SC form and entropy."""
    names = ("identity_nats", "mi_nats", "md_nats", "mi_entropy_nats")
    if "identity" not in model.heads:
        return dict.fromkeys(names)
    softmax, device = model.heads["identity"], model.mixture.means.device
    assert isinstance(softmax, IdentitySoftmax)
    generator, values = generator_for(0, "rate", device=device), []
    for index in torch.arange(min(MOST_LATENTS, len(split)), device=device).split(500):
        z = model.encode(split.x[index].to(device)).draw(1, generator)[0]
        values.append(torch.stack(softmax(z, index)))
    identity, entropy = (float(v.mean()) for v in torch.cat(values, 1))
    log_count = softmax.log_count
    found = (identity, log_count - identity, kl + identity - log_count, log_count - entropy)
    return dict(zip(names, found, strict=True))


def paper_table(trained: Trained) -> Values:
    """IB-INN's Table 1: calibration as published, and each set of outliers by three tests.

    Entropies are above those of the test split, in nats. None where a system lacks a density.
    """
    split, test = trained.training, trained.test
    like = Dataset("", split, test, tuple(map(str, range(trained.model.classes))), levels=256)
    sets = tuple(load_outliers(spec, like) for spec in OUTLIERS)
    options = Options(outliers=sets)
    found = evaluate(trained.model, test, PAPER_SUITES, training=split, options=options)
    published = found["paper_calibration"][0]
    values: Values = {f"paper_{name}": published[name] for name in PAPER_CALIBRATION}
    rows = {(row["set"], row["score"]): row for row in found["ood"]}
    entropies = {row["set"]: row["increase_nats"] for row in found["ood_entropy"]}
    for spec, each in zip(OUTLIERS, sets, strict=True):
        density = rows.get((each.name, "negative-log-prob"), {})
        typical = rows.get((each.name, "typicality"), {})
        cells = (
            density.get("auroc"),
            density.get("two_tailed_auroc"),
            typical.get("auroc"),
            entropies[each.name],
        )
        values |= dict(zip((f"{name}_{spec}" for name in TESTS), cells, strict=True))
    return values


OUTLIERS = ("fashion-mnist", "drawings", "noise:0.1", "rotated")
TESTS = ("one_tailed", "two_tailed", "typicality", "entropy")
PAPER_SUITES = ("paper-calibration", "ood")
PAPER_CALIBRATION = ("ece_percent", "mce_percent", "ice_percent", "ovc", "geometric_mean")
PAPER_TABLE = (
    *(f"paper_{name}" for name in PAPER_CALIBRATION),
    *(f"{test}_{spec}" for spec in OUTLIERS for test in TESTS),
)
RATE = (
    "nll_nats", "test_rec_nats", "test_kl_nats", "train_rec_nats", "train_kl_nats",
    "identity_nats", "mi_nats", "md_nats", "mi_entropy_nats", "exact_mi_nats", "exact_md_nats",
    "active_units",
)  # fmt: skip
CLUSTERS = ("knn_accuracy", "forest_accuracy", "nmi", "clustering_accuracy", "ari")

MEASURES = {
    "variance": Measure(("variance_ratio",), variance),
    "clusters": Measure(CLUSTERS, clusters),
    "rate": Measure(RATE, rate),
    "paper-table": Measure(PAPER_TABLE, paper_table),
}
