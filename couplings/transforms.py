"""Orthonormal transforms of images, times a scale: Haar wavelets and the cosine transform."""

from math import log

import torch
from torch import Tensor

from couplings.core import Invertible, Shape, constant_log_det
from couplings.layers import SpaceToDepth, image_shape
from couplings.ops.dispatch import full_precision
from couplings.ops.haar import haar, unhaar

__all__ = ["DCT", "Haar"]


class Haar(Invertible):
    """Haar wavelets: (C, H, W) -> (4C, H/2, W/2), times a scale.

    Per channel: average, horizontal, vertical and diagonal difference, an orthonormal transform of
    even H and W. The scale is FrEIA's `rebalance`; log_det = dims · log(scale).
    """

    def __init__(self, shape: Shape, scale: float = 1.0) -> None:
        super().__init__(shape, SpaceToDepth(shape).out_shape)
        self.scale = scale

    def _forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return haar(x, self.scale), constant_log_det(x, self.dims * log(self.scale))

    def _inverse(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return unhaar(z, self.scale), constant_log_det(z, -self.dims * log(self.scale))


class DCT(Invertible):
    """Orthonormal type-II cosine transform over height and width, times a scale.

        z[k, l] = scale · Σ_ij A_H[k, i] · x[i, j] · A_W[l, j],   log_det = dims · log(scale)

    with A_N[k, i] = sqrt((2 - δ_k0)/N) · cos(π (i + ½) k / N). IB-INN's own layer is not
    orthonormal and reports only an approximate determinant; its scale is 0.5.
    """

    float64_buffers = ("rows", "columns")
    rows: Tensor
    columns: Tensor

    def __init__(self, shape: Shape, scale: float = 1.0) -> None:
        _, h, w = image_shape(type(self).__name__, shape)
        super().__init__(shape)
        self.scale = scale
        self.register_buffer("rows", _dct_matrix(h), persistent=False)
        self.register_buffer("columns", _dct_matrix(w), persistent=False)

    def _forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        z = self.scale * _both_sides(self.rows, x, self.columns.T)
        return z, constant_log_det(x, self.dims * log(self.scale))

    def _inverse(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        x = _both_sides(self.rows.T, z, self.columns) / self.scale
        return x, constant_log_det(z, -self.dims * log(self.scale))


def _both_sides(left: Tensor, x: Tensor, right: Tensor) -> Tensor:
    with full_precision(x):
        return left.to(x.dtype) @ x @ right.to(x.dtype)


def _dct_matrix(n: int) -> Tensor:
    k = torch.arange(n, dtype=torch.float64)
    matrix = torch.cos(torch.pi * torch.outer(k, k + 0.5) / n) * (2 / n) ** 0.5
    matrix[0] /= 2**0.5
    return matrix
