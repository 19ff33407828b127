"""Probes of features, with no network: nearest neighbours and Mahalanobis distances.

Of `flowclf.evaluation.baselines` on frozen features they are rows of the table, and their distances
scores of out-of-distribution samples.
"""

from __future__ import annotations

from math import log, pi

import numpy as np
import torch
from torch import Tensor

from flowclf.data import Split, hold_out

__all__ = ["gaussians", "neighbours", "outlier_distances"]

NEIGHBOURS = 10
MOST_KNOWN = 20_000  # training samples that neighbours are looked for among


def neighbours(training: Split, x: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Return log q(k|x) (N, K) by the ten nearest training rows, and the distance of the tenth.

    By the cosine of rows (N, F), each class's count plus 1/K. The distance to the k-th neighbour,
    of normalised features, is the score of Sun et al., "Out-of-distribution detection with deep
    nearest neighbors", ICML 2022.
    """
    from sklearn.neighbors import NearestNeighbors

    known = _part(training)
    count = min(NEIGHBOURS, len(known))
    found = NearestNeighbors(n_neighbors=count).fit(_directions(known.x))
    distance, rows = found.kneighbors(_directions(x))
    votes = torch.nn.functional.one_hot(known.y[torch.from_numpy(rows)], classes).sum(1)
    posterior = (votes + 1 / classes) / (count + 1)
    return posterior.double().log(), torch.from_numpy(distance[:, -1].copy()).double()


def gaussians(training: Split, x: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Return log q(x, k) (N, K) of Gaussians with one covariance, and min_k of the distance².

    The covariance is shrunk as Ledoit and Wolf have it. min_k (x - μ_k)ᵀ Σ⁻¹ (x - μ_k) is the score
    of Lee et al., "A simple unified framework for detecting out-of-distribution samples", NeurIPS
    2018.
    """
    from sklearn.covariance import ledoit_wolf

    training = training.labelled()
    known, y = training.x.double(), training.y
    scale = known.std(0, correction=0).clamp_min(1e-12)
    known, x = known / scale, x.double() / scale
    means = torch.stack([known[y == k].mean(0) for k in range(classes)])
    within = ledoit_wolf((known - means[y]).numpy(), assume_centered=True)[0]
    lower = torch.linalg.cholesky(torch.from_numpy(within))
    z, centres = (torch.linalg.solve_triangular(lower, v.T, upper=False).T for v in (x, means))
    squares = torch.cdist(z, centres).square()
    weights = (y.bincount(minlength=classes).double() / len(y)).log()
    constant = lower.diagonal().log().sum() + scale.log().sum() + x.shape[1] / 2 * log(2 * pi)
    return weights - squares / 2 - constant, squares.amin(1)


def outlier_distances(training: Split, x: Tensor) -> dict[str, Tensor]:
    """Return both probes' scores of x (N, F), by name; the higher, the more outlying."""
    classes = int(training.y.max()) + 1
    known = training.labelled()
    return {
        "k-NN of x": neighbours(known, x, classes)[1],
        "Mahalanobis of x": gaussians(known, x, classes)[1],
    }


def _part(training: Split) -> Split:
    training = training.labelled()
    if len(training) <= MOST_KNOWN:
        return training
    return hold_out(training, 1 - MOST_KNOWN / len(training), seed=0)[0]


def _directions(x: Tensor) -> np.ndarray:
    return torch.nn.functional.normalize(x, dim=1).numpy()
