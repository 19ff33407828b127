"""Label branches: fitted ones are scikit-learn's, and come back from their state."""

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.neighbors import KNeighborsClassifier
from torch.testing import assert_close

from flowclf.nn.label_heads import BranchKind, FittedBranch, NetworkBranch
from flowclf.support.errors import UserError


def latents(count: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(count) % 3
    return 2 * y[:, None] + torch.randn(count, 2, generator=generator), y


@pytest.mark.parametrize(
    ("kind", "reference", "votes"),
    [
        ("knn", KNeighborsClassifier(5), 5),
        ("forest", RandomForestClassifier(100, random_state=0), 100),
    ],
)
def test_a_fitted_branch_is_sklearns_but_never_sure(
    kind: BranchKind, reference: KNeighborsClassifier, votes: int
) -> None:
    z, y = latents()
    branch = FittedBranch(2, 4, kind, neighbours=5, samples=100)
    branch.fit(z, y)
    shares = torch.as_tensor(reference.fit(z.numpy(), y.numpy()).predict_proba(z.numpy())).float()
    shares = torch.cat([shares, torch.zeros(len(z), 1)], 1)  # no sample of the fourth class
    expected = (votes * shares + 0.25) / (votes + 1)
    assert_close(branch.log_posterior(z).exp(), expected)
    again = FittedBranch(2, 4, kind, neighbours=5, samples=100)
    again.load_state_dict(branch.state_dict())
    assert torch.equal(again.log_posterior(z), branch.log_posterior(z))


def test_it_is_uniform_before_and_fitted_anew_after() -> None:
    z, y = latents()
    branch = FittedBranch(2, 3, "knn", neighbours=3, samples=30)
    assert_close(branch.log_posterior(z).exp(), torch.full((60, 3), 1 / 3))
    branch.fit(z, torch.where(torch.arange(60) % 2 == 0, y, -1))
    assert int((branch.labels >= 0).sum()) == 30
    assert np.mean((branch.log_posterior(z).argmax(1) == y).numpy()) > 0.8
    branch.fit(-z, y)
    assert np.mean((branch.log_posterior(-z).argmax(1) == y).numpy()) > 0.8


def test_a_network_starts_uniform_and_learns() -> None:
    z, y = latents()
    branch = NetworkBranch(2, 3, (8,), torch.Generator().manual_seed(0))
    assert_close(branch.log_posterior(z).exp(), torch.full((60, 3), 1 / 3))
    optimizer = torch.optim.Adam(branch.parameters(), 0.05)
    for _ in range(60):
        loss = torch.nn.functional.nll_loss(branch.log_posterior(z), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.6


@pytest.mark.parametrize(
    ("labels", "value", "message"),
    [
        ([0, 1, 9], 0.0, r"classes 0\.\.2, got others; the file of the model is damaged"),
        ([0, 1, 2], float("inf"), "finite.*the file of the model is damaged"),
        ([0, 1, -1], 0.0, "at least the 3 neighbours that vote, got 2"),
    ],
)
def test_latents_that_nobody_stored(labels: list[int], value: float, message: str) -> None:
    branch = FittedBranch(2, 3, "knn", neighbours=3, samples=3)
    state = {"latents": torch.full((3, 2), value), "labels": torch.tensor(labels)}
    branch.load_state_dict(state)
    with pytest.raises(UserError, match=message):
        branch.log_posterior(torch.zeros(1, 2))
