"""Chains that do not keep their activations: same gradients, statistics, masks; less memory."""

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.measure import peak_bytes
from couplings import (
    MLP,
    Affine,
    Chain,
    ConvNet,
    Coupling,
    DownsamplingCoupling,
    Flatten,
    Haar,
    Rotation,
    SoftClamp,
    two_sided_coupling,
)
from couplings.memory import Memory
from couplings.testing import randomize

CONTEXT = 3
WITH_CONTEXT: dict[str, Any] = {"context_features": CONTEXT}
RECOMPUTED: list[Memory] = ["recompute", "checkpoint"]
# Bounds on the relative error of all gradients together, from rounding alone.
BOUNDS = {torch.float32: 1e-6, torch.float64: 1e-10}


def small_network(blocks: int = 4, scale: float = 0.1) -> Chain:
    """Build a chain of every kind of stage, with BatchNorm, Dropout and a context."""
    generator = torch.Generator().manual_seed(0)
    conv = partial(ConvNet, generator=generator, width=6, dropout=0.3)
    dense = partial(MLP, generator=generator, hidden=(8,), dropout=0.3)
    affine = Affine(SoftClamp(1.0, 1.0))
    coupling = partial(Coupling, conditioner=conv, univariate=affine, **WITH_CONTEXT)
    strided = partial(conv, stride=2)
    down = partial(DownsamplingCoupling, strided=strided, conditioner=conv, **WITH_CONTEXT)
    last = partial(two_sided_coupling, conditioner=dense, **WITH_CONTEXT)
    mixed = [coupling, partial(Rotation, generator=generator, scale=0.9)] * blocks
    chain = Chain.grow((2, 8, 8), [Haar, *mixed, down, *mixed, Flatten, last])
    return randomize(chain, generator, scale).train()  # type: ignore[return-value]


def inputs(dtype: torch.dtype, batch: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, 2, 8, 8, generator=generator, dtype=torch.float64)
    context = torch.randn(batch, CONTEXT, generator=generator, dtype=torch.float64)
    return x.to(dtype).requires_grad_(), context.to(dtype).requires_grad_()


def gradients(chain: Chain, x: Tensor, context: Tensor) -> Tensor:
    """Return all gradients, of parameters and inputs, in one vector."""
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(5)
        z, log_det = chain(x, context)
        loss = (z.square().sum(1) / 2 - log_det).mean()
        wanted = [x, context, *chain.parameters()]
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, wanted)]).double()


def error_of(chain: Chain, stored: Chain, *data: Tensor) -> float:
    expected = gradients(stored, *data)
    return float((gradients(chain, *data) - expected).norm() / expected.norm())


@pytest.mark.parametrize("memory", RECOMPUTED)
@pytest.mark.parametrize("anchor_every", [1, 3, 100])
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_gradients_buffers_and_masks(memory: Memory, anchor_every: int, dtype: torch.dtype) -> None:
    stored = small_network().to(dtype)
    other = copy.deepcopy(stored).set_memory(memory, anchor_every)
    assert error_of(other, stored, *inputs(dtype)) < BOUNDS[dtype]
    for (name, buffer), again in zip(stored.named_buffers(), other.buffers(), strict=True):
        assert torch.equal(buffer, again), name


@pytest.mark.parametrize("memory", RECOMPUTED)
def test_the_global_generator_ends_where_it_would(memory: Memory) -> None:
    ends = []
    for mode in ("store", memory):
        chain = small_network().double().set_memory(mode)
        with torch.random.fork_rng():
            torch.default_generator.manual_seed(5)
            z, _ = chain(*inputs(torch.float64))
            z.sum().backward()
            ends.append(torch.get_rng_state())
    assert torch.equal(*ends)


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_sixty_blocks_drift_within_the_bound(dtype: torch.dtype) -> None:
    stored = small_network(blocks=30, scale=0.02).to(dtype)
    other = copy.deepcopy(stored).set_memory("recompute")
    assert error_of(other, stored, *inputs(dtype, batch=3)) < BOUNDS[dtype]


def test_anchors_bound_the_drift_of_a_badly_conditioned_chain() -> None:
    stored, data = small_network(blocks=30, scale=0.1), inputs(torch.float32, batch=3)
    others = (copy.deepcopy(stored).set_memory("recompute", every) for every in (4, 1000))
    errors = [error_of(other, stored, *data) for other in others]
    assert errors[0] < 1e-3
    assert errors[0] < errors[1] / 10


def test_an_inner_chain_may_remember_in_its_own_way() -> None:
    stored = small_network().double()
    other = copy.deepcopy(stored).set_memory("recompute")
    inner = next(stage for stage in other if isinstance(stage, Chain))
    inner.set_memory("checkpoint")
    memories = [segment.memory for segment in other._segments()]
    assert memories == ["recompute", "checkpoint", "recompute"]
    assert error_of(other, stored, *inputs(torch.float64)) < 1e-10


def test_a_network_shared_by_two_stages_gets_both_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    net = MLP((2,), 4, generator=generator, zero_last=False)
    stages = [Coupling((4,), lambda *_: net, active=side) for side in ("first", "second")]
    chain = Chain(stages).double()
    x = torch.randn(5, 4, dtype=torch.float64, generator=generator)
    results = []
    for memory in ("store", "recompute"):
        z, _ = chain.set_memory(memory)(x)
        results.append(torch.autograd.grad(z.square().sum(), list(net.parameters())))
    torch.testing.assert_close(*results)


def peak_of(chain: Chain) -> int:
    """Return the most bytes alive at once during a step, the second of two."""
    data = inputs(torch.float32, batch=128)
    gradients(chain, *data)
    return peak_bytes(lambda: gradients(chain, *data))


def test_peak_memory_does_not_grow_with_the_depth() -> None:
    shallow, deep = small_network(4), small_network(16)
    stored = peak_of(deep)
    peaks = [peak_of(chain.set_memory("recompute", 1000)) for chain in (shallow, deep)]
    parameters = sum(p.numel() * p.element_size() for p in deep.parameters())
    assert peaks[1] - 2 * parameters < stored / 6
    assert peaks[1] - peaks[0] < 2.01 * parameters  # gradients, and their parts


def test_the_form_of_the_output_does_not_change() -> None:
    chain = small_network()
    x, context = inputs(torch.float32)
    expected = chain.eval()(x, context)
    chain.set_memory("recompute")
    for got, wanted in zip(chain(x, context), expected, strict=True):
        torch.testing.assert_close(got, wanted)
        assert got.requires_grad
    with torch.no_grad():
        assert not chain(x, context)[0].requires_grad


def test_autocast_is_entered_again() -> None:
    stored = small_network()
    other = copy.deepcopy(stored).set_memory("recompute")
    with torch.autocast("cpu", torch.bfloat16):
        assert error_of(other, stored, *inputs(torch.float32)) < 0.05


def test_transformations_store_and_are_right() -> None:
    chain = small_network(blocks=1).double().eval().set_memory("recompute")
    x, context = (t.detach() for t in inputs(torch.float64))
    compiled = torch.compile(chain, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, context), chain(x, context))


def test_a_second_derivative_is_refused() -> None:
    chain = small_network().double().set_memory("recompute")
    x, context = inputs(torch.float64)
    z, _ = chain(x, context)
    (gradient,) = torch.autograd.grad(z.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        gradient.sum().backward()


def test_parameters_changed_before_the_backward_are_noticed() -> None:
    chain = small_network().set_memory("recompute")
    z, _ = chain(*inputs(torch.float32))
    with torch.no_grad():
        next(chain.parameters()).add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z.sum().backward()


def test_wrong_settings_are_refused() -> None:
    chain = Chain([Flatten((2, 2))])
    with pytest.raises(ValueError, match="one of store, recompute, checkpoint .* got 'keep'"):
        chain.set_memory("keep")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="anchor_every >= 1, got 'recompute' and 0"):
        chain.set_memory("recompute", 0)


def test_data_parallel_hooks_see_every_parameter() -> None:
    chain = small_network().set_memory("recompute")
    seen: set[str] = set()
    for name, parameter in chain.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: seen.add(name))
    z, log_det = chain(*inputs(torch.float32))
    (z.sum() + log_det.sum()).backward()
    assert seen == {name for name, _ in chain.named_parameters()}
