"""FrEIA's blocks, and IB-INN's network for CIFAR of them, with the very numbers of ours.

A coupling and its rotation are one AllInOneBlock; a downsampling is IRevNetDownsampling and a
coupling block; the head is Flatten, PermuteRandom and GLOWCouplingBlock. Only the cosine transform,
which FrEIA does not have, is ours. Where FrEIA multiplies a subnetwork's output by a constant, or
does not where we do, the constant goes into the last layer of its copy of the subnetwork: FrEIA
runs nothing that its own users would not run.

An AllInOneBlock scales before it rotates, z = R (e^g y + o'); ours is z = e^g (R y) + o. With one g
for all channels, as at the start of training, they are equal with o' = Rᵀ o, and so are all
gradients but that of g, of which the sum is.
"""

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from math import pi
from typing import Any

import torch
from FrEIA import modules as freia
from FrEIA.framework import SequenceINN
from torch import Tensor, nn

from benchmarks.measure import forked_rng
from couplings import (
    DCT,
    MLP,
    Affine,
    Chain,
    ConvNet,
    Coupling,
    DownsamplingCoupling,
    Flatten,
    Permutation,
    Rotation,
    SoftClamp,
)  # fmt: skip
from couplings.core import Invertible, Shape
from couplings.interop.freia import ToFrEIA

# FrEIA's constants: AllInOneBlock takes a tenth of raw scale and shift; its 2/π is rounded.
TENTH, TWO_OVER_PI = 0.1, 0.636


@dataclass(frozen=True)
class Pair:
    """A parameter of ours and one of FrEIA's."""

    ours: nn.Parameter
    theirs: nn.Parameter
    read: Callable[[Tensor], Tensor]  # FrEIA's gradient to ours; for scales, to the sum of ours


# A block of FrEIA's, and how its parameters relate to ours.
Converted = tuple[Any, list[Pair]]


def freia_network(chain: Chain) -> tuple[Any, list[Pair]]:
    """Convert a `paper_network` of variant "cifar", in its dtype and on its device.

    Returns a SequenceINN, called as inn(x) to (z, log_det), and its parameters beside ours.

    Raises:
        ValueError: a stage that FrEIA has no block for.
    """
    inn, pairs = SequenceINN(*chain.in_shape), list[Pair]()
    for block, own in _blocks(list(chain)):
        inn.append(_Ready, block=block)
        pairs += own
    parameter = next(chain.parameters())
    return inn.to(parameter).train(chain.training), pairs


def _Ready(dims_in: Sequence[Shape], block: freia.InvertibleModule) -> freia.InvertibleModule:  # noqa: N802
    """Stand in for the class that SequenceINN.append takes: the block is there already."""
    return block


def _blocks(stages: list[Invertible]) -> Iterator[Converted]:
    while stages:
        match stages:
            case [Coupling() as coupling, Rotation() as rotation, *rest]:
                clamp = _clamp_of(coupling)
                subnet, pairs = _scaled_copy(coupling.net, row_factors(clamp))
                block = all_in_one(coupling.in_shape, lambda *_, net=subnet: net, clamp, rotation)
                yield block, [*pairs, *rotation_pairs(block, rotation)]
            case [DownsamplingCoupling() as stage, *rest]:
                squeeze, second, first = stage
                yield freia.IRevNetDownsampling([squeeze.in_shape]), []
                yield _glow(first, second, _SecondHalfFirst)
            case [DCT() as dct, *rest]:
                yield _as_it_is(dct), []
            case [Flatten() as flatten, Permutation() as permutation, *rest]:
                yield freia.Flatten([flatten.in_shape]), []
                yield _permutation(flatten, permutation), []
            case [Chain() as chain, *rest]:
                first, second = chain
                yield _glow(first, second, freia.GLOWCouplingBlock)
            case _:
                raise ValueError(f"FrEIA has no block for {type(stages[0]).__name__}")
        stages = rest


def _as_it_is(stage: Invertible) -> freia.InvertibleModule:
    return ToFrEIA([stage.in_shape], make=lambda _: stage)


class _SecondHalfFirst(freia.GLOWCouplingBlock):  # type: ignore[misc]  # FrEIA is not annotated
    """A GLOWCouplingBlock that transforms the second half first, as IB-INN's downsampling does."""

    def forward(
        self, x: Sequence[Tensor], c: object = (), rev: bool = False, jac: bool = True
    ) -> tuple[tuple[Tensor], Tensor]:
        x1, x2 = torch.split(x[0], [self.split_len1, self.split_len2], dim=1)
        if rev:
            y1, j1 = self._coupling1(x1, x2, rev=True)
            y2, j2 = self._coupling2(x2, y1, rev=True)
        else:
            y2, j2 = self._coupling2(x2, x1)
            y1, j1 = self._coupling1(x1, y2)
        return (torch.cat((y1, y2), 1),), j1 + j2


def all_in_one(
    shape: Shape, subnet: Callable[..., nn.Module], clamp: SoftClamp, rotation: Rotation | None
) -> Any:
    """Make an AllInOneBlock with the rotation's numbers, if there is one.

    Raises:
        ValueError: another form of clamp, or a rotation with several scales.
    """
    if clamp.form != "tanh":
        raise ValueError(f"AllInOneBlock clamps with tanh, not with {clamp}")
    with forked_rng():
        options = {"affine_clamping": clamp.limit, "global_affine_type": "EXP"}
        block = freia.AllInOneBlock(
            [shape], subnet_constructor=subnet, permute_soft=True, **options
        )
    if rotation is None:
        return block
    log_scale = rotation.log_scale.detach()
    if bool((log_scale != log_scale[0]).any()):
        raise ValueError("AllInOneBlock scales before it rotates: expected one scale for all")
    block.to(rotation.offset)
    with torch.no_grad():
        matrix = rotation.rotation
        block.w_perm.copy_(matrix.view(block.w_perm.shape))
        block.w_perm_inv.copy_(matrix.T.reshape(block.w_perm.shape))
        block.global_scale.fill_(log_scale[0])
        offset = matrix.T @ rotation.offset.to(matrix)
        block.global_offset.copy_(offset.view(block.global_offset.shape))
    return block


def rotation_pairs(block: Any, rotation: Rotation) -> list[Pair]:
    """Pair scale and offset of both."""
    matrix = rotation.rotation.to(rotation.offset)
    return [
        Pair(rotation.log_scale, block.global_scale, torch.sum),
        Pair(rotation.offset, block.global_offset, lambda grad: matrix @ grad.flatten()),
    ]


def _glow(first: Invertible, second: Invertible, kind: type[freia.GLOWCouplingBlock]) -> Converted:
    """Convert couplings of the first and of the second half to one block of that kind."""
    assert isinstance(first, Coupling)
    assert isinstance(second, Coupling)
    clamp = _clamp_of(first)
    copies = [_scaled_copy(coupling.net, (clamp.gain, 1.0)) for coupling in (second, first)]
    subnets = iter([subnet for subnet, _ in copies])
    tanh = clamp.form == "tanh"
    block = kind(
        [first.in_shape],
        subnet_constructor=lambda *_: next(subnets),
        clamp=clamp.limit if tanh else clamp.limit * 2 / pi / TWO_OVER_PI,
        clamp_activation="TANH" if tanh else "ATAN",
        split_len=first.active_channels,
    )
    return block, [pair for _, pairs in copies for pair in pairs]


def row_factors(clamp: SoftClamp) -> tuple[float, float]:
    """Return an AllInOneBlock's raw log-scales and shifts relative to ours."""
    return clamp.gain / TENTH, 1 / TENTH


def paired(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Return a provider's weights, and how its gradients become ours."""

    def common(*gradients: Tensor) -> tuple[Tensor, ...]:
        return tuple(pair.read(g) for pair, g in zip(pairs, gradients, strict=True))

    return {"weights": [pair.theirs for pair in pairs], "common": common}


def _permutation(flatten: Flatten, permutation: Permutation) -> Any:
    """Convert ours, after our order of flattening, to one permutation after FrEIA's."""
    positions = torch.arange(flatten.dims, device=permutation.order.device, dtype=torch.float64)
    order = permutation(flatten(positions.view(1, *flatten.in_shape))[0])[0][0].long()
    with forked_rng():
        block: Any = freia.PermuteRandom([flatten.out_shape])
    block.perm.data.copy_(order)
    block.perm_inv.data.copy_(order.argsort())
    return block


def _clamp_of(coupling: Coupling) -> SoftClamp:
    if not isinstance(coupling.univariate, Affine):
        raise ValueError(f"expected an affine coupling, got {coupling.univariate}")
    return coupling.univariate.clamp


def _scaled_copy(net: nn.Module, factors: tuple[float, float]) -> tuple[nn.Module, list[Pair]]:
    """Copy a subnetwork, its raw log-scales and shifts times these factors."""
    copy = _plain(deepcopy(net))
    last = [m for m in copy.modules() if isinstance(m, nn.Conv2d | nn.Linear)][-1]
    assert last.bias is not None
    half = len(last.bias) // 2
    rows = torch.cat([last.bias.new_full((half,), factor) for factor in factors])
    factors_of = {last.weight: rows.view(-1, *[1] * (last.weight.dim() - 1)), last.bias: rows}
    pairs = []
    for ours, theirs in zip(net.parameters(), copy.parameters(), strict=True):
        factor = factors_of.get(theirs, torch.ones_like(rows[0]))
        with torch.no_grad():
            theirs.mul_(factor)
        pairs.append(Pair(ours, theirs, factor.mul))
    return copy, pairs


class _Plain(nn.Sequential):
    """A conditioner's layers as FrEIA's users write them: the layers, and nothing about memory."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        out: Tensor = super().forward(x)
        return out


def _plain(net: nn.Module) -> nn.Module:
    if isinstance(net, nn.ReLU):
        return nn.ReLU()
    for name, child in net.named_children():
        setattr(net, name, _plain(child))
    return _Plain(*net.layers) if isinstance(net, ConvNet | MLP) else net
