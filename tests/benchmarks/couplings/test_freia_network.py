"""FrEIA's network is ours, to the last digits, in both directions and in all gradients."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from benchmarks.couplings.freia import Pair, freia_network
from couplings import Chain, Rotation
from couplings.networks import mlp_network, paper_network

Theirs = tuple[Any, list[Pair]]


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def chain(generator: torch.Generator) -> Chain:
    network = paper_network((3, 8, 8), generator, variant="cifar", blocks=(2, 2, 2)).double()
    for stage in network:
        if isinstance(stage, Rotation):
            nn.init.normal_(stage.offset, std=0.1, generator=generator)
    return network


@pytest.fixture
def theirs(chain: Chain) -> Theirs:
    return freia_network(chain)


@pytest.fixture
def x(generator: torch.Generator) -> Tensor:
    return torch.randn(4, 3, 8, 8, generator=generator, dtype=torch.float64)


def same_masks(network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        z, log_det = network(x)
    return z, log_det


def test_outputs_are_equal_in_training_with_dropout(
    chain: Chain, theirs: Theirs, x: Tensor
) -> None:
    ours, found = same_masks(chain.train(), x), same_masks(theirs[0].train(), x)
    for a, b in zip(found, ours, strict=True):
        assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_the_inverse_is_equal(chain: Chain, theirs: Theirs, x: Tensor) -> None:
    z, log_det = chain.eval()(x)
    back, back_log_det = theirs[0].eval()(z, rev=True)
    assert_close(back, x, rtol=1e-8, atol=1e-8)
    assert_close(back_log_det, -log_det)


def test_all_gradients_are_equal(chain: Chain, theirs: Theirs, x: Tensor) -> None:
    def gradients(network: nn.Module, weights: list[nn.Parameter]) -> tuple[Tensor, ...]:
        z, log_det = same_masks(network.train(), x)
        loss = (0.5 * z.square().sum(1) - log_det).mean()
        return torch.autograd.grad(loss, weights)

    inn, pairs = theirs
    assert {id(pair.ours) for pair in pairs} == set(map(id, chain.parameters()))
    ours = gradients(chain, [pair.ours for pair in pairs])
    read = gradients(inn, [pair.theirs for pair in pairs])
    scales = {id(stage.log_scale) for stage in chain if isinstance(stage, Rotation)}
    for pair, expected, got in zip(pairs, ours, read, strict=True):
        expected = expected.sum() if id(pair.ours) in scales else expected
        assert_close(pair.read(got), expected, rtol=1e-6, atol=1e-8)


def test_what_has_no_counterpart_is_refused(chain: Chain, generator: torch.Generator) -> None:
    with pytest.raises(ValueError, match="FrEIA has no block for"):
        freia_network(mlp_network((4,), generator))
    rotation = next(stage for stage in chain if isinstance(stage, Rotation))
    nn.init.normal_(rotation.log_scale, generator=generator)
    with pytest.raises(ValueError, match="expected one scale for all"):
        freia_network(chain)


def test_numpys_generator_is_left_alone(chain: Chain) -> None:
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    freia_network(chain)
    assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002
