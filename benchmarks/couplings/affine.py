"""The affine coupling, alone and with the rotation that follows it in a network.

    y = (x1, x2 · exp(s) + t),   s = 0.7 · tanh(0.1 · raw),   log_det = Σ s,   z = e^g (R y) + o

Given are x (B, C, H, W) and the subnetwork's output (raw, t), so that arithmetic is all there is.
The peers compute the same in the way their authors wrote it: what one does on top (gathering by
index, a second scaling, interleaved parameters) is its own and is timed; what it merely lays out
otherwise is prepared for it.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from math import log
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.couplings.case import Case, Options, Provider, Tensors, compiled, from_peers
from couplings import Affine, Chain, Coupling, Rotation, SoftClamp
from couplings.core import Shape
from couplings.functional import affine_couple, affine_uncouple
from couplings.ops import reference

CLAMP = SoftClamp(limit=0.7, gain=0.1)
SHAPES = ((128, 6, 32, 32), (128, 24, 16, 16), (128, 96, 8, 8))
QUICK = ((2, 6, 4, 4),)
# bfloat16 has 8 bits, and peers round at every step of the way.
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 5e-2}


def affine_cases(options: Options) -> Iterator[Case]:
    """Make them one at a time."""
    for shape in QUICK if options.quick else SHAPES:
        for dtype in TOLERANCES:
            providers = _coupling_providers(shape[1:], options)
            if dtype != torch.float32:
                providers = [each for each in providers if not each.compiled]
            yield _case("affine coupling", shape, dtype, providers, options.device)
        providers = _block_providers(shape[1:], options)
        yield _case("affine coupling + rotation", shape, torch.float32, providers, options.device)


def _case(
    name: str, shape: Shape, dtype: torch.dtype, providers: Sequence[Provider], device: torch.device
) -> Case:
    """Draw x, and (raw, t) as the subnetwork gives them: raw log-scales of a few units."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator)
    raw, shift = torch.randn(shape, generator=generator).chunk(2, dim=1)
    given = x, torch.cat((5 * raw, shift), dim=1)
    inputs = tuple(t.to(device, dtype).requires_grad_() for t in given)
    tolerance = TOLERANCES[dtype]
    return Case("couplings", name, inputs, providers, tolerance=tolerance, essential=True)


class Given(nn.Module):
    """A subnetwork whose output is given."""

    output: Tensor

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Return what is given."""
        return self.output


def _coupling_providers(shape: Shape, options: Options) -> list[Provider]:
    """Couple (C, H, W), C even, by x and (raw, t)."""
    ours = Provider.two_way("couplings", _couple)
    formula = Provider.two_way("couplings.ops.reference", _formula)
    makers = {"FrEIA": _freia, "nflows": _nflows, "normflows": _normflows, "zuko": _zuko}
    peers = from_peers({p: partial(make, shape, options.device) for p, make in makers.items()})
    freia = [peer for peer in peers if peer.name == "FrEIA"]
    return [ours, formula, *peers, *compiled([ours, *freia], options.compiles)]


def _couple(x: Tensor, parameters: Tensor, inverse: bool) -> Tensors:
    passive, active = x.chunk(2, dim=1)
    function = affine_uncouple if inverse else affine_couple
    return function(active, parameters, CLAMP, passive)


def _formula(x: Tensor, parameters: Tensor, inverse: bool) -> Tensors:
    passive, active = x.chunk(2, dim=1)
    given = parameters, passive, False, *CLAMP.arguments, inverse
    return reference.affine_couple(active, *given)[:2]


def _block_providers(shape: Shape, options: Options) -> list[Provider]:
    """Couple and rotate, scale and offset differentiated too."""
    generator = torch.Generator().manual_seed(0)
    given = Given()
    rotation = Rotation(shape, generator, scale=0.75)
    nn.init.normal_(rotation.offset, generator=generator)
    chain = Chain([Coupling(shape, lambda *_: given, Affine(CLAMP)), rotation]).to(options.device)

    def run(x: Tensor, parameters: Tensor, inverse: bool) -> Any:
        given.output = parameters
        return (chain.inverse if inverse else chain)(x)

    def common(log_scale: Tensor, offset: Tensor) -> Tensors:
        return log_scale.sum(), offset

    weights = [rotation.log_scale, rotation.offset]
    ours = Provider.two_way("couplings", run, weights=weights, common=common)
    peers = from_peers({"FrEIA": lambda: _freia_block(shape, rotation)})
    return [ours, *peers, *compiled([ours, *peers], options.compiles)]


def _freia(shape: Shape, device: torch.device) -> Provider:
    """Run the lines of AllInOneBlock.forward around its `_affine`, without the permutation."""
    from benchmarks.couplings.freia import all_in_one

    block = all_in_one(shape, lambda *_: Given(), CLAMP, None)

    def run(x: Tensor, parameters: Tensor, inverse: bool) -> Tensors:
        x1, x2 = torch.split(x, block.splits, dim=1)
        x2, log_det = block._affine(x2, parameters, rev=inverse)
        return torch.cat((x1, x2), 1), log_det

    return Provider.two_way("FrEIA", run, relayout=_rescaled)


def _freia_block(shape: Shape, rotation: Rotation) -> Provider:
    """Run an AllInOneBlock: coupling, global scale and offset, soft permutation."""
    from benchmarks.couplings.freia import all_in_one, paired, rotation_pairs

    given = Given()
    block = all_in_one(shape, lambda *_: given, CLAMP, rotation)
    pairs = rotation_pairs(block, rotation)

    def run(x: Tensor, parameters: Tensor, inverse: bool) -> Tensors:
        given.output = parameters
        (out,), log_det = block([x], rev=inverse)
        return out, log_det

    return Provider.two_way("FrEIA", run, relayout=_rescaled, **paired(pairs))


def _rescaled(x: Tensor, parameters: Tensor) -> Tensors:
    """Undo that AllInOneBlock takes a tenth of its subnetwork's output, of the shift too."""
    from benchmarks.couplings.freia import row_factors

    halves = zip(row_factors(CLAMP), parameters.chunk(2, dim=1), strict=True)
    return x, torch.cat([factor * half for factor, half in halves], dim=1)


def _nflows(shape: Shape, device: torch.device) -> Provider:
    """Run AffineCouplingTransform, our clamp in the method that it has for that; shifts first."""
    from nflows.transforms import AffineCouplingTransform

    class Clamped(AffineCouplingTransform):  # type: ignore[misc]  # nflows is not annotated
        def _scale_and_shift(self, transform_params: Tensor) -> Tensors:
            shift, raw = transform_params.chunk(2, dim=1)
            return (CLAMP.limit * torch.tanh(CLAMP.gain * raw)).exp(), shift

    half = shape[0] // 2
    transform = Clamped([0] * half + [1] * half, lambda *_: Given()).to(device)

    def run(x: Tensor, parameters: Tensor, inverse: bool) -> Any:
        transform.transform_net.output = parameters
        return (transform.inverse if inverse else transform.forward)(x)

    def swapped(x: Tensor, parameters: Tensor) -> Tensors:
        return x, torch.cat(parameters.chunk(2, dim=1)[::-1], dim=1)

    return Provider.two_way("nflows", run, relayout=swapped)


def _normflows(shape: Shape, device: torch.device) -> Provider:
    """Run AffineCouplingBlock with scale_map "exp": the clamp belongs to the network."""
    from normflows.flows import AffineCouplingBlock

    class Clamped(Given):
        def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
            shift, raw = self.output[:, 0::2], self.output[:, 1::2]
            log_scale = CLAMP.limit * torch.tanh(CLAMP.gain * raw)
            return torch.stack((shift, log_scale), dim=2).flatten(1, 2)

    given = Clamped()
    block = AffineCouplingBlock(given, scale_map="exp")

    def run(x: Tensor, parameters: Tensor, inverse: bool) -> Any:
        given.output = parameters
        return (block.inverse if inverse else block.forward)(x)

    def interleaved(x: Tensor, parameters: Tensor) -> Tensors:
        return x, torch.stack(parameters.chunk(2, dim=1)[::-1], dim=2).flatten(1, 2)

    return Provider.two_way("normflows", run, relayout=interleaved)


def _zuko(shape: Shape, device: torch.device) -> Provider:
    """Run CouplingTransform with MonotonicAffineTransform, whose clamp costs as much as ours.

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
        s = CLAMP(raw)
        return x, shift.flatten(1), (s / (1 - (s / log(1e-3)).abs())).flatten(1)

    return Provider.two_way("zuko", run, relayout=unclamped)
