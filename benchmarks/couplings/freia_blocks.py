"""FrEIA's blocks made from stages of ours: the same map, the same numbers.

Where FrEIA multiplies what a subnetwork says by a constant, or does not where we do, the constant
goes into the last layer of its copy of the subnetwork: FrEIA runs nothing that its own users would
not run.

An AllInOneBlock scales before it rotates, z = R (e^g y + o'); ours is z = e^g (R y) + o. With one g
for all channels, as at the start of training, they are equal with o' = Rᵀ o, and so are all
gradients but that of g, of which the sum is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from math import pi
from typing import Any

import torch
from FrEIA.modules import AllInOneBlock, GLOWCouplingBlock
from torch import Tensor, nn

from benchmarks.couplings.rng import forked
from couplings import MLP, ConvNet, Coupling, Rotation, SoftClamp
from couplings.core import Shape
from couplings.univariate import Affine

__all__ = [
    "Converted",
    "Pair",
    "SecondHalfFirst",
    "all_in_one",
    "from_pair",
    "glow",
    "rotation_pairs",
    "row_factors",
]

# FrEIA's constants: AllInOneBlock takes a tenth of raw scale and shift; its 2/π is rounded.
TENTH, TWO_OVER_PI = 0.1, 0.636


def _same(gradient: Tensor) -> Tensor:
    return gradient


@dataclass(frozen=True)
class Pair:
    """A parameter of ours and one of FrEIA's.

    Attributes:
        ours, theirs: the parameters.
        read: FrEIA's gradient to ours; for scales, to the sum of ours.
    """

    ours: nn.Parameter
    theirs: nn.Parameter
    read: Callable[[Tensor], Tensor] = _same


@dataclass(frozen=True)
class Converted:
    """A block of FrEIA's and how its parameters relate to ours."""

    block: Any
    pairs: list[Pair]


class SecondHalfFirst(GLOWCouplingBlock):  # type: ignore[misc]  # FrEIA is not annotated
    """A GLOWCouplingBlock that transforms the second half first, as IB-INN's downsampling does."""

    def forward(
        self, x: Iterable[Tensor], c: object = (), rev: bool = False, jac: bool = True
    ) -> tuple[tuple[Tensor], Tensor]:
        """FrEIA's lines in the other order."""
        (whole,) = x
        x1, x2 = torch.split(whole, [self.split_len1, self.split_len2], dim=1)
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
    """An AllInOneBlock with the rotation's numbers, if there is one.

    Raises:
        ValueError: another form of clamp, or a rotation with several scales.
    """
    if clamp.form != "tanh":
        raise ValueError(f"AllInOneBlock clamps with tanh, not with {clamp}")
    with forked():
        block = AllInOneBlock(
            [shape],
            subnet_constructor=subnet,
            affine_clamping=clamp.limit,
            global_affine_type="EXP",
            permute_soft=True,
        )
    if rotation is not None:
        _set_rotation(block, rotation)
    return block


def from_pair(coupling: Coupling, rotation: Rotation) -> Converted:
    """Coupling and rotation as one AllInOneBlock."""
    clamp = _clamp_of(coupling)
    subnet, pairs = _scaled_copy(coupling.net, row_factors(clamp))
    block = all_in_one(coupling.in_shape, lambda *_: subnet, clamp, rotation)
    return Converted(block, [*pairs, *rotation_pairs(block, rotation)])


def rotation_pairs(block: Any, rotation: Rotation) -> list[Pair]:
    """Scale and offset of both."""
    matrix = rotation.rotation.to(rotation.offset)
    return [
        Pair(rotation.log_scale, block.global_scale, torch.sum),
        Pair(rotation.offset, block.global_offset, lambda grad: matrix @ grad.flatten()),
    ]


def glow(first: Coupling, second: Coupling, kind: type[GLOWCouplingBlock]) -> Converted:
    """Two couplings, of the first and of the second half, as one block of that kind."""
    clamp = _clamp_of(first)
    factors = (clamp.gain, 1.0)
    subnet1, pairs1 = _scaled_copy(second.net, factors)
    subnet2, pairs2 = _scaled_copy(first.net, factors)
    tanh = clamp.form == "tanh"
    block = kind(
        [first.in_shape],
        subnet_constructor=_in_turn(subnet1, subnet2),
        clamp=clamp.limit if tanh else clamp.limit * 2 / pi / TWO_OVER_PI,
        clamp_activation="TANH" if tanh else "ATAN",
        split_len=first.active_channels,
    )
    return Converted(block, pairs1 + pairs2)


def row_factors(clamp: SoftClamp) -> tuple[float, float]:
    """What an AllInOneBlock's raw log-scales and shifts are times ours."""
    return clamp.gain / TENTH, 1 / TENTH


def _set_rotation(block: Any, rotation: Rotation) -> None:
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


def _clamp_of(coupling: Coupling) -> SoftClamp:
    if not isinstance(coupling.univariate, Affine):
        raise ValueError(f"expected an affine coupling, got {coupling.univariate}")
    return coupling.univariate.clamp


def _scaled_copy(net: nn.Module, factors: tuple[float, float]) -> tuple[nn.Module, list[Pair]]:
    """A copy whose raw log-scales and shifts are ours times these factors."""
    copy = _plain(deepcopy(net))
    last = [m for m in copy.modules() if isinstance(m, nn.Conv2d | nn.Linear)][-1]
    assert last.bias is not None
    half = len(last.bias) // 2
    rows = torch.cat([last.bias.new_full((half,), factor) for factor in factors])
    own = {id(last.weight), id(last.bias)}
    pairs = []
    for ours, theirs in zip(net.parameters(), copy.parameters(), strict=True):
        if id(theirs) in own:
            factor = rows.view(-1, *[1] * (theirs.dim() - 1))
            with torch.no_grad():
                theirs.mul_(factor)
            pairs.append(Pair(ours, theirs, factor.mul))
        else:
            pairs.append(Pair(ours, theirs))
    return copy, pairs


class _Plain(nn.Module):
    """A conditioner's layers as FrEIA's users write them: the layers, and nothing about memory."""

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        self.layers = layers
        for layer in layers:
            if isinstance(layer, nn.ReLU):
                layer.inplace = False

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The layers' output; there is no context here."""
        out: Tensor = self.layers(x)
        return out


def _plain(net: nn.Module) -> nn.Module:
    if isinstance(net, ConvNet | MLP):
        return _Plain(net.layers)
    for name, child in net.named_children():
        setattr(net, name, _plain(child))
    return net


def _in_turn(*subnets: nn.Module) -> Callable[..., nn.Module]:
    left: Iterator[nn.Module] = iter(subnets)
    return lambda *_: next(left)
