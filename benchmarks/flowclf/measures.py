"""Further numbers of a trained system, which a study measures besides an evaluation's suites."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import NamedTuple, get_args

import torch

from benchmarks.flowclf.deciding import KINDS as DECISIONS
from flowclf.classifier import evaluating, latents
from flowclf.data import Dataset, Split
from flowclf.data.corruptions import SEVERITIES
from flowclf.data.outliers import load_outliers
from flowclf.evaluation import Options, evaluate
from flowclf.evaluation.attacks import AttackLoss, attack_curve
from flowclf.evaluation.clustering import cluster_scores, fitted_accuracy, kmeans
from flowclf.evaluation.detection import auroc
from flowclf.evaluation.metrics import accuracy, variance_ratio
from flowclf.evaluation.rate import (
    aggregate_information,
    cross_information,
    importance_bounds,
    softmax_information,
)
from flowclf.evaluation.scores import negative_log_prob_per_dim
from flowclf.evaluation.shift import CLEAN, MEAN
from flowclf.figures import latent_panels, save_figure
from flowclf.support.seeding import generator_for
from flowclf.systems.autoencoder import Autoencoder
from flowclf.systems.ib_inn import ConditionedIBInn
from flowclf.training import Trained
from flowclf.training.task import load_task

Values = dict[str, float | None]

MOST_LATENTS, SHOWN = 10_000, 3000
# Numbers of test images, and of draws of z for each, as in the VAE-AS paper.
BOUND_IMAGES, BOUND_DRAWS = 500, 4096
ATTACKED, ITERATED = 1000, 500
LEVEL = 1 / 255
RAMPED = 2000
# Where the authors' code measures the ramp: 0.348 is the α of their tables.
RAMP = (0.087, 0.174, 0.261, 0.348, 0.435, 0.522, 0.609, 0.696, 0.783, 0.87, 1.0)
RGB_RAMP = tuple(f"rgb_rotation_{alpha:g}" for alpha in RAMP)
BETAS = (0.02, 0.1, 0.5, 2.0, 10.0, 50.0)
EPSILONS = (0.02, 0.05, 0.1, 0.2, 0.3)
EPSILONS_COLOUR = (0.002, 0.005, 0.01, 0.02, 0.05)  # from 0.05 on a CNN is at chance
SHIFTED = ("accuracy", "ece", "ece_scaled")
TRADED = ("accuracy", "ece", "negative_log_posterior_nats", "bits_per_dim")
TRADE_OFF = tuple(f"{name}_at_{beta:g}" for beta in BETAS for name in TRADED)
BY_SOFTMAX = ("identity_nats", "mi_nats", "md_nats", "mi_entropy_nats")
PAPER_CALIBRATION = ("ece_percent", "mce_percent", "ice_percent", "ovc", "geometric_mean")
TRAP = ("mnist", "omniglot")
# The paper's own, with CIFAR-100 for ImageNet and Omniglot's drawings for QuickDraw's.
COLOUR = ("rgb-rotation:0.348", "drawings", "noise:0.015", "noise:0.05", "cifar100")
OUTLIERS = ("fashion-mnist", "drawings", "noise:0.1", "rotated")
# Name to a score of the suite ood, and the column of its AUROC.
TESTS = {
    "one_tailed": ("negative-log-prob", "auroc"),
    "two_tailed": ("negative-log-prob", "two_tailed_auroc"),
    "typicality": ("typicality", "auroc"),
    "rate": ("rate", "auroc"),
}
# VC's Table 3: by the surest class, and by the latent's density.
OF_LATENTS = {
    "max_probability": ("max-probability", "auroc"),
    "latent": ("latent-negative-log-prob", "auroc"),
}


class Measure(NamedTuple):
    """Names of the numbers, and the function that computes them."""

    names: tuple[str, ...]
    of: Callable[[Trained], Values]


@torch.no_grad()
def variance(trained: Trained) -> Values:
    """Return the variance ratio of the first training latents; None without variances."""
    model, split = trained.model, trained.training.labelled()
    if model.settings.mixture.kind != "gaussian":
        return {"variance_ratio": None}
    z, y = latents(model, split.x[:MOST_LATENTS]).cpu(), split.y[:MOST_LATENTS]
    means, std = model.mixture.means.cpu(), model.mixture.std().cpu()
    return {"variance_ratio": variance_ratio(z, y, means, std)}


@torch.no_grad()
def compare_latents(runs: Sequence[Path], out: Path) -> None:
    """Draw test latents of runs side by side, as in notebooks/pictures/vc-latents.png."""
    panels = []
    for run in runs:
        task = load_task(run, device="cpu")
        mixture, y = task.model.mixture, task.test.y
        z, means, std = latents(task.model, task.test.x), mixture.means.detach(), mixture.std()
        right, ratio = accuracy(mixture.log_posterior(z), y), variance_ratio(z, y, means, std)
        title = f"{run.name}\naccuracy {100 * right:.1f} %, variance ratio {ratio:.2f}"
        panels.append((title, z[:SHOWN], y[:SHOWN], means, std))
    save_figure(latent_panels(panels, task.dataset.class_names), out)


def clusters(trained: Trained) -> Values:
    """Score classifiers fitted to training latents, and k-means of the test latents."""
    model, train, test = trained.model, trained.training.labelled(), trained.test
    z, y = latents(model, train.x[:MOST_LATENTS]).cpu(), train.y[:MOST_LATENTS]
    z_test = latents(model, test.x).cpu()
    sets = (z, y), (z_test, test.y), model.classes
    knn, forest = (fitted_accuracy(kind, *sets) for kind in ("knn", "forest"))
    scores = cluster_scores(kmeans(z_test, model.classes), test.y)
    return {"knn_accuracy": knn, "forest_accuracy": forest, **scores}


@torch.no_grad()
def rate(trained: Trained) -> Values:
    """Return the parts of the bound in nats, and exact I(z; x) and KL(q(z) ‖ p)."""
    model = trained.model
    assert isinstance(model, Autoencoder)
    with evaluating(model):
        test, train = (_bound(model, s) for s in (trained.test, trained.training))
        x = trained.test.x[:BOUND_IMAGES].to(model.mixture.device)
        bound = importance_bounds(model, x, BOUND_DRAWS)
    found: Values = dict.fromkeys(BY_SOFTMAX)
    if "identity" in model.heads:
        found |= softmax_information(model, trained.training.x, train["kl_nats"])
    exact = aggregate_information(model, trained.training.x)
    found |= {"nll_nats": float(-bound.double().mean()), "active_units": exact.pop("active_units")}
    for part, values in (("test", test), ("train", train), ("exact", exact)):
        found |= {f"{part}_{name}": value for name, value in values.items()}
    return found


def _bound(model: Autoencoder, split: Split) -> dict[str, float]:
    """Return the averages of -log p(x|z) at one draw of z, and of KL(q(z|x) ‖ p(z))."""
    generator = generator_for(0, "rate", device=model.mixture.device)
    rec, kl = [], []
    for x in split.x[:MOST_LATENTS].split(500):
        x = x.to(model.mixture.coordinates)
        encoding = model.encode(x)
        z = encoding.draw(1, generator)[0]
        rec.append(-model.log_likelihood(x, z))
        kl.append(model.kl(encoding, model.mixture.densities(z)))
    return {"rec_nats": float(torch.cat(rec).mean()), "kl_nats": float(torch.cat(kl).mean())}


def paper_table(trained: Trained, specs: Sequence[str] = OUTLIERS) -> Values:
    """Return IB-INN's Table 1: calibration as published, and each set of `outliers`."""
    found = evaluate(trained.model, trained.test, ["paper-calibration"])["paper_calibration"][0]
    calibration = {f"paper_{name}": found[name] for name in PAPER_CALIBRATION}
    return calibration | outliers(trained, specs)


def outliers(
    trained: Trained, specs: Sequence[str], tests: Mapping[str, tuple[str, str]] = TESTS
) -> Values:
    """Return the AUROC of each out-of-distribution set by the tests, and its increase of entropy.

    Entropies are above those of the test split, in nats. None where a system lacks a density.
    """
    split, test = trained.training, trained.test
    like = Dataset("", split, test, tuple(map(str, range(trained.model.classes))), levels=256)
    sets = {spec: load_outliers(spec, like) for spec in specs}
    options = Options(outliers=tuple(sets.values()))
    found = evaluate(trained.model, test, ["ood"], training=split, options=options)
    rows = {(row["set"], row["score"]): row for row in found["ood"]}
    entropies = {row["set"]: row["increase_nats"] for row in found["ood_entropy"]}
    values: Values = {}
    for spec, each in sets.items():
        for test_name, (score, column) in tests.items():
            values[f"{test_name}_{spec}"] = rows.get((each.name, score), {}).get(column)
        values[f"entropy_{spec}"] = entropies[each.name]
    return values


@torch.no_grad()
def rgb_ramp(trained: Trained) -> Values:
    """Return the AUROC of -log q(x) against the same images, their colours rotated by each α.

    Of the first 2,000 test images; None where a system lacks a density.
    """
    model = trained.model
    if not model.has_density:
        return dict.fromkeys(RGB_RAMP)
    test = trained.test.take(slice(RAMPED))
    like = Dataset("", trained.training, test, ("", ""), levels=256)
    usual = negative_log_prob_per_dim(model, test.x)
    values: Values = {}
    for name, alpha in zip(RGB_RAMP, RAMP, strict=True):
        turned = load_outliers(f"rgb-rotation:{alpha}", like).x
        values[name] = auroc(usual, negative_log_prob_per_dim(model, turned)).value
    return values


def _outlier_names(
    specs: Sequence[str], tests: Mapping[str, tuple[str, str]] = TESTS
) -> tuple[str, ...]:
    return tuple(f"{test}_{spec}" for spec in specs for test in (*tests, "entropy"))


def robustness(trained: Trained, epsilons: Sequence[float] = EPSILONS) -> Values:
    """Return FGSM's accuracy by ε, the AUROC of its density, and corruptions by severity.

    Accuracy and ECE are averages over all families, of the first 1,000 test images; `scaled` at the
    temperature of the validation split.
    """
    model, test, values = trained.model, trained.test, dict[str, float | None]()
    first = test.take(slice(ATTACKED))
    for loss in get_args(AttackLoss):
        for row in attack_curve(model, first.x, first.y, epsilons, "fgsm", loss, levels=256):
            place = f"{loss}_{row['epsilon']:g}"
            values |= {f"fgsm_{place}": row["accuracy"], f"noticed_{place}": row["auroc"]}
    options = Options(samples=ATTACKED)
    splits = trained.training, trained.validation
    for row in evaluate(model, test, ["shift"], 0, *splits, options)["shift"]:
        if row["family"] in (CLEAN, MEAN) and row["severity"] is not None:
            values |= {f"{name}_severity_{row['severity']}": row[name] for name in SHIFTED}
    return values


def iterated_attacks(trained: Trained) -> Values:
    """Return the accuracy under PGD of one grey level, by each loss, of 500 test images."""
    model, first, values = trained.model, trained.test.take(slice(ITERATED)), Values()
    for loss in get_args(AttackLoss):
        (row,) = attack_curve(model, first.x, first.y, [LEVEL], "pgd", loss, levels=256)
        values[f"pgd_{loss}"] = row["accuracy"]
    return values


@torch.no_grad()
def noise_information(trained: Trained) -> Values:
    """Return CI(X; Z) of a flow and its estimate by Prop. 3 of IB-INN, nats, and the noise's σ.

    CI = E[-log q(z(x + ε)) - log|det J(x + ε)|] - h(ε); the estimate has log|det J(x)| instead.
    """
    model = trained.model
    x = trained.test.x[:MOST_LATENTS]
    exact = cross_information(model, x)
    assert exact is not None
    generator, moved = generator_for(0, "cross-information"), []
    with evaluating(model):
        for part in x.split(500):
            noisy, clean = model.encode(model.perturb(part, generator)), model.encode(part)
            assert noisy.log_det is not None
            assert clean.log_det is not None
            moved.append((noisy.log_det - clean.log_det).double())
    change = float(torch.cat(moved).mean())
    return {
        "noise_sigma": model.noise.sigma,
        "cross_information_nats": exact,
        "estimate_nats": exact + change,
        "estimate_error_per_dim_nats": abs(change) / model.dims,
    }


def trade_off(trained: Trained) -> Values:
    """Return `TRADED` at each of `BETAS`, of a model for all β̃."""
    model = trained.model
    if not isinstance(model, ConditionedIBInn):
        return dict.fromkeys(TRADE_OFF)
    values: Values = {}
    for beta in BETAS:
        model.move_to(beta)
        found = evaluate(model, trained.test)
        values |= {f"{name}_at_{beta:g}": found[name] for name in TRADED}
    return values


def _robustness_names(epsilons: Sequence[float]) -> tuple[str, ...]:
    kinds = product(("fgsm", "noticed"), get_args(AttackLoss), epsilons)
    attacked = (f"{name}_{loss}_{epsilon:g}" for name, loss, epsilon in kinds)
    shifted = (f"{name}_severity_{s}" for name in SHIFTED for s in (0, *SEVERITIES))
    return (*attacked, *shifted)


CLUSTERS = ("knn_accuracy", "forest_accuracy", "nmi", "clustering_accuracy", "ari")
PARTS = ("test_rec_nats", "test_kl_nats", "train_rec_nats", "train_kl_nats")
RATE = ("nll_nats", *PARTS, *BY_SOFTMAX, "exact_mi_nats", "exact_md_nats", "active_units")
CALIBRATION = tuple(f"paper_{name}" for name in PAPER_CALIBRATION)
INFORMATION = (
    "noise_sigma", "cross_information_nats", "estimate_nats", "estimate_error_per_dim_nats"
)  # fmt: skip
MEASURES = {
    "variance": Measure(("variance_ratio",), variance),
    "clusters": Measure(CLUSTERS, clusters),
    "rate": Measure(RATE, rate),
    "paper-table": Measure((*CALIBRATION, *_outlier_names(OUTLIERS)), paper_table),
    "paper-table-colour": Measure(
        (*CALIBRATION, *_outlier_names(COLOUR)), partial(paper_table, specs=COLOUR)
    ),
    "latent-outliers": Measure(
        _outlier_names(COLOUR, OF_LATENTS), partial(outliers, specs=COLOUR, tests=OF_LATENTS)
    ),
    "rgb-ramp": Measure(RGB_RAMP, rgb_ramp),
    "likelihood-trap": Measure(_outlier_names(TRAP), partial(outliers, specs=TRAP)),
    "robustness": Measure(_robustness_names(EPSILONS), robustness),
    "robustness-colour": Measure(
        _robustness_names(EPSILONS_COLOUR), partial(robustness, epsilons=EPSILONS_COLOUR)
    ),
    "iterated-attacks": Measure(
        tuple(f"pgd_{loss}" for loss in get_args(AttackLoss)), iterated_attacks
    ),
    "trade-off": Measure(TRADE_OFF, trade_off),
    "noise-information": Measure(INFORMATION, noise_information),
    **{name: Measure(*measure) for name, measure in DECISIONS.items()},
}
