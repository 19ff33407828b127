"""One training step of IB-INN's CIFAR-10 network: forward, ½‖z‖² - log_det a dimension, backward.

FrEIA's is the same network with the same numbers, see `freia.py`; before anything is timed all
outputs and gradients are compared in float64, in training mode and with dropout.
"""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from benchmarks.couplings.case import Case, Options, Provider, Tensors, compiled, from_peers
from benchmarks.couplings.run import check, jobs_of
from couplings import Chain
from couplings.core import Shape
from couplings.networks import paper_network

BATCH, SHAPE, QUICK_SHAPE = 32, (3, 32, 32), (3, 8, 8)
BLOCKS = (8, 24, 24)
DEEP = tuple(4 * count for count in BLOCKS)
# At the start of training 56 couplings with BatchNorm amplify rounding a hundred million times. All
# gradients are compared in float64; in float32 they are noise in any package, and the loss is left.
EXACT, ROUNDED = 1e-5, 5e-2


def network_cases(options: Options) -> Iterator[Case]:
    """Make the step of the paper's network, and of one four times as deep."""
    shape, batch, blocks, deep = SHAPE, BATCH, BLOCKS, DEEP
    if options.quick:
        shape, batch, blocks, deep = QUICK_SHAPE, 4, (1, 1, 1), (2, 2, 2)
    device = options.device
    few = _case((4, *shape), blocks, _providers(shape, blocks, device, torch.float64), device)
    inputs = (few.inputs[0].double(),)
    few = replace(few, inputs=inputs, tolerance=EXACT, heads_only=False)
    check(jobs_of(few, "forward+backward"))
    providers = _providers(shape, blocks, device)
    eager = [provider for provider in providers if provider.name in ("couplings", "FrEIA")]
    step = _case((batch, *shape), blocks, providers, device)
    yield replace(step, providers=[*providers, *compiled(eager, options.compiles)])
    if device.type == "cuda":
        half = [_autocast(provider) for provider in providers]
        graphs = compiled(half[:1], options.compiles, mode="reduce-overhead")
        yield replace(step, providers=[*half, *graphs], dtype="bfloat16 autocast")
    yield _case((batch, *shape), deep, _providers(shape, deep, device), device)


def _case(
    shape: Shape, blocks: Sequence[int], providers: Sequence[Provider], device: torch.device
) -> Case:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(shape, generator=generator).to(device)
    return Case(
        "networks",
        f"paper-cifar10 training step, {sum(blocks)} blocks",
        (x,),
        providers,
        heads=partial(loss, dims=x[0].numel()),
        passes=("forward+backward",),
        tolerance=ROUNDED,
        heads_only=True,
        rounds=3,
    )


def loss(z: Tensor, log_det: Tensor, dims: int) -> Tensors:
    return ((0.5 * z.square().sum(1) - log_det).mean() / dims,)


def _providers(
    shape: Shape, blocks: Sequence[int], device: torch.device, dtype: torch.dtype = torch.float32
) -> list[Provider]:
    """Make ours that stores, ours that recomputes, and FrEIA's, as at the start of training."""
    generator = torch.Generator().manual_seed(0)
    chain = paper_network(shape, generator, variant="cifar", blocks=blocks).to(device, dtype)
    recomputing = deepcopy(chain).set_memory("recompute")
    ours = [_ours("couplings", chain), _ours("couplings, recompute", recomputing)]
    return [*ours, *from_peers({"FrEIA": lambda: _freia(chain)})]


def _ours(name: str, chain: Chain) -> Provider:
    """FrEIA has as many scales, but in another basis: gradients of their sum can be compared."""
    names, weights = zip(*chain.named_parameters(), strict=True)

    def common(*gradients: Tensor) -> Tensors:
        pairs = zip(names, gradients, strict=True)
        return tuple(g.sum() if name.endswith("log_scale") else g for name, g in pairs)

    return Provider(name, chain, weights=weights, common=common)


def _freia(chain: Chain) -> Provider:
    from benchmarks.couplings.freia import freia_network, paired

    inn, pairs = freia_network(chain)
    by_ours = {id(pair.ours): pair for pair in pairs}
    return Provider("FrEIA", inn, **paired([by_ours[id(p)] for p in chain.parameters()]))


def _autocast(provider: Provider) -> Provider:
    def forward(x: Tensor) -> Tensors:
        with torch.autocast("cuda", torch.bfloat16):
            return provider.forward(x)

    return replace(provider, forward=forward)
