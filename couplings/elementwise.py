"""Monotone maps of each number by itself: piecewise linear with given knots, and logistic."""

from __future__ import annotations

from math import log

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from couplings.core import Invertible, Shape, ShapeError, sum_log_det

__all__ = ["Logistic", "PiecewiseLinear"]


class PiecewiseLinear(Invertible):
    """z_d = the line through (knots_m, values_dm), m = 1…M, for each dimension d; linear tails.

        log_det = Σ_d log slope_d(x_d)

    The knots are fixed numbers, not learned. The end slopes go on beyond the last knots, so the map
    is a bijection of the real line.

    Args:
        shape: shape of one sample, D numbers in all.
        knots: (M,) strictly increasing, shared by all dimensions.
        values: (D, M) strictly increasing along M.

    Raises:
        ShapeError: `knots` or `values` of another shape.
        ValueError: numbers that do not increase.
    """

    # Slopes are differences of values: in float32 the two directions would drift apart.
    float64_buffers = ("knots", "values")
    knots: Tensor
    values: Tensor

    def __init__(self, shape: Shape, knots: Tensor, values: Tensor) -> None:
        super().__init__(shape)
        self.register_buffer("knots", knots.double())
        self.register_buffer("values", values.double())
        self.set(values)

    def set(self, values: Tensor) -> None:
        """Replace the values (D, M) at the knots."""
        expected = (self.dims, len(self.knots))
        if values.shape != expected or self.knots.dim() != 1 or len(self.knots) < 2:
            raise ShapeError(
                f"PiecewiseLinear: expected values of shape {expected} for at least 2 knots, "
                f"got {tuple(values.shape)} for knots {tuple(self.knots.shape)}"
            )
        if not bool((self.knots.diff() > 0).all() and (values.diff(dim=1) > 0).all()):
            raise ValueError("PiecewiseLinear: expected strictly increasing knots and values")
        # Memory of its own: a state_dict cannot be loaded into an expanded tensor.
        self.values = values.to(self.values).clone()

    def _forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        flat = x.flatten(1).contiguous()
        piece = torch.bucketize(flat, self.knots[1:-1].to(x.dtype))
        start, value, slope = self._pieces(piece, x.dtype)
        z = value + (flat - start) * slope
        return z.view_as(x), sum_log_det(slope.log())

    def _inverse(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        flat = z.flatten(1)
        boundaries = self.values[:, 1:-1].to(z.dtype).contiguous()
        piece = torch.searchsorted(boundaries, flat.T.contiguous()).T
        start, value, slope = self._pieces(piece, z.dtype)
        x = start + (flat - value) / slope
        return x.view_as(z), -sum_log_det(slope.log())

    def _pieces(self, piece: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        slopes = self.values.diff(dim=1) / self.knots.diff()
        start = self.knots.to(dtype)[piece]
        value = self.values.to(dtype).T.gather(0, piece)
        slope = slopes.to(dtype).T.gather(0, piece)
        return start, value, slope


class Logistic(Invertible):
    """z_d = low + (high - low) σ(x_d): the real line onto an open interval.

        log_det = Σ_d [ log(high - low) + log σ(x_d) + log σ(-x_d) ]

    A standard logistic x becomes uniform.

    Args:
        shape: shape of one sample.
        low, high: ends of the interval, which the inverse takes to ∓infinity, and what lies outside
            to NaN.

    Raises:
        ValueError: low is not below high.
    """

    def __init__(self, shape: Shape, low: float = 0.0, high: float = 1.0) -> None:
        super().__init__(shape)
        if not low < high:
            raise ValueError(f"Logistic: expected low < high, got {low} and {high}")
        self.low, self.high = low, high

    def _forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return self.low + (self.high - self.low) * x.sigmoid(), self._log_det(x)

    def _inverse(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        x = (z - self.low).log() - (self.high - z).log()
        return x, -self._log_det(x)

    def _log_det(self, x: Tensor) -> Tensor:
        return sum_log_det(logsigmoid(x) + logsigmoid(-x) + log(self.high - self.low))
