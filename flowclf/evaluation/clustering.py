"""Clusterings of latents against labels, and classifiers fitted to latents."""

import torch
from torch import Tensor

from flowclf.nn.label_heads import BranchKind, FittedBranch

__all__ = [
    "class_distances",
    "cluster_scores",
    "clustering_accuracy",
    "distance_error",
    "fitted_accuracy",
    "kmeans",
]

RESTARTS = 10


def cluster_scores(clusters: Tensor, y: Tensor) -> dict[str, float]:
    """Compute `nmi` (arithmetic mean), `clustering_accuracy`, `ari` of clusters and labels (N,)."""
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    return {
        "nmi": float(normalized_mutual_info_score(y.numpy(), clusters.numpy())),
        "clustering_accuracy": clustering_accuracy(clusters, y),
        "ari": float(adjusted_rand_score(y.numpy(), clusters.numpy())),
    }


def clustering_accuracy(clusters: Tensor, y: Tensor) -> float:
    """Return the accuracy of the best one-to-one assignment of clusters to classes."""
    from scipy.optimize import linear_sum_assignment

    size = 1 + int(torch.maximum(clusters.max(), y.max()))
    counts = (clusters * size + y).bincount(minlength=size * size).view(size, size)
    rows, columns = linear_sum_assignment(counts.numpy(), maximize=True)
    return float(counts[rows, columns].sum()) / len(y)


def kmeans(z: Tensor, clusters: int, seed: int = 0) -> Tensor:
    """Return cluster numbers (N,) of z (N, D) by scikit-learn's k-means, best of 10 starts."""
    from sklearn.cluster import KMeans

    model = KMeans(clusters, n_init=RESTARTS, random_state=seed)
    return torch.as_tensor(model.fit_predict(z.double().numpy())).long()


def fitted_accuracy(
    kind: BranchKind, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], classes: int
) -> float:
    """Return the test accuracy of a `knn` (10) or `forest` (100 trees) of training latents."""
    z, y = train
    branch = FittedBranch(z.shape[1], classes, kind, neighbours=10, samples=len(z))
    branch.fit(z, y)
    return float((branch.log_posterior(test[0]).argmax(1) == test[1]).double().mean())


def class_distances(means: Tensor, std: Tensor) -> Tensor:
    """Compute sqrt(Σ_d (μ_id - μ_jd)²/(σ_id σ_jd)) of (K, D) twice: (K, K), float64.

    With equal variances the Mahalanobis distance of two means: half of it is how far either is
    from the plane between the classes.
    """
    means, std = means.double(), std.double()
    rows = [
        ((mean - means).square() / (s * std)).sum(1) for mean, s in zip(means, std, strict=True)
    ]
    return torch.stack(rows).sqrt()


def distance_error(y: Tensor) -> float | None:
    """Compute the standard error of `class_distances` of averages of n_k samples each.

    (1/n_i + 1/n_j)^½ standard deviations, by labels (N,): the mean over pairs of the classes there
    are; None of less than two.
    """
    variances = 1 / y.bincount()[y.unique()].double()
    errors = (variances[:, None] + variances).sqrt()
    own = torch.eye(len(variances), dtype=torch.bool)
    return float(errors[~own].mean()) if len(variances) > 1 else None
