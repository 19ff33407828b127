"""Whole networks under torch.func, torch.export and autocast: no operator stands in the way."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from couplings import (
    MLP,
    Chain,
    ConvNet,
    Coupling,
    DownsamplingCoupling,
    Flatten,
    Haar,
    RationalQuadratic,
    Rotation,
    Univariate,
    two_sided_coupling,
)
from couplings.testing import randomize

MAPS: dict[str, Univariate | None] = {"affine": None, "spline": RationalQuadratic(4, 2.0)}


class BothWays(nn.Module):
    """Chain that also maps half its latent back, so that inverses are transformed, too."""

    def __init__(self, chain: Chain) -> None:
        super().__init__()
        self.chain = chain

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        z, log_det = self.chain(x)
        return z, log_det, *self.chain.inverse(z / 2)


def network(univariate: Univariate | None, seed: int = 0, short: bool = False) -> Chain:
    """Build a chain of stages that have an operator; `short`: of each operator once."""
    generator = torch.Generator().manual_seed(seed)
    conv = partial(ConvNet, generator=generator, width=6)
    dense = partial(MLP, generator=generator, hidden=(8,))
    stages = [
        Haar,
        partial(Coupling, conditioner=conv, univariate=univariate),
        partial(Rotation, generator=generator),
        lambda shape: DownsamplingCoupling(shape, partial(conv, stride=2), conv, univariate),
        Flatten,
        partial(two_sided_coupling, conditioner=dense, univariate=univariate),
    ]
    chain = Chain.grow((1, 4, 4), stages[:3] if short else stages)
    return randomize(chain, generator, 0.2).eval()  # type: ignore[return-value]


@pytest.fixture(params=MAPS.values(), ids=MAPS)
def univariate(request: pytest.FixtureRequest) -> Univariate | None:
    return request.param


def images(batch: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 1, 4, 4, generator=generator, dtype=dtype)


def test_vmap_over_an_ensemble(univariate: Univariate | None) -> None:
    ensemble = [BothWays(network(univariate, seed)).double() for seed in range(3)]
    # Rotations are part of the state here: every member has its own.
    state, x = torch.func.stack_module_state(ensemble), images(5)

    def call(state: tuple[dict[str, Tensor], ...], x: Tensor) -> tuple[Tensor, ...]:
        return torch.func.functional_call(ensemble[0], state, (x,))

    together = torch.vmap(call, in_dims=(0, None))(state, x)
    alone = [member(x) for member in ensemble]
    for got, expected in zip(together, zip(*alone, strict=True), strict=True):
        torch.testing.assert_close(got, torch.stack(expected))


def scalar_of(chain: Chain) -> Callable[[Tensor], Tensor]:
    """Make a scalar function of a batch, or of one sample, in which all results count."""
    both = BothWays(chain)

    def call(x: Tensor) -> Tensor:
        return torch.stack([out.square().sum() for out in both(x.view(-1, 1, 4, 4))]).sum()

    return call


def test_forward_and_reverse_derivatives_agree(univariate: Univariate | None) -> None:
    call, (x, direction) = scalar_of(network(univariate).double()), images(2)
    _, forward = torch.func.jvp(call, (x,), (direction,))
    torch.testing.assert_close(forward, (torch.func.grad(call)(x) * direction).sum())
    leaf = x.clone().requires_grad_()
    (reverse,) = torch.autograd.grad(call(leaf), leaf)
    torch.testing.assert_close((reverse * direction).sum(), forward)


def test_hessian_through_the_operators(univariate: Univariate | None) -> None:
    call, x = scalar_of(network(univariate).double()), images(1)
    eager = torch.autograd.functional.hessian(call, x)
    torch.testing.assert_close(eager, torch.func.hessian(call)(x))


def test_export_with_any_batch_size(univariate: Univariate | None) -> None:
    chain = network(univariate).double()
    batch = torch.export.Dim("batch", min=2, max=64)
    exported = torch.export.export(chain, (images(4),), dynamic_shapes=({0: batch},))
    assert not [node for node in exported.graph.nodes if "couplings" in str(node.target)]
    x = images(7)
    torch.testing.assert_close(exported.module()(x), chain(x))


def test_compiled_as_one_graph(univariate: Univariate | None) -> None:
    both, x = BothWays(network(univariate, short=True)).double(), images(3)
    compiled = torch.compile(both, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), both(x))


def test_autocast_rounds_the_networks_alone(univariate: Univariate | None) -> None:
    chain, x = network(univariate), images(4, torch.float32)
    z, log_det = chain(x)
    with torch.autocast("cpu", torch.bfloat16):
        low_z, low_log_det = chain(x)
    assert (low_z.dtype, low_log_det.dtype) == (torch.float32, torch.float32)
    torch.testing.assert_close(low_z, z, atol=0.1, rtol=0.1)
    torch.testing.assert_close(low_log_det, log_det, atol=0.3, rtol=0.1)
