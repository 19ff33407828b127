"""What everybody has: quadratic discriminant analysis and logistic regression, on the same data."""

from __future__ import annotations

import time
from math import log, pi
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowclf.data import Dataset, Split
from flowclf.evaluation import metrics
from flowclf.seeding import generator_for

__all__ = ["baseline_rows"]

QDA_REGULARISATION = 0.02
QDA_MOST_DIMS = 800


def baseline_rows(dataset: Dataset) -> list[dict[str, Any]]:
    """One row a baseline: name, accuracy, ECE, bits/dim (None without a density), seconds to fit.

    QDA runs on at most 800 dimensions: its covariances are D x D.
    """
    rows = [_timed("logistic regression", dataset, _logistic_regression)]
    if _flat(dataset.train).shape[1] <= QDA_MOST_DIMS:
        rows.insert(0, _timed("QDA", dataset, _qda))
    return rows


def _timed(name: str, dataset: Dataset, fit: Any) -> dict[str, Any]:
    start = time.perf_counter()
    log_posterior, log_prob = fit(dataset)
    y = dataset.test.y
    return {
        "system": name,
        "accuracy": metrics.accuracy(log_posterior, y),
        "ece": metrics.expected_calibration_error(log_posterior, y),
        "bits_per_dim": None
        if log_prob is None
        else metrics.bits_per_dim(log_prob, _flat(dataset.train).shape[1]),
        "seconds": time.perf_counter() - start,
    }


def _qda(dataset: Dataset) -> tuple[Tensor, Tensor]:
    from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis

    # In units of the data's range: the regularisation is relative to it.
    low, span = _range(dataset)
    x = (_flat(dataset.train, noise=True) - low) / span
    test = (_flat(dataset.test, noise=True) - low) / span
    qda = QuadraticDiscriminantAnalysis(reg_param=QDA_REGULARISATION).fit(x, dataset.train.y)
    # scikit-learn's joint log-density leaves out the constant.
    joint = torch.from_numpy(qda.decision_function(test).reshape(len(test), -1))
    if joint.shape[1] == 1:
        return _two_classes(joint[:, 0]), None  # type: ignore[return-value]
    dims = x.shape[1]
    constant = -0.5 * dims * log(2 * pi) - float(np.log(np.broadcast_to(span, dims)).sum())
    return joint.log_softmax(1), joint.logsumexp(1) + constant


def _logistic_regression(dataset: Dataset) -> tuple[Tensor, None]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    low, span = _range(dataset)
    scale = [] if dataset.is_image else [StandardScaler()]
    model = make_pipeline(*scale, LogisticRegression(max_iter=300))
    model.fit((_flat(dataset.train) - low) / span, dataset.train.y)
    log_posterior = model.predict_log_proba((_flat(dataset.test) - low) / span)
    return torch.from_numpy(log_posterior), None


def _two_classes(log_odds: Tensor) -> Tensor:
    logsigmoid = torch.nn.functional.logsigmoid
    return torch.stack((logsigmoid(-log_odds), logsigmoid(log_odds)), dim=1)


def _range(dataset: Dataset) -> tuple[Any, Any]:
    if dataset.levels:
        return 0.0, float(dataset.levels - 1)
    x = _flat(dataset.train)
    return x.mean(0), x.std(0) + 1e-12


def _flat(split: Split, noise: bool = False) -> Any:
    x = split.x.flatten(1).double()
    if noise and not split.x.is_floating_point():
        x += torch.rand(x.shape, generator=generator_for(0, "baselines"), dtype=x.dtype)
    return x.numpy()
