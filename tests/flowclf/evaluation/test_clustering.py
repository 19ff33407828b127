"""Clusterings against labels, on cases with known scores."""

import pytest
import torch

from flowclf.evaluation.clustering import (
    cluster_scores,
    clustering_accuracy,
    fitted_accuracy,
    kmeans,
)


def test_names_of_clusters_do_not_matter() -> None:
    y = torch.arange(12) % 3
    scores = cluster_scores((y + 1) % 3, y)
    assert scores == pytest.approx({"nmi": 1.0, "clustering_accuracy": 1.0, "ari": 1.0})


def test_accuracy_is_that_of_the_best_assignment() -> None:
    clusters = torch.tensor([0, 0, 0, 1, 1, 2])
    y = torch.tensor([0, 1, 1, 0, 0, 1])
    assert clustering_accuracy(clusters, y) == pytest.approx(4 / 6)
    assert clustering_accuracy(torch.zeros(6, dtype=torch.int64), y) == pytest.approx(0.5)


def test_separate_clouds_are_found_and_told_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(90) % 3
    z = 10 * torch.nn.functional.one_hot(y).float() + torch.randn(90, 3, generator=generator)
    assert clustering_accuracy(kmeans(z, 3), y) == 1
    for kind in ("knn", "forest"):
        accuracy = fitted_accuracy(kind, (z[:60], y[:60]), (z[60:], y[60:]), 3)  # type: ignore[arg-type]
        assert accuracy == 1
