"""The first, fitted stage of an invertible encoder: from data units to about unit variance.

It is part of the map: its log-determinant counts, so densities stay in the data's own units.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from couplings import ElementwiseAffine, Invertible, PiecewiseLinear
from couplings.core import Shape
from flowclf.nn.marginals import chunks, fit_marginals, level_knots
from flowclf.settings import Section

__all__ = ["PreprocessSettings", "fit_preprocess", "make_preprocess"]

Per = Literal["dim", "channel", "range"]


class PreprocessSettings(Section):
    """The fitted first stage of the encoder."""

    # Fraction of the way from standardised to normal marginals; images only. More of it: better
    # bits/dim, but dequantisation noise grows in the pixels that hardly vary.
    marginal: Annotated[float, Field(ge=0, le=1)] = 0.3
    floor: Annotated[float, Field(gt=0, le=1)] = 0.1  # least std of a pixel, of the largest
    # One mean and scale a dimension or a channel; "range": grey levels to ±1, tables untouched.
    per: Per = "dim"


def make_preprocess(shape: Shape, levels: int | None, marginal: float) -> Invertible:
    """An unfitted first stage: grey levels to [-1, 1]; tables as they are.

    Args:
        shape: shape of one sample.
        levels: grey levels of an image; None for a table.
        marginal: 0: standardisation; above 0, for images: a monotone piecewise-linear map per
            pixel that takes this fraction of the way to the one making each marginal normal.
    """
    half = torch.tensor((levels - 1) / 2 if levels else 1.0)
    if not marginal or levels is None:
        return ElementwiseAffine(shape, half if levels else torch.tensor(0.0), half)
    knots = level_knots(levels)
    dims = int(torch.Size(shape).numel())
    return PiecewiseLinear(shape, knots, (knots / half - 1).expand(dims, -1))


def fit_preprocess(
    preprocess: Invertible, x: Tensor, *, marginal: float, floor: float, per: Per
) -> None:
    """Fit the stage of `make_preprocess` to training data, in place.

    Args:
        preprocess: the stage.
        x: training data (N, *shape); integers are taken as grey levels.
        marginal: as in `make_preprocess`.
        floor: least standard deviation of an image's pixel, as a fraction of the largest.
        per: one shift and scale a "dim", or a "channel"; "range": those of the unfitted stage.
    """
    if per == "range" and isinstance(preprocess, ElementwiseAffine):
        return
    mean, std = _moments(x, floor, per)
    if isinstance(preprocess, ElementwiseAffine):
        preprocess.set(mean, std)
    elif isinstance(preprocess, PiecewiseLinear):
        knots = preprocess.knots
        if per == "range":
            mean = std = (knots[-1:] - 1) / 2
        mean, std = (v.expand(preprocess.in_shape).reshape(-1, 1) for v in (mean, std))
        standardised = (knots - mean) / std
        normal = fit_marginals(x.flatten(1), knots)
        preprocess.set((1 - marginal) * standardised + marginal * normal)


def _moments(x: Tensor, floor: float, per: str) -> tuple[Tensor, Tensor]:
    """Mean and floored standard deviation of each dimension or channel, (C, H, W) or (C, 1, 1)."""
    mean, variance = _moments_per_dim(x)
    if per == "channel" and mean.dim() > 1:
        axes = list(range(1, mean.dim()))
        centre = mean.mean(axes, keepdim=True)
        variance = (variance + (mean - centre).square()).mean(axes, keepdim=True)
        mean = centre
    std = variance.sqrt()
    if x.is_floating_point():
        # Features have units of their own: none is small beside another, only constant.
        return mean, torch.where(std > 0, std, 1.0)
    largest = float(std.max())
    return mean, std.clamp_min(floor * largest if largest > 0 else 1.0)


def _moments_per_dim(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance over the first dimension, float64; integers at mid-level."""
    middle = 0.0 if x.is_floating_point() else 0.5
    parts = chunks(x)
    zero = torch.zeros(x.shape[1:], dtype=torch.float64)
    mean = sum((c.sum(0, dtype=torch.float64) for c in parts), zero) / len(x)
    square = sum(((c.double() - mean).square().sum(0) for c in parts), zero) / len(x)
    return mean + middle, square
