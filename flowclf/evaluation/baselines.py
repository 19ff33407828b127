"""Baselines on the same data: discriminant analysis, logistic regression, a Gaussian density."""

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import log, pi
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from flowclf.data import Split, hold_out
from flowclf.data.streamed import Shards
from flowclf.evaluation import metrics
from flowclf.evaluation.calibration import expected_calibration_error
from flowclf.evaluation.probes import gaussians, neighbours
from flowclf.evaluation.recalibration import fit_temperature, scale
from flowclf.support.seeding import generator_for

__all__ = ["baseline_rows", "beaten_by", "few_samples", "overfits"]

QDA_REGULARISATION = 0.02
QDA_MOST_DIMS = 800
MOST_SAMPLES, MOST_NUMBERS = 20_000, 20_000_000
MOST_ITERATIONS = 200
GAUSSIAN_MOST_DIMS = 4096
CHUNK = 1024  # rows whose products are summed in float32
COMPONENTS, HELD_OUT = 64, 0.1
# Samples of a class: of two principal components at least; and below which a training warns.
LEAST_FOR_QDA, FEW_SAMPLES = 5, 10
# Gap between training and test, and shortfall, in accuracy that are worth a warning.
GAP = 0.1
MARGIN = 0.02

Fit = tuple[Tensor, Tensor | None]


def baseline_rows(
    training: Split, test: Split, levels: int | None, features: bool = False
) -> list[dict[str, Any]]:
    """Fit baselines: rows of name, accuracy, ECE, bits/dim (None without a density), seconds.

    Trained on a stratified part of at most 20,000 samples and 20 million numbers: the rows are
    there to compare with, not to wait for. The temperature of the logistic regression is fitted on
    a tenth of these samples, which it is not trained on. QDA needs more samples of each class than
    dimensions: beyond those, and 800, it gets principal components, and has no density of x. The
    Gaussian of all images, which is no classifier (accuracy None), gets twice as many samples as
    dimensions or a diagonal covariance. Of frozen features also k-NN, and Gaussians of one
    covariance, which decide by Mahalanobis distance. No row where the test split does not fit into
    memory.
    """
    training = training.labelled()
    whole = training
    most = min(MOST_SAMPLES, MOST_NUMBERS // training.x[0].numel())
    if len(training) > most:
        training, _ = hold_out(training, 1 - most / len(training), seed=0)
    if isinstance(training.x, Shards) or isinstance(test.x, Shards):
        return []
    task = _Task.of(training, test, levels)
    most = min(QDA_MOST_DIMS, int(task.training.y.bincount().min()) - 1)
    components = min(COMPONENTS, most // 2)
    rows = []
    if task.dims <= most:
        rows.append(_timed("QDA", task, _qda))
    elif components > 1:
        name = f"QDA of {components} components"
        rows.append(_timed(name, task, partial(_qda_of_components, components)))
    rows.append(_timed("logistic regression", task, _logistic_regression))
    if features:
        rows += [_timed("k-NN", task, _k_nearest), _timed("Mahalanobis", task, _mahalanobis)]
    whole = training if isinstance(whole.x, Shards) else whole
    return rows + ([] if levels is None else [_gaussian(whole, test)])


def few_samples(training: Split, class_names: Sequence[str]) -> list[str]:
    """Return a line on the classes with fewer training samples than can be learned from.

    Of a class with too few there is no covariance, and so no row of QDA, which is said.
    """
    counts = training.labelled().y.bincount(minlength=len(class_names)).tolist()
    few = {name: n for name, n in zip(class_names, counts, strict=True) if n < FEW_SAMPLES}
    if not few:
        return []
    shown = ", ".join(f"{name} ({n})" for name, n in sorted(few.items(), key=lambda x: x[1])[:5])
    more = "" if len(few) <= 5 else f" and {len(few) - 5} more"
    alone = min(few.values()) < LEAST_FOR_QDA and training.x[0].numel() >= min(few.values())
    no_qda = f"; QDA, which needs {LEAST_FOR_QDA} of each, has no row" if alone else ""
    return [
        f"few training samples of {shown}{more}: more of them, or fewer classes, would help{no_qda}"
    ]


def overfits(training: float | None, test: float) -> list[str]:
    """Return a line if the accuracy of the last epoch is far above the test's."""
    if training is None or training - test < GAP:
        return []
    return [
        f"{training:.1%} of the training samples are classified, against {test:.1%} of the test: "
        "more samples, data.augment, a smaller network, or train.patience=3 with "
        "data.validation=0.1 may help"
    ]


def beaten_by(own: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each baseline that beats a system: by 2 points of accuracy, or in bits/dim.

    Of several the best alone is named. `own` and `others` are rows as of `baseline_rows`.
    """
    lines = []
    known = [row for row in others if row["accuracy"] is not None]
    best = max(known, key=lambda row: row["accuracy"], default=None)
    if best and best["accuracy"] > own["accuracy"] + MARGIN:
        lines.append(
            f"{best['system']} classifies better, {best['accuracy']:.1%} against "
            f"{own['accuracy']:.1%}: more train.epochs or another --preset may help"
        )
    dense = [row for row in others if row["bits_per_dim"] is not None]
    best = min(dense, key=lambda row: row["bits_per_dim"], default=None)
    bits = own.get("bits_per_dim")
    if best and bits is not None and best["bits_per_dim"] < bits:
        lines.append(
            f"{best['system']} is the better density, {best['bits_per_dim']:.3f} bits/dim against "
            f"{bits:.3f}: a lower --beta, network.whiten=1 or more train.epochs may help"
        )
    return lines


@dataclass(frozen=True)
class _Task:
    """Splits as numpy arrays in [0, 1] (images) or standardised (tables), noise on request."""

    training: Split
    test: Split
    low: Any
    span: Any

    @classmethod
    def of(cls, training: Split, test: Split, levels: int | None) -> Self:
        if levels:
            return cls(training, test, 0.0, float(levels - 1))
        x = training.x.double().numpy()
        return cls(training, test, x.mean(0), x.std(0) + 1e-12)

    @property
    def dims(self) -> int:
        return self.training.x[0].numel()

    @property
    def classes(self) -> int:
        return int(self.training.y.max()) + 1

    def noisy(self) -> tuple[Any, Any]:
        return self.array(self.training, noise=True), self.array(self.test, noise=True)

    def array(self, split: Split, noise: bool = False) -> Any:
        x = split.x.flatten(1).double()
        if noise and not split.x.is_floating_point():
            generator = generator_for(0, "baselines")
            x += torch.rand(x.shape, generator=generator, dtype=x.dtype)
        return (x.numpy() - self.low) / self.span


def _timed(name: str, task: _Task, fit: Callable[[_Task], Fit]) -> dict[str, Any]:
    start = time.perf_counter()
    log_posterior, log_prob = fit(task)
    seconds = time.perf_counter() - start
    return {
        "system": name,
        "accuracy": metrics.accuracy(log_posterior, task.test.y),
        "ece": expected_calibration_error(log_posterior, task.test.y),
        "bits_per_dim": None if log_prob is None else metrics.bits_per_dim(log_prob, task.dims),
        "seconds": seconds,
        "samples": len(task.training),
    }


def _qda(task: _Task) -> Fit:
    """Fit quadratic discriminant analysis.

    The joint densities are put together from the fitted parameters: scikit-learn gives only
    posteriors, and for two classes only their log-odds.
    """
    scores = _joint_densities(*task.noisy(), task.training.y)
    log_det = float(np.log(np.broadcast_to(task.span, task.dims)).sum())
    return scores.log_softmax(1), scores.logsumexp(1) - log_det


def _k_nearest(task: _Task) -> Fit:
    return neighbours(task.training, task.test.x, task.classes)[0], None


def _mahalanobis(task: _Task) -> Fit:
    joint, _ = gaussians(task.training, task.test.x, task.classes)
    return joint.log_softmax(1), joint.logsumexp(1)


def _gaussian(training: Split, test: Split) -> dict[str, Any]:
    """Fit one Gaussian to all dequantized images, with their full covariance if they allow it."""
    start = time.perf_counter()
    dims = training.x[0].numel()
    if len(training) > MOST_SAMPLES:
        training, _ = hold_out(training, 1 - MOST_SAMPLES / len(training), seed=0)
    x, points = (_dequantized(split) for split in (training, test))
    mean = x.mean(0)
    x, points = x - mean, (points - mean).double()
    if full := dims <= min(GAUSSIAN_MOST_DIMS, len(training) // 2):
        square = sum((part.T @ part).double() for part in x.split(CHUNK)) / len(x)
        factor = torch.linalg.cholesky(square)
        points = torch.linalg.solve_triangular(factor, points.T, upper=False).T
        log_det = factor.diagonal().log().sum()
    else:
        std = x.square().mean(0).sqrt().double()
        points, log_det = points / std, std.log().sum()
    log_prob = -0.5 * (points.square() + log(2 * pi)).sum(1) - log_det
    return {
        "system": "Gaussian" if full else "Gaussian of each pixel",
        "accuracy": None,
        "ece": None,
        "bits_per_dim": metrics.bits_per_dim(log_prob, dims),
        "seconds": time.perf_counter() - start,
        "samples": len(training),
    }


def _dequantized(split: Split) -> Tensor:
    x = split.x.flatten(1).float()
    return x + torch.rand(x.shape, generator=generator_for(0, "baselines"))


def _qda_of_components(components: int, task: _Task) -> Fit:
    from sklearn.decomposition import PCA

    x, test = task.noisy()
    pca = PCA(components, random_state=0).fit(x)
    scores = _joint_densities(pca.transform(x), pca.transform(test), task.training.y)
    return scores.log_softmax(1), None


def _joint_densities(x: Any, test: Any, y: Tensor) -> Tensor:
    """Compute log q(x, k) of the test rows, (N, K), in the units of x."""
    from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis

    qda = QuadraticDiscriminantAnalysis(reg_param=QDA_REGULARISATION).fit(x, y)
    joint = []
    parameters = (qda.means_, qda.rotations_, qda.scalings_, qda.priors_)
    for mean, rotation, variance, prior in zip(*parameters, strict=True):
        square = ((test - mean) @ rotation) ** 2 / variance
        joint.append(-0.5 * (square + np.log(2 * pi * variance)).sum(1) + log(prior))
    return torch.from_numpy(np.stack(joint, axis=1))


def _logistic_regression(task: _Task) -> Fit:
    """Fit logistic regression and its temperature."""
    from sklearn.linear_model import LogisticRegression

    fitted, held_out = hold_out(task.training, HELD_OUT, seed=0)
    model = LogisticRegression(max_iter=MOST_ITERATIONS)
    with warnings.catch_warnings():
        # Not converged is good enough for a row to compare with.
        warnings.simplefilter("ignore")
        model.fit(task.array(fitted), fitted.y)
    log_posterior = torch.from_numpy(model.predict_log_proba(task.array(task.test)))
    if not len(held_out):
        return log_posterior, None
    known = torch.from_numpy(model.predict_log_proba(task.array(held_out)))
    return scale(log_posterior, fit_temperature(known, held_out.y)), None
