"""Suites of an evaluation: functions of a subject to named numbers and lists of rows."""

from collections.abc import Callable
from dataclasses import replace
from math import isnan, log
from typing import Any

import torch
from torch import Tensor

from flowclf.classifier import evaluating, latents
from flowclf.evaluation import metrics
from flowclf.evaluation.calibration import (
    brier_score,
    classwise_calibration_error,
    expected_calibration_error,
    overconfidence,
    paper_calibration,
    reliability,
    wilson_interval,
)
from flowclf.evaluation.clustering import (
    class_distances,
    cluster_scores,
    distance_error,
    fitted_accuracy,
    kmeans,
)
from flowclf.evaluation.context import MOST_TRAINING, Predictions, Subject
from flowclf.evaluation.cycle import cycle_suite
from flowclf.evaluation.deciding import conformal_suite, selective_suite
from flowclf.evaluation.exactness import has_inverse, inverse_errors, points, precision_errors
from flowclf.evaluation.explain import explain_suite
from flowclf.evaluation.rate import (
    aggregate_information,
    cross_information,
    importance_bounds,
    learned_noise_bits,
    noisy_log_probs,
    softmax_information,
)
from flowclf.evaluation.recalibration import RECALIBRATIONS
from flowclf.evaluation.robustness import attack_suite, ood_suite, shift_suite
from flowclf.evaluation.samples import samples_suite
from flowclf.support.errors import UserError
from flowclf.systems.autoencoder import Autoencoder

__all__ = ["DEFAULT_SUITES", "SUITES", "calibration"]

DEFAULT_SUITES = ("accuracy", "calibration", "likelihood")
MOST_COMPONENTS = 20_000
# Importance samples of `bound` where none are asked for: of z, and of a flow's noise.
DRAWS, NOISES = 1000, 16


def accuracy_suite(subject: Subject) -> dict[str, Any]:
    """Compute top-1 (with its 95 % Wilson interval, and per class) and top-5 accuracy.

    `auroc` is the area under the ROC curve, of each class against the rest.
    """
    p = subject.predictions
    found = metrics.accuracy(p.log_posterior, p.y)
    low, high = wilson_interval(round(found * len(p.y)), len(p.y))
    return {
        "accuracy": found,
        "accuracy_low": low,
        "accuracy_high": high,
        "top_5_accuracy": metrics.top_accuracy(p.log_posterior, p.y, 5),
        "auroc": metrics.area_under_roc(p.log_posterior.double().exp(), p.y),
        "accuracy_per_class": metrics.accuracy_per_class(p.log_posterior, p.y),
    }


def confusion_suite(subject: Subject) -> dict[str, Any]:
    """Count the samples of each class by predicted class: rows of `confusion`."""
    p = subject.predictions
    classes = p.log_posterior.shape[1]
    counts = (p.y * classes + p.log_posterior.argmax(1)).bincount(minlength=classes**2)
    return {"confusion": _matrix(counts.view(classes, classes))}


def calibration_suite(subject: Subject) -> dict[str, Any]:
    """Compute calibration errors of 15 bins, top-1 and class-wise, and proper scores.

    ECE also with 20 bins, as VC's authors have it; -log q(y|x) in nats.
    """
    p = subject.predictions
    log_posterior, y = p.log_posterior, p.y
    return {
        **calibration(p),
        "ece_equal_mass": expected_calibration_error(log_posterior, y, equal_mass=True),
        "mce": reliability(log_posterior, y).maximum_error,
        "ece_classwise": classwise_calibration_error(log_posterior, y),
        "brier": brier_score(log_posterior, y),
        "overconfidence": overconfidence(log_posterior, y),
    }


def calibration(p: Predictions) -> dict[str, Any]:
    """Compute the two ECEs and -log q(y|x) of a run's summary."""
    return {
        "ece": expected_calibration_error(p.log_posterior, p.y),
        "ece_20_bins": expected_calibration_error(p.log_posterior, p.y, bins=20),
        "negative_log_posterior_nats": metrics.negative_log_posterior(p.log_posterior, p.y),
    }


def paper_calibration_suite(subject: Subject) -> dict[str, Any]:
    """Compute IB-INN's own calibration errors, per cent, as published and as in the draft.

    Not comparable with others: all class probabilities are pooled, and a perfectly calibrated
    predictor has an ECE of about 0.5 %.
    """
    p, versions = subject.predictions, ("published", "draft")
    found = [{"version": v, **paper_calibration(p.log_posterior, p.y, v)} for v in versions]
    return {"paper_calibration": found}


def reliability_suite(subject: Subject) -> dict[str, Any]:
    """List the 15 bins of the ECE, None in empty ones: rows of `reliability`."""
    p = subject.predictions
    found = reliability(p.log_posterior, p.y)
    columns = {"low": found.edges[:-1], "high": found.edges[1:], "count": found.count}
    columns |= {"confidence": found.confidence, "accuracy": found.accuracy}
    rows = zip(*(values.tolist() for values in columns.values()), strict=True)
    known = ([None if isnan(value) else value for value in row] for row in rows)
    return {"reliability": [dict(zip(columns, row, strict=True)) for row in known]}


def recalibration_suite(subject: Subject) -> dict[str, Any]:
    """Measure calibration as it is and after each kind of recalibration: rows of `recalibration`.

    Fitted on the validation split: temperature, vector scaling, isotonic regression.

    Raises:
        UserError: no validation split.
    """
    known, p = subject.held_out, subject.predictions
    if known is None:
        raise UserError(
            "the suite 'recalibration' needs samples that were held out; train with "
            "--set data.validation=0.1"
        )
    after = {
        name: kind().fit(known.log_posterior, known.y).transform(p.log_posterior)
        for name, kind in RECALIBRATIONS.items()
    }
    rows = [
        {
            "method": name,
            "accuracy": metrics.accuracy(log_posterior, p.y),
            **calibration(replace(p, log_posterior=log_posterior)),
            "brier": brier_score(log_posterior, p.y),
        }
        for name, log_posterior in {"none": p.log_posterior, **after}.items()
    ]
    return {"recalibration": rows}


def bound_suite(subject: Subject) -> dict[str, Any]:
    """Bound log p(x) of the first test samples by 1 and by `draws` importance samples.

    Samples of z of an autoencoder, of the noise within the grey levels of a flow.

    Raises:
        UserError: a system without a density, a flow of a table, or fewer than one draw.
    """
    model, options = subject.model, subject.options
    x = subject.test.x[: options.samples]
    if isinstance(model, Autoencoder):
        draws = DRAWS if options.draws is None else options.draws
        points = model.dequantize(x.to(model.mixture.device))
        with torch.no_grad(), evaluating(model):
            one = torch.cat([model.elbo(part) for part in points.split(20)])
        many = importance_bounds(model, points, draws, subject.seed)
    elif model.has_density and not x.is_floating_point():
        draws = NOISES if options.draws is None else options.draws
        log_probs = noisy_log_probs(model, x, draws, subject.seed)
        one, many = log_probs.mean(0), log_probs.logsumexp(0) - log(draws)
    else:
        raise UserError(
            f"the suite 'bound' needs an autoencoder, or a flow on grey levels, got "
            f"{type(model).__name__}; its density is in the suite 'likelihood', if it has one"
        )
    bits = model.bounds_bits(x)
    return {
        "bound": [
            {
                "draws": count,
                "log_prob_nats": _mean(values),
                "bits_per_dim": metrics.bits_per_dim(values, model.dims) if bits else None,
            }
            for count, values in ((1, one), (draws, many))
        ]
    }


def likelihood_suite(subject: Subject) -> dict[str, Any]:
    """Compute true bits/dim, mean log q(x) or elbo, and further rates; None where there is none.

    `density` says which it is: exact, bound, or none. Rows of `likelihood_per_class`: the same
    mean and bits of the samples of each class.
    """
    p = subject.predictions
    likelihood = p.elbo if p.log_prob is None else p.log_prob
    found = {
        "density": "none" if likelihood is None else "exact" if p.elbo is None else "bound",
        "bits_per_dim": _bits(p, likelihood),
        "log_prob_nats": _mean(p.log_prob),
        "elbo_nats": _mean(p.elbo),
        "paper_rate_per_dim_nats": None,
    } | {name: _mean(values) for name, values in p.rates.items()}
    if subject.model.noise.learned is not None:
        bits = learned_noise_bits(subject.model, subject.test.x, subject.seed)
        found["learned_noise_bits_per_dim"] = bits
    if likelihood is None:
        return found
    own = {int(k): likelihood[p.y == k] for k in p.y.unique()}
    return found | {
        "likelihood_per_class": [
            {"class": k, "samples": len(v), "log_prob_nats": _mean(v), "bits_per_dim": _bits(p, v)}
            for k, v in own.items()
        ]
    }


def exactness_suite(subject: Subject) -> dict[str, Any]:
    """Measure rounding errors at the first 256 test samples; None where there is no inverse.

    `inverse_error` is the largest of their inverse errors, `inverse_error_median` the one in the
    middle; `log_det_error` and `latent_error` are the largest against float64. What is not a number
    counts as the largest float32.
    """
    names = "inverse_error", "inverse_error_median", "log_det_error", "latent_error"
    model = subject.model
    if not has_inverse(model):
        return dict.fromkeys(names)
    x = points(model, subject.test.x, subject.seed)
    inverse, (log_det, latent) = inverse_errors(model, x), precision_errors(model, x)
    values = inverse.max(), inverse.median(), log_det.max(), latent.max()
    largest = torch.finfo(torch.float32).max  # JSON has no infinity
    return {name: min(float(v), largest) for name, v in zip(names, values, strict=True)}


def _bits(p: Predictions, likelihood: Tensor | None) -> float | None:
    """Compute bits/dim of these log q(x) or elbos (N,), where they bound bits."""
    bounds = likelihood is not None and p.bounds_bits
    return metrics.bits_per_dim(likelihood, p.dims) if bounds and likelihood is not None else None


def clustering_suite(subject: Subject) -> dict[str, Any]:
    """Compare latents with the classes by k-means, by the mixture itself, and by neighbours.

    Rows of `class_distances`: how far apart the classes' means are, in standard deviations (their
    geometric mean over the two classes). The nearer, the more similar the classes are to the model.
    `class_distance_error` is the standard error of such a distance of averages of as many training
    samples, (1/n_i + 1/n_j)^½, the mean over pairs: smaller differences mean nothing.
    """
    model, test, mixture = subject.model, subject.test, subject.model.mixture
    training = subject.needs_training("clustering").take(slice(MOST_TRAINING))
    z, z_test = (latents(model, split.x) for split in (training, test))
    with torch.no_grad():
        assigned = mixture.log_posterior(z_test).argmax(1).cpu()
        z, z_test, centres = (mixture.embed(each).cpu() for each in (z, z_test, mixture.centres()))
        distances = class_distances(centres, mixture.std().cpu())
    found = cluster_scores(kmeans(z_test, model.classes, subject.seed), test.y)
    by_mixture = cluster_scores(assigned, test.y)
    fitted = (z, training.y), (z_test, test.y)
    return {
        **{f"kmeans_{name}": value for name, value in found.items()},
        **{f"mixture_{name}": value for name, value in by_mixture.items()},
        "knn_accuracy": fitted_accuracy("knn", *fitted, model.classes),
        "class_distances": _matrix(distances),
        "class_distance_error": distance_error(subject.needs_training("clustering").y),
    }


def information_suite(subject: Subject) -> dict[str, Any]:
    """Estimate I(Y; Z) by the posterior, and information about x; nats, or None if unknown.

    `label_information_nats` I(Y; Z) >= H(Y) - E[-log q(y|x)]. Of a flow `input_information_nats`
    CI(X; Z), with the Gaussian noise of `noise_sigma` (of the data's unit) and the uniform one of
    its training. Of a Gaussian encoder `mi_nats` I(X; Z), `md_nats` KL(q(z) ‖ p(z)) and
    `active_units`, Monte-Carlo by q(z) of at most 20,000 training samples, at one z for each of the
    first thousand; of vae-as both also by its softmax (`softmax_…`).
    """
    p, model = subject.predictions, subject.model
    label_entropy = float(torch.special.entr(p.y.bincount().double() / len(p.y)).sum())
    about_y = label_entropy - metrics.negative_log_posterior(p.log_posterior, p.y)
    names = "input_information_nats", "noise_sigma", "mi_nats", "md_nats", "active_units"
    about_x: dict[str, Any] = dict.fromkeys(names)
    if model.has_density:
        about_x["input_information_nats"] = cross_information(model, subject.test.x, subject.seed)
        about_x["noise_sigma"] = model.noise.sigma
    if model.encoder_kind == "gaussian":
        training = subject.needs_training("information")
        about_x |= aggregate_information(model, training.x[:MOST_COMPONENTS], subject.seed)
    if isinstance(model, Autoencoder) and "identity" in model.heads:
        found = softmax_information(model, subject.needs_training("information").x)
        about_x |= {f"softmax_{name}": value for name, value in found.items()}
    return {"label_information_nats": about_y, **about_x}


SUITES: dict[str, Callable[[Subject], dict[str, Any]]] = {
    "accuracy": accuracy_suite,
    "confusion": confusion_suite,
    "calibration": calibration_suite,
    "reliability": reliability_suite,
    "paper-calibration": paper_calibration_suite,
    "recalibration": recalibration_suite,
    "conformal": conformal_suite,
    "selective": selective_suite,
    "likelihood": likelihood_suite,
    "bound": bound_suite,
    "exactness": exactness_suite,
    "clustering": clustering_suite,
    "information": information_suite,
    "explain": explain_suite,
    "samples": samples_suite,
    "cycle": cycle_suite,
    "ood": ood_suite,
    "shift": shift_suite,
    "attack": attack_suite,
}


def _matrix(values: Tensor) -> list[dict[str, Any]]:
    """Return a row per class of (K, K)."""
    return [
        {"class": k, **{str(j): value for j, value in enumerate(row)}}
        for k, row in enumerate(values.tolist())
    ]


def _mean(values: Tensor | None) -> float | None:
    return None if values is None else float(values.double().mean())
