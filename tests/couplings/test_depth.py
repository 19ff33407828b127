"""Rounding in deep chains, at the start of training."""

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from couplings import Chain, LogisticMixture, RationalQuadratic
from couplings.networks import conv_network, mlp_network, paper_network
from couplings.testing import randomize

Make = Callable[[int], Chain]


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def affine(blocks: int, **options: Any) -> Chain:
    return mlp_network((6,), seeded(), blocks=blocks, hidden=(8,), **options)


def conv(blocks: int, **options: Any) -> Chain:
    options = {"width": 2, "dense_hidden": (4,)} | options
    return conv_network((1, 4, 4), seeded(), blocks=(blocks,), **options)


spline, conv_spline = (partial(each, univariate=RationalQuadratic()) for each in (affine, conv))
logistics = partial(affine, univariate=LogisticMixture(2))
dense = partial(conv, univariate=LogisticMixture(2), mixing="plu", conditioner="mixer", width=8)


def samples(chain: Chain, count: int = 16) -> Tensor:
    return torch.randn(count, *chain.in_shape, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def inverse_error(chain: Chain, x: Tensor) -> float:
    return float((chain.inverse(chain(x)[0])[0] - x).abs().max())


@pytest.mark.parametrize("make", [affine, spline, conv, conv_spline])
def test_300_blocks_can_be_inverted_at_the_start(make: Make) -> None:
    chain = make(300).eval()
    assert inverse_error(chain, samples(chain)) < 1e-4


@torch.no_grad()
@pytest.mark.parametrize(
    ("make", "scale"),
    [
        (affine, 0),
        (spline, 0),
        (conv, 0),
        (conv_spline, 0),
        (affine, 3e-3),
        (conv, 3e-3),
    ],
)
def test_log_dets_of_100_blocks_are_those_of_float64(make: Make, scale: float) -> None:
    """Compare at the start, and a little away from it, where they are not 0."""
    chain = make(100).eval()
    randomize(chain, torch.Generator().manual_seed(2), scale)
    x, exact = samples(chain), deepcopy(chain).double()
    z, log_det = chain(x)
    forward = log_det, exact(x.double())[1]
    back = chain.inverse(z)[1], exact.inverse(z.double())[1]
    for got, expected in (forward, back):
        assert float(((got - expected).abs() / expected.abs().clamp_min(1)).max()) < 1e-5
        assert (float(expected.abs().max()) > 0.1) == bool(scale)


@pytest.mark.parametrize("make", [logistics, dense])
def test_64_blocks_of_the_dense_maps_are_exact_near_the_start(make: Make) -> None:
    chain = make(64).eval()
    randomize(chain, torch.Generator().manual_seed(2), 2e-3)
    x = samples(chain)
    assert inverse_error(chain, x) < 2e-5
    with torch.no_grad():
        exact = deepcopy(chain).double()(x.double())[1]
        assert float((chain(x)[1] - exact).abs().max()) < 1e-5 < float(exact.abs().max())


def test_the_papers_network_amplifies_rounding_unless_it_starts_as_the_identity() -> None:
    errors = {}
    for start in ("authors", "identity"):
        chain = paper_network((3, 8, 8), seeded(), variant="cifar", start=start).eval()
        errors[start] = inverse_error(chain, samples(chain, 4))
    assert errors["identity"] < 1e-4 < 1e-3 < errors["authors"]
