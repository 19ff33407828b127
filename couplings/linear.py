"""Fixed linear mixing of channels, and learned or fitted elementwise scales."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from couplings.core import Invertible, Shape, ShapeError, constant_log_det
from couplings.functional import rotate, unrotate

__all__ = ["ElementwiseAffine", "Permutation", "Rotation", "random_rotation"]


class Rotation(Invertible):
    """Fixed random rotation of the channels, then a learned scale and offset per channel.

        z = exp(g) · (R x) + o,   log_det = H · W · Σ_c g_c

    R in SO(C) is drawn in float64 and kept so: in a module cast to double the map is exact.
    IB-INN calls this the soft permutation and its ActNorm-like scaling.

    Args:
        shape: (C, H, W) or (F,); the first dimension is rotated.
        generator: where R comes from.
        scale: initial exp(g).
    """

    float64_buffers = ("rotation",)
    rotation: Tensor

    def __init__(self, shape: Shape, generator: torch.Generator, scale: float = 1.0) -> None:
        super().__init__(shape)
        self.register_buffer("rotation", random_rotation(shape[0], generator))
        self.log_scale = nn.Parameter(torch.full((shape[0],), scale).log())
        self.offset = nn.Parameter(torch.zeros(shape[0]))

    def _forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return rotate(x, self.rotation, self.log_scale, self.offset)

    def _inverse(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return unrotate(z, self.rotation, self.log_scale, self.offset)


class Permutation(Invertible):
    """Fixed random permutation of the channels (or features), log_det = 0."""

    order: Tensor
    inverse_order: Tensor

    def __init__(self, shape: Shape, generator: torch.Generator) -> None:
        super().__init__(shape)
        order = torch.randperm(shape[0], generator=generator)
        self.register_buffer("order", order)
        self.register_buffer("inverse_order", order.argsort())

    def _forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return x.index_select(1, self.order), constant_log_det(x, 0.0)

    def _inverse(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return z.index_select(1, self.inverse_order), constant_log_det(z, 0.0)


class ElementwiseAffine(Invertible):
    """z = (x - shift) / scale with fixed numbers, log_det = -Σ log scale: standardisation.

    Args:
        shape: shape of one sample.
        shift: broadcastable to `shape`.
        scale: broadcastable to `shape`, positive.

    Raises:
        ValueError: a scale that is not positive and finite.
        ShapeError: numbers that do not broadcast to `shape`.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, shape: Shape, shift: Tensor, scale: Tensor) -> None:
        super().__init__(shape)
        self.register_buffer("shift", torch.empty(()))
        self.register_buffer("scale", torch.empty(()))
        self.set(shift, scale)

    def set(self, shift: Tensor, scale: Tensor) -> None:
        """Replace both, broadcast to the shape of one sample and kept in this module's dtype."""
        if not bool((scale > 0).all() and scale.isfinite().all()):
            raise ValueError("ElementwiseAffine: expected a positive, finite scale everywhere")
        self.shift = self._full(shift).to(self.shift)
        self.scale = self._full(scale).to(self.scale)

    def _full(self, values: Tensor) -> Tensor:
        try:
            return values.expand(self.in_shape).clone()
        except RuntimeError as error:
            raise ShapeError(
                f"ElementwiseAffine: {tuple(values.shape)} does not broadcast to {self.in_shape}"
            ) from error

    def _forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return (x - self.shift) / self.scale, -self._log_det(x)

    def _inverse(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return z * self.scale + self.shift, self._log_det(z)

    def _log_det(self, x: Tensor) -> Tensor:
        return constant_log_det(x, self.scale.log().sum())


def random_rotation(size: int, generator: torch.Generator) -> Tensor:
    """Haar-distributed matrix of SO(size), float64: QR of a Gaussian with the signs put right."""
    gaussian = torch.randn(size, size, dtype=torch.float64, generator=generator)
    q, r = torch.linalg.qr(gaussian)
    q = q * r.diagonal().sign()
    q[:, 0] *= torch.linalg.det(q).sign()
    return q
