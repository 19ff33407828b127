"""Piecewise-linear monotone maps with given knots: a marginal's shape, taken out exactly."""

from __future__ import annotations

import torch
from torch import Tensor

from couplings.core import Invertible, Shape, ShapeError, sum_log_det

__all__ = ["PiecewiseLinear"]


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
