"""Fixed rearrangements: they only move numbers, so log_det = 0 (Haar and DCT: a constant)."""

from __future__ import annotations

from math import log

import torch
from torch import Tensor

from couplings.core import Invertible, Shape, ShapeError, constant_log_det
from couplings.functional import haar, unhaar
from couplings.ops.dispatch import full_precision

__all__ = ["DCT", "Flatten", "Haar", "SpaceToDepth"]


class SpaceToDepth(Invertible):
    """(C, H, W) -> (C·fh·fw, H/fh, W/fw): each fh x fw patch becomes channels, row by row.

    Channel order is c0: top-left, top-right, bottom-left, bottom-right; c1: … . log_det = 0.

    Args:
        shape: (C, H, W).
        factor: patch size, one number or (fh, fw).

    Raises:
        ShapeError: not an image shape, or H, W not divisible by the factor.
    """

    def __init__(self, shape: Shape, factor: int | tuple[int, int] = 2) -> None:
        fh, fw = (factor, factor) if isinstance(factor, int) else factor
        c, h, w = _image(type(self).__name__, shape)
        if h % fh or w % fw:
            raise ShapeError(
                f"{type(self).__name__}: expected height and width divisible by {(fh, fw)}, "
                f"got shape {shape}; choose another factor, or pad the images first"
            )
        super().__init__(shape, (c * fh * fw, h // fh, w // fw))
        self.factor = (fh, fw)

    def _forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        (c, _, _), (_, h, w), (fh, fw) = self.in_shape, self.out_shape, self.factor
        patches = x.reshape(x.shape[0], c, h, fh, w, fw).permute(0, 1, 3, 5, 2, 4)
        return patches.reshape(x.shape[0], *self.out_shape), constant_log_det(x, 0.0)

    def _inverse(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        (c, _, _), (_, h, w), (fh, fw) = self.in_shape, self.out_shape, self.factor
        patches = z.reshape(z.shape[0], c, fh, fw, h, w).permute(0, 1, 4, 2, 5, 3)
        return patches.reshape(z.shape[0], *self.in_shape), constant_log_det(z, 0.0)


class Haar(Invertible):
    """Haar wavelets: (C, H, W) -> (4C, H/2, W/2), times a scale.

    Per channel: average, horizontal, vertical and diagonal difference, an orthonormal transform;
    log_det = dims · log(scale).

    Args:
        shape: (C, H, W) with even H and W.
        scale: factor on the orthonormal coefficients (FrEIA's `rebalance`).
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

    Args:
        shape: (C, H, W).
        scale: factor on all coefficients.
    """

    float64_buffers = ("rows", "columns")
    rows: Tensor
    columns: Tensor

    def __init__(self, shape: Shape, scale: float = 1.0) -> None:
        _, h, w = _image(type(self).__name__, shape)
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


class Flatten(Invertible):
    """(C, H, W) -> (C·H·W,), log_det = 0.

    Args:
        shape: any shape.
        channels_last: position-major order, so that the first C entries are all channels of
            position (0, 0): after a DCT the C constant terms.
    """

    def __init__(self, shape: Shape, channels_last: bool = False) -> None:
        super().__init__(shape, (int(torch.Size(shape).numel()),))
        self.channels_last = channels_last

    def _forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        moved = x.movedim(1, -1) if self.channels_last else x
        return moved.reshape(x.shape[0], *self.out_shape), constant_log_det(x, 0.0)

    def _inverse(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        channels, *rest = self.in_shape
        if self.channels_last:
            x = z.reshape(z.shape[0], *rest, channels).movedim(-1, 1)
        else:
            x = z.reshape(z.shape[0], *self.in_shape)
        return x, constant_log_det(z, 0.0)


def _both_sides(left: Tensor, x: Tensor, right: Tensor) -> Tensor:
    with full_precision(x):
        return left.to(x.dtype) @ x @ right.to(x.dtype)


def _dct_matrix(n: int) -> Tensor:
    k = torch.arange(n, dtype=torch.float64)
    matrix = torch.cos(torch.pi * torch.outer(k, k + 0.5) / n) * (2 / n) ** 0.5
    matrix[0] /= 2**0.5
    return matrix


def _image(name: str, shape: Shape) -> tuple[int, int, int]:
    if len(shape) != 3:
        raise ShapeError(f"{name}: expected an image shape (C, H, W), got {tuple(shape)}")
    return shape[0], shape[1], shape[2]
