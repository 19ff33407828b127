"""The rational-quadratic spline of 8 bins with linear tails, for half of a flat MNIST image.

All parametrise bins by a softmax with a least size of 0.001, and inner slopes by a softplus with a
least slope of 0.001, but for zuko: it clips raw numbers softly and takes softmax and exponential.
It is given the raw numbers of which it makes the same bins and slopes. Peers keep a number's
parameters side by side, we keep each parameter of all numbers; both get theirs as they like it.
"""

from collections.abc import Iterator
from functools import partial
from importlib import import_module
from math import log
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from benchmarks.couplings.case import Case, Options, Provider, Tensors, compiled, from_peers
from couplings.functional import spline_couple, spline_uncouple
from couplings.ops import reference_spline

BINS, BOUND = 8, 3.0
SIZE, QUICK = (512, 392), (4, 3)
# Slopes of nearly 0.001 and bins as narrow lose digits, each package others.
TOLERANCE = 1e-3
DURKAN = {
    "nflows": "nflows.transforms.splines.rational_quadratic",
    "normflows": "normflows.utils.splines",
}


def spline_cases(options: Options) -> Iterator[Case]:
    """Make the one size; a twentieth of the numbers lies in the tails."""
    generator = torch.Generator().manual_seed(0)
    batch, features = QUICK if options.quick else SIZE
    x = BOUND / 2 * torch.randn(batch, features, generator=generator)
    parameters = torch.randn(batch, (3 * BINS - 1) * features, generator=generator)
    inputs = tuple(t.to(options.device).requires_grad_() for t in (x, parameters))
    ours = Provider.two_way("couplings", _couple)
    formula = Provider.two_way("couplings.ops.reference", _formula)
    peers = from_peers({name: partial(_durkan, name, module) for name, module in DURKAN.items()})
    peers += from_peers({"zuko": _zuko})
    providers = [ours, formula, *peers, *compiled([ours], options.compiles)]
    given = "couplings", "spline coupling", inputs, providers
    yield Case(*given, tolerance=TOLERANCE, essential=True)


def _couple(x: Tensor, parameters: Tensor, inverse: bool) -> Tensors:
    return (spline_uncouple if inverse else spline_couple)(x, parameters, BINS, BOUND)


def _formula(x: Tensor, parameters: Tensor, inverse: bool) -> Tensors:
    return reference_spline.spline_couple(x, parameters, None, False, BINS, BOUND, inverse)


def _durkan(name: str, module: str) -> Provider:
    """Run the spline's authors' own code, which normflows has adopted."""
    spline = import_module(module).unconstrained_rational_quadratic_spline

    def run(x: Tensor, *parameters: Tensor, inverse: bool) -> Tensors:
        y, log_slope = spline(x, *parameters, inverse=inverse, tails="linear", tail_bound=BOUND)
        return y, log_slope.sum(1)

    return Provider.two_way(name, run, relayout=_side_by_side)


def _side_by_side(x: Tensor, parameters: Tensor) -> Tensors:
    """Return widths, heights (B, A, K) and slopes (B, A, K-1); a raw slope of 0 is 1 with us."""
    raw = parameters.unflatten(1, (-1, x.shape[1])).movedim(1, -1)
    widths, heights, slopes = raw.split((BINS, BINS, BINS - 1), dim=-1)
    slopes = slopes + reference_spline.UNIT_SLOPE
    return x, widths.contiguous(), heights.contiguous(), slopes.contiguous()


def _zuko() -> Provider:
    from zuko.transforms import MonotonicRQSTransform

    def run(x: Tensor, *parameters: Tensor, inverse: bool) -> Tensors:
        transform: Any = MonotonicRQSTransform(*parameters, bound=BOUND)
        y, log_slope = (transform.inv if inverse else transform).call_and_ladj(x)
        return y, log_slope.sum(1)

    return Provider.two_way("zuko", run, relayout=_unclipped)


def _unclipped(x: Tensor, parameters: Tensor) -> Tensors:
    """Invert zuko's clip to the a that give ours.

    It clips a to a / (1 + |2a / log 0.001|), slopes half as much.
    """
    _, widths, heights, slopes = _side_by_side(x, parameters)
    least = reference_spline.MIN_SIZE
    sizes = [least + (1 - least * BINS) * raw.softmax(-1) for raw in (widths, heights)]
    log_sizes = [_centred(size.log()) for size in sizes]
    log_slopes = (reference_spline.MIN_SLOPE + softplus(slopes)).log()
    clips = [v / (1 - (2 * v / log(1e-3)).abs()) for v in log_sizes]
    return x, *clips, log_slopes / (1 - (log_slopes / log(1e-3)).abs())


def _centred(logs: Tensor) -> Tensor:
    """Centre their range: none is then beyond ½ |log 0.001|, where the clip ends."""
    fixed = logs.detach()  # a softmax sees no shift
    return logs - (fixed.amax(-1, keepdim=True) + fixed.amin(-1, keepdim=True)) / 2
