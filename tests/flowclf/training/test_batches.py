"""Batches are named by their step, whatever the number of processes."""

from __future__ import annotations

import torch
from torch import Tensor

from flowclf.data import Split
from flowclf.noise import Noise
from flowclf.training.batches import Batches


def make(world: int = 1, rank: int = 0, seed: int = 0) -> Batches:
    x = torch.arange(100, dtype=torch.uint8).view(100, 1, 1, 1)
    noise = Noise((1, 1, 1), 1.0, 0.0, 255.0)
    return Batches(Split(x, torch.arange(100)), 20, seed, None, noise, rank, world)


def test_an_epoch_sees_every_sample_once_in_a_new_order() -> None:
    batches = make()
    epochs = [torch.cat([batches.at(5 * e + i)[1] for i in range(5)]) for e in range(2)]
    for labels in epochs:
        assert torch.equal(labels.sort().values, torch.arange(100))
    assert not torch.equal(epochs[0], epochs[1])


def test_a_step_gives_the_same_batch_in_any_order_of_calls() -> None:
    one, other = make(), make()
    expected = one.at(7)
    for step in (12, 0, 7):
        got = other.at(step)
    assert all(torch.equal(a, b) for a, b in zip(expected, got, strict=True))


def test_processes_share_the_batch_that_one_would_have() -> None:
    whole_x, whole_y = make().at(3)
    parts = [make(world=2, rank=rank).at(3) for rank in (0, 1)]
    joined: list[Tensor] = [
        torch.stack(pair, dim=1).flatten(0, 1) for pair in zip(*parts, strict=True)
    ]
    assert torch.equal(joined[0], whole_x)
    assert torch.equal(joined[1], whole_y)


def test_labels_stay_with_their_samples_under_noise() -> None:
    x, y = make(seed=3).at(1)
    assert torch.equal(x.floor().flatten().long(), y)
    assert float((x.flatten() - y).std()) > 0.2
