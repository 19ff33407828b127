"""What everybody has: quadratic discriminant analysis and logistic regression, on the same data."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from math import log, pi
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from flowclf.data import Split, hold_out
from flowclf.evaluation import metrics
from flowclf.seeding import generator_for

__all__ = ["baseline_rows"]

QDA_REGULARISATION = 0.02
QDA_MOST_DIMS = 800
MOST_SAMPLES, MOST_NUMBERS = 20_000, 20_000_000
MOST_ITERATIONS = 200

Fit = tuple[Tensor, Tensor | None]


def baseline_rows(training: Split, test: Split, levels: int | None) -> list[dict[str, Any]]:
    """One row a baseline: name, accuracy, ECE, bits/dim (None without a density), seconds to fit.

    Trained on a stratified part of at most 20,000 samples and 20 million numbers, QDA on at most
    800 dimensions: the rows are there to compare with, not to wait for. QDA also needs more samples
    of each class than dimensions.
    """
    training = training.labelled()
    most = min(MOST_SAMPLES, MOST_NUMBERS // training.x[0].numel())
    if len(training) > most:
        training, _ = hold_out(training, 1 - most / len(training), seed=0)
    task = _Task.of(training, test, levels)
    rows = [_timed("logistic regression", task, _logistic_regression)]
    fewest = int(task.training.y.bincount().min())
    if task.dims <= min(QDA_MOST_DIMS, fewest - 1):
        rows.insert(0, _timed("QDA", task, _qda))
    return rows


@dataclass(frozen=True)
class _Task:
    """Both splits as numpy arrays in [0, 1] (images) or standardised (tables), noise on request."""

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

    def arrays(self, noise: bool) -> tuple[Any, Any]:
        return self._array(self.training, noise), self._array(self.test, noise)

    def _array(self, split: Split, noise: bool) -> Any:
        x = split.x.flatten(1).double()
        if noise and not split.x.is_floating_point():
            generator = generator_for(0, "baselines")
            x += torch.rand(x.shape, generator=generator, dtype=x.dtype)
        return (x.numpy() - self.low) / self.span


def _timed(name: str, task: _Task, fit: Callable[[_Task], Fit]) -> dict[str, Any]:
    start = time.perf_counter()
    log_posterior, log_prob = fit(task)
    seconds = time.perf_counter() - start
    bits = None if log_prob is None else metrics.bits_per_dim(log_prob, task.dims)
    return {
        "system": name,
        "accuracy": metrics.accuracy(log_posterior, task.test.y),
        "ece": metrics.expected_calibration_error(log_posterior, task.test.y),
        "bits_per_dim": bits,
        "seconds": seconds,
        "samples": len(task.training),
    }


def _qda(task: _Task) -> Fit:
    """Quadratic discriminant analysis.

    The joint densities are put together from the fitted parameters: scikit-learn gives only
    posteriors, and for two classes only their log-odds.
    """
    from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis

    x, test = task.arrays(noise=True)
    qda = QuadraticDiscriminantAnalysis(reg_param=QDA_REGULARISATION).fit(x, task.training.y)
    joint = []
    parameters = (qda.means_, qda.rotations_, qda.scalings_, qda.priors_)
    for mean, rotation, variance, prior in zip(*parameters, strict=True):
        square = ((test - mean) @ rotation) ** 2 / variance
        joint.append(-0.5 * (square + np.log(2 * pi * variance)).sum(1) + log(prior))
    scores = torch.from_numpy(np.stack(joint, axis=1))
    log_det = float(np.log(np.broadcast_to(task.span, task.dims)).sum())
    return scores.log_softmax(1), scores.logsumexp(1) - log_det


def _logistic_regression(task: _Task) -> Fit:
    from sklearn.linear_model import LogisticRegression

    x, test = task.arrays(noise=False)
    model = LogisticRegression(max_iter=MOST_ITERATIONS)
    with warnings.catch_warnings():
        # Not converged is good enough for a row to compare with.
        warnings.simplefilter("ignore")
        model.fit(x, task.training.y)
    return torch.from_numpy(model.predict_log_proba(test)), None
