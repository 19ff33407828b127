"""Coupling: split, condition, map, merge. The univariate map and the conditioner are arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from couplings.core import Chain, Invertible, Shape, ShapeError
from couplings.reshape import SpaceToDepth
from couplings.univariate import Affine, Univariate

__all__ = ["Conditioner", "Coupling", "DownsamplingCoupling", "two_sided_coupling"]

# Called as make(in_shape, out_channels, context_features); the module as net(x, context).
Conditioner = Callable[[Shape, int, int], nn.Module]


class Coupling(Invertible):
    """One-sided coupling over dimension 1 (channels or features).

        y_passive = x_passive,   y_active = map(x_active; net(x_passive, context))
        log_det = Σ log|d y_active / d x_active|

    Args:
        shape: (C, H, W) or (F,); at least two channels.
        conditioner: makes the network from (passive shape, output channels, context width).
        univariate: the map of each active number.
        active: which half is transformed.
        context_features: width of the context handed to the network.
        active_channels: how many are transformed; default ⌊C/2⌋.

    Raises:
        ShapeError: fewer than two channels, so that one half would be empty.
    """

    def __init__(
        self,
        shape: Shape,
        conditioner: Conditioner,
        univariate: Univariate | None = None,
        active: Literal["first", "second"] = "second",
        context_features: int = 0,
        active_channels: int | None = None,
    ) -> None:
        super().__init__(shape, context_features=context_features)
        self.active_channels = active_channels or _half_of(type(self).__name__, shape)
        self.active = active
        self.univariate: Univariate = univariate or Affine()
        passive = (shape[0] - self.active_channels, *shape[1:])
        outputs = self.univariate.parameters_per_dim * self.active_channels
        self.net = conditioner(passive, outputs, context_features)

    def _forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        passive, active = self._split(x)
        active, log_det = self.univariate.forward(active, self.net(passive, context))
        return self._merge(passive, active), log_det

    def _inverse(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        passive, active = self._split(z)
        active, log_det = self.univariate.inverse(active, self.net(passive, context))
        return self._merge(passive, active), log_det

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        size = self.active_channels
        if self.active == "first":
            return x[:, size:], x[:, :size]
        return x[:, :-size], x[:, -size:]

    def _merge(self, passive: Tensor, active: Tensor) -> Tensor:
        halves = (active, passive) if self.active == "first" else (passive, active)
        return torch.cat(halves, dim=1)


def two_sided_coupling(
    shape: Shape,
    conditioner: Conditioner,
    univariate: Univariate | None = None,
    context_features: int = 0,
) -> Chain:
    """Both halves in turn: the first given the second, then the second given the new first.

    This is FrEIA's GLOWCouplingBlock; one such block is two affine couplings.
    """
    first = _half_of("two_sided_coupling", shape)
    return Chain(
        [
            Coupling(shape, conditioner, univariate, "first", context_features, first),
            Coupling(shape, conditioner, univariate, "second", context_features, shape[0] - first),
        ]
    )


class DownsamplingCoupling(Invertible):
    """Learned, two-sided downsampling (IB-INN, Sec. 7): (C, H, W) -> (4C, H/2, W/2).

        x1, x2 = first ⌊C/2⌋ channels, the rest;   r = space-to-depth
        y2 = map(r(x2); strided_net(x1)),   y1 = map(r(x1); net(y2)),   y = (y1, y2)

    Args:
        shape: (C, H, W) with C ≥ 2 and even H, W.
        strided: conditioner that halves the resolution, from x1.
        conditioner: conditioner at the low resolution, from y2.
        univariate: the map of each number.
        context_features: width of the context handed to both networks.

    Raises:
        ShapeError: fewer than two channels, or an odd height or width.
    """

    def __init__(
        self,
        shape: Shape,
        strided: Conditioner,
        conditioner: Conditioner,
        univariate: Univariate | None = None,
        context_features: int = 0,
    ) -> None:
        self_name = type(self).__name__
        first = _half_of(self_name, shape)
        squeeze_first = SpaceToDepth((first, *shape[1:]))
        squeeze_second = SpaceToDepth((shape[0] - first, *shape[1:]))
        low = squeeze_first.out_shape[1:]
        super().__init__(shape, (4 * shape[0], *low), context_features)
        self.first = first
        self.squeeze_first, self.squeeze_second = squeeze_first, squeeze_second
        self.univariate: Univariate = univariate or Affine()
        per_dim = self.univariate.parameters_per_dim
        c1, c2 = squeeze_first.out_shape[0], squeeze_second.out_shape[0]
        self.strided = strided((first, *shape[1:]), per_dim * c2, context_features)
        self.net = conditioner((c2, *low), per_dim * c1, context_features)

    def _forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        x1, x2 = x[:, : self.first], x[:, self.first :]
        r1, r2 = self.squeeze_first(x1)[0], self.squeeze_second(x2)[0]
        y2, log_det2 = self.univariate.forward(r2, self.strided(x1, context))
        y1, log_det1 = self.univariate.forward(r1, self.net(y2, context))
        return torch.cat((y1, y2), dim=1), log_det1 + log_det2

    def _inverse(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        y1, y2 = z[:, : 4 * self.first], z[:, 4 * self.first :]
        r1, log_det1 = self.univariate.inverse(y1, self.net(y2, context))
        x1 = self.squeeze_first.inverse(r1)[0]
        r2, log_det2 = self.univariate.inverse(y2, self.strided(x1, context))
        x2 = self.squeeze_second.inverse(r2)[0]
        return torch.cat((x1, x2), dim=1), log_det1 + log_det2


def _half_of(name: str, shape: Shape) -> int:
    if shape[0] < 2:
        raise ShapeError(
            f"{name}: expected at least 2 channels to split, got shape {shape}; "
            "put SpaceToDepth or Haar before it"
        )
    return shape[0] // 2
