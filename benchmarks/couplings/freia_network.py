"""IB-INN's network for CIFAR built from FrEIA's blocks, with the very numbers of ours.

A coupling and its rotation are one AllInOneBlock; a downsampling is IRevNetDownsampling and a
coupling block; the head is Flatten, PermuteRandom and GLOWCouplingBlock. Only the cosine transform,
which FrEIA does not have, is ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from FrEIA import modules as freia
from FrEIA.framework import SequenceINN

from benchmarks.couplings.freia_blocks import Converted, Pair, SecondHalfFirst, from_pair, glow
from benchmarks.couplings.rng import forked
from couplings import DCT, Chain, Coupling, DownsamplingCoupling, Flatten, Permutation, Rotation
from couplings.core import Invertible, Shape
from couplings.interop.freia import ToFrEIA

__all__ = ["FrEIANetwork", "freia_network"]


@dataclass(frozen=True)
class FrEIANetwork:
    """A SequenceINN, called as inn(x) to (z, log_det), and its parameters beside ours."""

    inn: Any
    pairs: list[Pair]


def freia_network(chain: Chain) -> FrEIANetwork:
    """The map of a `paper_network` of variant "cifar", in its dtype and on its device.

    Raises:
        ValueError: a stage that FrEIA has no block for.
    """
    inn, pairs = SequenceINN(*chain.in_shape), []
    for converted in _blocks(list(chain)):
        inn.append(_Ready, block=converted.block)
        pairs += converted.pairs
    parameter = next(chain.parameters())
    return FrEIANetwork(inn.to(parameter).train(chain.training), pairs)


def _Ready(dims_in: Sequence[Shape], block: freia.InvertibleModule) -> freia.InvertibleModule:  # noqa: N802
    """What SequenceINN.append takes for a class: the block is there already."""
    return block


def _blocks(stages: list[Invertible]) -> Iterator[Converted]:
    while stages:
        match stages:
            case [Coupling() as coupling, Rotation() as rotation, *rest]:
                yield from_pair(coupling, rotation)
            case [DownsamplingCoupling() as stage, *rest]:
                yield from _downsampling(stage)
            case [DCT() as dct, *rest]:
                yield Converted(_as_it_is(dct), [])
            case [Flatten() as flatten, Permutation() as permutation, *rest]:
                yield Converted(freia.Flatten([flatten.in_shape]), [])
                yield Converted(_permutation(flatten, permutation), [])
            case [Chain() as chain, *rest]:
                first, second = chain
                assert isinstance(first, Coupling)
                assert isinstance(second, Coupling)
                yield glow(first, second, freia.GLOWCouplingBlock)
            case _:
                raise ValueError(f"FrEIA has no block for {type(stages[0]).__name__}")
        stages = rest


def _as_it_is(stage: Invertible) -> freia.InvertibleModule:
    return ToFrEIA([stage.in_shape], make=lambda _: stage)


def _downsampling(stage: DownsamplingCoupling) -> Iterator[Converted]:
    squeeze, second, first = stage
    assert isinstance(first, Coupling)
    assert isinstance(second, Coupling)
    yield Converted(freia.IRevNetDownsampling([squeeze.in_shape]), [])
    yield glow(first, second, SecondHalfFirst)


def _permutation(flatten: Flatten, permutation: Permutation) -> Any:
    """Ours after our order of flattening, as one permutation after FrEIA's."""
    positions = torch.arange(flatten.dims, device=permutation.order.device, dtype=torch.float64)
    order = permutation(flatten(positions.view(1, *flatten.in_shape))[0])[0][0].long()
    with forked():
        block: Any = freia.PermuteRandom([flatten.out_shape])
    block.perm.data.copy_(order)
    block.perm_inv.data.copy_(order.argsort())
    return block
