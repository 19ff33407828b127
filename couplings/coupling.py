"""Couplings: split, condition, map, join. Univariate map and conditioner are arguments."""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from couplings.core import Chain, Invertible, Shape, ShapeError
from couplings.layers import SpaceToDepth
from couplings.memory import Restored
from couplings.ops.reference import join
from couplings.univariate import Affine, Univariate

__all__ = ["Conditioner", "Coupling", "DownsamplingCoupling", "Split", "two_sided_coupling"]

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
        return self._map(*self._condition(x, context), inverse=False)

    def _inverse(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return self._map(*self._condition(z, context), inverse=True)

    def restore(self, z: Tensor, context: Tensor | None = None) -> Restored:
        """Evaluate again from the output z, see `Invertible.restore`.

        The passive half is the same on both sides, and so one evaluation of the network serves the
        inverse and the gradient.
        """
        context = self._check(z, self.out_shape, context)
        passive, active, parameters = self._condition(z, context, leaves=True)
        with torch.no_grad():
            active, _ = self.univariate.inverse(active, parameters)
        active = active.detach().requires_grad_()
        joined = partial(join, active_first=self.active == "first")
        result = self._map(passive, active, parameters, inverse=False)
        return Restored((passive, active), joined, *result)

    def _condition(
        self, x: Tensor, context: Tensor | None, leaves: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Split off the passive and the active half; compute the parameters of the latter's map."""
        rest = x.shape[1] - self.active_channels
        if self.active == "first":
            active, passive = x.split((self.active_channels, rest), dim=1)
        else:
            passive, active = x.split((rest, self.active_channels), dim=1)
        if leaves:
            passive, active = passive.detach().requires_grad_(), active.detach()
        return passive, active, self.net(passive, context)

    def _map(
        self, passive: Tensor, active: Tensor, parameters: Tensor, inverse: bool
    ) -> tuple[Tensor, Tensor]:
        """Map the active half and join it with the passive one, in one pass if the map can."""
        first = self.active == "first"
        couple: Callable[..., tuple[Tensor, Tensor]] | None
        couple = getattr(self.univariate, "couple", None)
        if couple is not None:
            return couple(active, parameters, passive, first, inverse)
        direction = self.univariate.inverse if inverse else self.univariate.forward
        y, log_det = direction(active, parameters)
        return join(passive, y, first), log_det


def two_sided_coupling(
    shape: Shape,
    conditioner: Conditioner,
    univariate: Univariate | None = None,
    context_features: int = 0,
) -> Chain:
    """Couple both halves in turn: the first given the second, then the second given the new first.

    This is FrEIA's GLOWCouplingBlock; one such block is two affine couplings.
    """
    first = _half_of("two_sided_coupling", shape)
    return Chain(
        [
            Coupling(shape, conditioner, univariate, "first", context_features, first),
            Coupling(shape, conditioner, univariate, "second", context_features, shape[0] - first),
        ]
    )


class Split(Invertible):
    """Split off half of the channels behind a Gaussian prior conditional on the others.

        z = (inner(kept), (rest - m(kept)) · e^(-s(kept)))

    The others alone go on, through `inner`, and all ends flat, what went on first. With a class-
    conditional N(μ_y, I) of z the prior of the rest is N(m + e^s μ_y, e^2s): Glow's, conditional on
    the kept half and on the class (Kingma and Dhariwal, NeurIPS 2018).

    Args:
        shape: (C, H, W) or (F,); at least two channels.
        conditioner: makes the network that gives s and m.
        inner: makes the map of the ⌈C/2⌉ channels that are kept, to any shape.
        univariate: the map of the others; default: affine.
        context_features: width of the context handed to the network.

    Raises:
        ShapeError: fewer than two channels.
    """

    def __init__(
        self,
        shape: Shape,
        conditioner: Conditioner,
        inner: Callable[[Shape], Invertible],
        univariate: Univariate | None = None,
        context_features: int = 0,
    ) -> None:
        prior = Coupling(shape, conditioner, univariate, context_features=context_features)
        mapped = inner((shape[0] - prior.active_channels, *shape[1:]))
        width = max(context_features, mapped.context_features)
        super().__init__(shape, (int(torch.Size(shape).numel()),), width)
        self.prior, self.inner = prior, mapped

    def _forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        y, log_det = self.prior(x, context)
        kept, rest = y.split((self.inner.in_shape[0], self.prior.active_channels), dim=1)
        z, inner_log_det = self.inner(kept, context)
        return torch.cat((z.flatten(1), rest.flatten(1)), dim=1), log_det + inner_log_det

    def _inverse(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        own, rest = z.split((self.inner.dims, self.dims - self.inner.dims), dim=1)
        own = own.reshape(len(z), *self.inner.out_shape)
        kept, inner_log_det = self.inner.inverse(own, context)
        rest = rest.reshape(len(z), self.prior.active_channels, *self.in_shape[1:])
        x, log_det = self.prior.inverse(torch.cat((kept, rest), dim=1), context)
        return x, log_det + inner_log_det


class DownsamplingCoupling(Chain):
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
        first = _half_of(type(self).__name__, shape)
        squeeze = SpaceToDepth(shape)
        low, c1 = squeeze.out_shape, 4 * first

        def at_full_resolution(_: Shape, outputs: int, context_features: int) -> nn.Module:
            high = (first, *shape[1:])
            return _Unsqueezed(high, strided(high, outputs, context_features))

        rest = low[0] - c1
        second = Coupling(low, at_full_resolution, univariate, "second", context_features, rest)
        super().__init__(
            [squeeze, second, Coupling(low, conditioner, univariate, "first", context_features, c1)]
        )


class _Unsqueezed(nn.Module):
    """Network that sees its squeezed input (4C, H/2, W/2) as the image (C, H, W) it came from."""

    def __init__(self, shape: Shape, net: nn.Module) -> None:
        super().__init__()
        self.squeeze, self.net = SpaceToDepth(shape), net

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        out: Tensor = self.net(self.squeeze.inverse(x)[0], context)
        return out


def _half_of(name: str, shape: Shape) -> int:
    if shape[0] < 2:
        raise ShapeError(
            f"{name}: expected at least 2 channels to split, got shape {shape}; "
            "put SpaceToDepth or Haar before it"
        )
    return shape[0] // 2
