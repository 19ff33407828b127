"""The peers' affine couplings, each on the mathematics of ours and in the way its authors wrote it.

What a peer does on top (gathering by index, a second scaling, interleaved parameters) is its own
and is timed; what it merely lays out otherwise is prepared for it.
"""

from __future__ import annotations

from collections.abc import Callable
from math import log
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.couplings.case import Provider, Tensors
from couplings import Rotation, SoftClamp
from couplings.core import Shape

__all__ = ["coupling_peers", "whole_block"]


def coupling_peers(
    shape: Shape, clamp: SoftClamp, device: torch.device
) -> dict[str, Callable[[], Provider]]:
    """Makers of the coupling of (C, H, W), C even, from x and (raw, t)."""
    return {
        "FrEIA": lambda: _freia(shape, clamp),
        "nflows": lambda: _nflows(shape, clamp, device),
        "normflows": lambda: _normflows(clamp),
        "zuko": lambda: _zuko(shape, clamp, device),
    }


def whole_block(shape: Shape, clamp: SoftClamp, rotation: Rotation) -> Provider:
    """FrEIA's AllInOneBlock: coupling, global scale and offset, soft permutation."""
    from benchmarks.couplings.freia_blocks import all_in_one, rotation_pairs

    given = _Given()
    block = all_in_one(shape, lambda *_: given, clamp, rotation)
    pairs = rotation_pairs(block, rotation)

    def run(x: Tensor, parameters: Tensor, rev: bool) -> Tensors:
        given.output = parameters
        (out,), log_det = block([x], rev=rev)
        return out, log_det

    def common(*gradients: Tensor) -> Tensors:
        return tuple(p.read(g) for p, g in zip(pairs, gradients, strict=True))

    return Provider(
        "FrEIA",
        lambda x, parameters: run(x, parameters, False),
        lambda z, parameters: run(z, parameters, True),
        relayout=_rescaled(clamp),
        weights=[pair.theirs for pair in pairs],
        common=common,
    )


class _Given(nn.Module):
    """A subnetwork whose output is given."""

    output: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return self.output


def _rescaled(clamp: SoftClamp) -> Callable[..., Tensors]:
    """AllInOneBlock takes a tenth of all that the subnetwork says, of the shift too."""
    from benchmarks.couplings.freia_blocks import row_factors

    def relayout(x: Tensor, parameters: Tensor) -> Tensors:
        halves = zip(row_factors(clamp), parameters.chunk(2, dim=1), strict=True)
        return x, torch.cat([factor * half for factor, half in halves], dim=1)

    return relayout


def _freia(shape: Shape, clamp: SoftClamp) -> Provider:
    """The lines of AllInOneBlock.forward around its `_affine`, without the permutation."""
    from benchmarks.couplings.freia_blocks import all_in_one

    block = all_in_one(shape, lambda *_: _Given(), clamp, None)

    def run(x: Tensor, parameters: Tensor, rev: bool) -> Tensors:
        x1, x2 = torch.split(x, block.splits, dim=1)
        x2, log_det = block._affine(x2, parameters, rev=rev)
        return torch.cat((x1, x2), 1), log_det

    return Provider(
        "FrEIA",
        lambda x, parameters: run(x, parameters, False),
        lambda y, parameters: run(y, parameters, True),
        relayout=_rescaled(clamp),
    )


def _nflows(shape: Shape, clamp: SoftClamp, device: torch.device) -> Provider:
    """AffineCouplingTransform with our clamp in the method that it has for that; shifts first."""
    from nflows.transforms import AffineCouplingTransform

    class Clamped(AffineCouplingTransform):  # type: ignore[misc]  # nflows is not annotated
        def _scale_and_shift(self, transform_params: Tensor) -> Tensors:
            shift, raw = transform_params.chunk(2, dim=1)
            return (clamp.limit * torch.tanh(clamp.gain * raw)).exp(), shift

    class Given(_Given):
        def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
            return self.output

    half = shape[0] // 2
    transform = Clamped([0] * half + [1] * half, lambda *_: Given()).to(device)

    def run(function: Callable[..., Tensors], x: Tensor, parameters: Tensor) -> Tensors:
        transform.transform_net.output = parameters
        return function(x)

    def swapped(x: Tensor, parameters: Tensor) -> Tensors:
        raw, shift = parameters.chunk(2, dim=1)
        return x, torch.cat((shift, raw), dim=1)

    return Provider(
        "nflows",
        lambda x, parameters: run(transform.forward, x, parameters),
        lambda y, parameters: run(transform.inverse, y, parameters),
        relayout=swapped,
    )


def _normflows(clamp: SoftClamp) -> Provider:
    """AffineCouplingBlock with scale_map "exp": the clamp belongs to the network."""
    from normflows.flows import AffineCouplingBlock

    class Given(_Given):
        def forward(self, x: Tensor) -> Tensor:
            shift, raw = self.output[:, 0::2], self.output[:, 1::2]
            log_scale = clamp.limit * torch.tanh(clamp.gain * raw)
            return torch.stack((shift, log_scale), dim=2).flatten(1, 2)

    given = Given()
    block = AffineCouplingBlock(given, scale_map="exp")

    def run(function: Callable[..., Tensors], x: Tensor, parameters: Tensor) -> Tensors:
        given.output = parameters
        return function(x)

    def interleaved(x: Tensor, parameters: Tensor) -> Tensors:
        raw, shift = parameters.chunk(2, dim=1)
        return x, torch.stack((shift, raw), dim=2).flatten(1, 2)

    return Provider(
        "normflows",
        lambda x, parameters: run(block.forward, x, parameters),
        lambda y, parameters: run(block.inverse, y, parameters),
        relayout=interleaved,
    )


def _zuko(shape: Shape, clamp: SoftClamp, device: torch.device) -> Provider:
    """CouplingTransform with MonotonicAffineTransform, whose own clamp costs as much as ours.

    Its s = a / (1 + |a / log 0.001|) is given the a that makes it ours. It works on flat features,
    of which the first half is constant.
    """
    from zuko.transforms import CouplingTransform, DependentTransform, MonotonicAffineTransform

    size = torch.Size(shape).numel()
    given: list[Tensor] = []

    def meta(_: Tensor) -> Any:
        return DependentTransform(MonotonicAffineTransform(*given), 1)

    transform = CouplingTransform(meta, torch.arange(size, device=device) < size // 2)

    def run(x: Tensor, shift: Tensor, scale: Tensor, inverse: bool) -> Tensors:
        given[:] = shift, scale
        y, log_det = (transform.inv if inverse else transform).call_and_ladj(x.flatten(1))
        return y.view_as(x), log_det

    def unclamped(x: Tensor, parameters: Tensor) -> Tensors:
        raw, shift = parameters.chunk(2, dim=1)
        s = clamp(raw)
        return x, shift.flatten(1), (s / (1 - (s / log(1e-3)).abs())).flatten(1)

    return Provider(
        "zuko",
        lambda x, shift, scale: run(x, shift, scale, False),
        lambda y, shift, scale: run(y, shift, scale, True),
        relayout=unclamped,
    )
