"""The affine coupling, alone and with the rotation that follows it in a network.

    y = (x1, x2 · exp(s) + t),   s = 0.7 · tanh(0.1 · raw),   log_det = Σ s,   z = e^g (R y) + o

Given are x (B, C, H, W) and the subnetwork's output (raw, t), so that arithmetic is all there is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from benchmarks.couplings.affine_peers import coupling_peers, whole_block
from benchmarks.couplings.case import Case, Options, Provider, Tensors
from benchmarks.couplings.compiled import compiled
from benchmarks.couplings.peers import from_peers
from couplings import Affine, Chain, Coupling, Rotation, SoftClamp
from couplings.core import Shape
from couplings.functional import affine_couple, affine_uncouple
from couplings.ops import reference

__all__ = ["CLAMP", "affine_cases"]

CLAMP = SoftClamp(limit=0.7, gain=0.1)
SHAPES = ((128, 6, 32, 32), (128, 24, 16, 16), (128, 96, 8, 8))
QUICK = ((2, 6, 4, 4),)
# bfloat16 has 8 bits, and peers round at every step of the way.
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 5e-2}


def affine_cases(options: Options) -> Iterator[Case]:
    """All of them, made one at a time."""
    for shape in QUICK if options.quick else SHAPES:
        for dtype in TOLERANCES:
            inputs = _inputs(shape, dtype, options.device)
            providers = _coupling_providers(shape[1:], options)
            if dtype != torch.float32:
                providers = [provider for provider in providers if not provider.compiled]
            yield _case("affine coupling", inputs, providers)
        inputs = _inputs(shape, torch.float32, options.device)
        yield _case("affine coupling + rotation", inputs, _block_providers(shape[1:], options))


def _case(name: str, inputs: Tensors, providers: Sequence[Provider]) -> Case:
    tolerance = TOLERANCES[inputs[0].dtype]
    return Case("couplings", name, inputs, providers, tolerance=tolerance, essential=True)


def _inputs(shape: Shape, dtype: torch.dtype, device: torch.device) -> Tensors:
    """x, and (raw, t) as the subnetwork gives them: raw log-scales of a few units."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator)
    raw, shift = torch.randn(shape, generator=generator).chunk(2, dim=1)
    parameters = torch.cat((5 * raw, shift), dim=1)
    return tuple(t.to(device, dtype).requires_grad_() for t in (x, parameters))


def _coupling_providers(shape: Shape, options: Options) -> list[Provider]:
    def plain(x: Tensor, parameters: Tensor, inverse: bool) -> Tensors:
        passive, active = x.chunk(2, dim=1)
        return reference.affine_couple(
            active, parameters, passive, False, *CLAMP.arguments, inverse
        )[:2]

    ours = Provider("couplings", _couple, _uncouple)
    formula = Provider(
        "couplings.ops.reference",
        lambda x, parameters: plain(x, parameters, False),
        lambda y, parameters: plain(y, parameters, True),
    )
    peers = from_peers(coupling_peers(shape, CLAMP, options.device))
    freia = [peer for peer in peers if peer.name == "FrEIA"]
    return [ours, formula, *peers, *compiled([ours, *freia], options.compiles)]


def _couple(x: Tensor, parameters: Tensor) -> Tensors:
    passive, active = x.chunk(2, dim=1)
    return affine_couple(active, parameters, CLAMP, passive)


def _uncouple(y: Tensor, parameters: Tensor) -> Tensors:
    passive, active = y.chunk(2, dim=1)
    return affine_uncouple(active, parameters, CLAMP, passive)


class _Given(nn.Module):
    """A subnetwork whose output is given."""

    output: Tensor

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.output


def _block_providers(shape: Shape, options: Options) -> list[Provider]:
    """Coupling and rotation, scale and offset differentiated too."""
    generator = torch.Generator().manual_seed(0)
    given = _Given()
    rotation = Rotation(shape, generator, scale=0.75)
    nn.init.normal_(rotation.offset, generator=generator)
    chain = Chain([Coupling(shape, lambda *_: given, Affine(CLAMP)), rotation]).to(options.device)

    def run(function: str, x: Tensor, parameters: Tensor) -> Tensors:
        given.output = parameters
        z, log_det = getattr(chain, function)(x)
        return z, log_det

    ours = Provider(
        "couplings",
        lambda x, parameters: run("forward", x, parameters),
        lambda z, parameters: run("inverse", z, parameters),
        weights=[rotation.log_scale, rotation.offset],
        common=lambda log_scale, offset: (log_scale.sum(), offset),
    )
    peers = from_peers({"FrEIA": lambda: whole_block(shape, CLAMP, rotation)})
    return [ours, *peers, *compiled([ours, *peers], options.compiles)]
