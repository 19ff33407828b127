"""Probes of features: neighbours and Gaussians of one covariance, and their rows."""

import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import Tensor
from torch.testing import assert_close

import flowclf
from flowclf.data import Dataset, Outliers, Split
from flowclf.evaluation import Options, evaluate
from flowclf.evaluation.baselines import baseline_rows
from flowclf.evaluation.probes import gaussians, neighbours, outlier_distances


@pytest.fixture(scope="module")
def splits() -> tuple[Split, Split]:
    """Three classes of correlated Gaussians of unequal scales: 300 and 90 rows."""
    generator = torch.Generator().manual_seed(0)

    def drawn(n: int) -> Split:
        y = torch.arange(n) % 3
        x = torch.randn(n, 5, generator=generator)
        x[:, 1] = x[:, 0] + 0.3 * x[:, 1]
        return Split((x + 2.0 * torch.nn.functional.one_hot(y, 5)) * torch.arange(1.0, 6), y)

    return drawn(300), drawn(90)


def test_gaussians_are_those_of_linear_discriminant_analysis(splits: tuple[Split, Split]) -> None:
    training, test = splits
    joint, squares = gaussians(training, test.x, 3)
    lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    expected = lda.fit(training.x.numpy(), training.y.numpy()).predict(test.x.numpy())
    assert (joint.argmax(1).numpy() == expected).mean() > 0.97
    assert (squares >= 0).all()
    # A density: moved and scaled data have the density of the change of variables.
    moved, _ = gaussians(Split(2 * training.x + 1, training.y), 2 * test.x + 1, 3)
    assert_close(moved, joint - 5 * torch.tensor(2.0).double().log(), atol=1e-5, rtol=1e-5)


def test_neighbours_vote_and_the_tenth_is_the_distance(splits: tuple[Split, Split]) -> None:
    training, test = splits
    log_posterior, distance = neighbours(training, test.x, 3)
    assert_close(log_posterior.exp().sum(1), torch.ones(90).double())
    units = [torch.nn.functional.normalize(part.x, dim=1) for part in (test, training)]
    near = torch.cdist(*units)
    assert_close(distance.float(), near.sort(1).values[:, 9], atol=1e-4, rtol=1e-4)
    own = training.y[near.argsort(1)[:, :10]]
    counts = torch.stack([(own == k).sum(1) for k in range(3)], 1)
    assert (counts.gather(1, log_posterior.argmax(1, keepdim=True))[:, 0] == counts.amax(1)).all()


def test_both_find_what_is_far(splits: tuple[Split, Split]) -> None:
    training, test = splits
    far = outlier_distances(training, -5 * test.x)
    near = outlier_distances(training, test.x)
    assert set(far) == {"k-NN of x", "Mahalanobis of x"}
    assert all(float(far[name].median()) > float(near[name].median()) for name in far)


def test_tables_of_features_have_rows_of_probes(splits: tuple[Split, Split]) -> None:
    training, test = splits
    systems = [row["system"] for row in baseline_rows(training, test, None, features=True)]
    assert systems == ["QDA", "logistic regression", "k-NN", "Mahalanobis"]
    rows = {row["system"]: row for row in baseline_rows(training, test, None, features=True)}
    assert abs(rows["Mahalanobis"]["bits_per_dim"] - rows["QDA"]["bits_per_dim"]) < 0.1
    assert rows["k-NN"]["bits_per_dim"] is None
    data = Dataset("x", training, test, ("a", "b", "c"))
    model = flowclf.train("ib-inn", data, epochs=1, verbose=False).model
    options = Options(outliers=(Outliers("far", -5 * test.x),), levels=None, features=True)
    found = evaluate(model, test, ["ood"], training=training, options=options)["ood"]
    areas: dict[str, Tensor] = {row["score"]: row["auroc"] for row in found}
    assert areas["Mahalanobis of x"] > 0.9
    assert "k-NN of x" in areas
    assert "auto" in areas
