"""p(x|z) of decoded latents: from a decoder's outputs to log-probabilities in the data's own units.

A decoder gives `outputs` numbers for each number of x: (B, outputs, *shape).
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from couplings.core import Shape
from flowclf.support.collectives import empty_for_all_ranks, rank_shard
from flowclf.support.errors import UserError

__all__ = [
    "Bernoulli",
    "DiscretizedLogistic",
    "Gaussian",
    "Likelihood",
    "LikelihoodKind",
    "Sampling",
    "make_likelihood",
]

LikelihoodKind = Literal["bernoulli", "gaussian", "logistic"]
# How a draw x' passes gradients on to the decoder: not at all; as if x' were its mean; through a
# continuous draw (of a Bernoulli: binary Concrete of temperature 1).
Sampling = Literal["detached", "straight-through", "relaxed"]
LEAST_LOG_SCALE = -7.0


class Likelihood(nn.Module):
    """What is common to all: images have `levels` grey levels 0 … levels - 1, tables have None."""

    outputs: int = 1
    # Whether it is a probability of whole grey levels, not a density.
    discrete: bool = True

    def __init__(self, shape: Shape, levels: int | None) -> None:
        super().__init__()
        self.shape, self.levels = tuple(shape), levels
        self.top = levels - 1 if levels else 1

    def fit(self, x: Tensor) -> None:
        """Take the units of a table (N, F) over; nothing for images."""

    def is_bound(self, x: Tensor) -> bool:
        """Whether log_prob of these x (N, *shape) is normalised: -elbo then bounds their bits."""
        return True

    @abstractmethod
    def log_prob(self, x: Tensor, out: Tensor) -> Tensor:
        """log p(x|z), (B,), nats, of x (B, *shape) in data units and outputs of the decoder."""

    @abstractmethod
    def mean(self, out: Tensor) -> Tensor:
        """E[x|z] (B, *shape), in data units."""

    def sample(
        self,
        out: Tensor,
        generator: torch.Generator | None = None,
        sampling: Sampling = "detached",
    ) -> Tensor:
        """x' ~ p(x|z), (B, *shape), in data units."""
        x = self._draw(out, generator, relaxed=sampling == "relaxed")
        if sampling == "straight-through":
            mean = self.mean(out)
            return x.detach() + mean - mean.detach()
        return x.detach() if sampling == "detached" else x

    @abstractmethod
    def _draw(self, out: Tensor, generator: torch.Generator | None, relaxed: bool) -> Tensor:
        """x' (B, *shape), relaxed or whole."""


class Bernoulli(Likelihood):
    """log p(x|z) = Σ_d t log σ(o) + (1 - t) log σ(-o),  t = x/(levels - 1).

    A probability where images are binary (0 or levels - 1); of grey levels in between it is the
    cross-entropy that VAEs are often trained with, which bounds nothing.
    """

    def is_bound(self, x: Tensor) -> bool:
        """Only where every number is 0 or the highest level."""
        return bool(((x == 0) | (x == self.top)).all())

    def log_prob(self, x: Tensor, out: Tensor) -> Tensor:
        """Nats; see above."""
        target = x.to(out.dtype) / self.top
        loss = binary_cross_entropy_with_logits(out[:, 0], target, reduction="none")
        return -loss.flatten(1).sum(1)

    def mean(self, out: Tensor) -> Tensor:
        """(levels - 1) σ(o)."""
        return self.top * out[:, 0].sigmoid()

    def _draw(self, out: Tensor, generator: torch.Generator | None, relaxed: bool) -> Tensor:
        logits = out[:, 0]
        uniform = rank_shard(empty_for_all_ranks(logits).uniform_(generator=generator))
        if relaxed:
            return self.top * (logits + uniform.logit(torch.finfo(uniform.dtype).eps)).sigmoid()
        return self.top * (uniform < logits.sigmoid()).to(out.dtype)


class Gaussian(Likelihood):
    """log p(x|z) = Σ_d log N(x_d; shift_d + scale_d o_d, (scale_d s)²), with one learned s.

    shift and scale: the middle and half of the range of grey levels; mean and standard deviation
    of a table's features. A density: of integer data dequantise first.
    """

    discrete = False
    shift: Tensor
    scale: Tensor

    def __init__(self, shape: Shape, levels: int | None) -> None:
        super().__init__(shape, levels)
        half = self.top / 2
        self.register_buffer("shift", torch.full(self.shape, half if levels else 0.0))
        self.register_buffer("scale", torch.full(self.shape, half if levels else 1.0))
        self.log_std = nn.Parameter(torch.zeros(()))

    def fit(self, x: Tensor) -> None:
        """Mean and standard deviation of each feature of a table."""
        if self.levels is None:
            std = x.std(0, correction=0)
            self.shift.copy_(x.mean(0))
            self.scale.copy_(torch.where(std > 0, std, 1.0))

    def log_prob(self, x: Tensor, out: Tensor) -> Tensor:
        """Nats; see above."""
        # In units of the scale: of a table's own units even the squares may be no numbers.
        normal = torch.distributions.Normal(out[:, 0], self._std(), validate_args=False)
        x = (x.to(out.dtype) - self.shift) / self.scale
        return (normal.log_prob(x) - self.scale.log()).flatten(1).sum(1)

    def mean(self, out: Tensor) -> Tensor:
        """shift + scale · o."""
        return self.shift + self.scale * out[:, 0]

    def _draw(self, out: Tensor, generator: torch.Generator | None, relaxed: bool) -> Tensor:
        mean = self.mean(out)
        noise = rank_shard(empty_for_all_ranks(mean).normal_(generator=generator))
        return mean + self.scale * self._std() * noise

    def _std(self) -> Tensor:
        return self.log_std.clamp_min(LEAST_LOG_SCALE).exp()


class DiscretizedLogistic(Likelihood):
    """P(x|z) = σ((x + ½ - m)/s) - σ((x - ½ - m)/s); the outermost levels take all that is beyond.

    m = (levels - 1)/2 · (1 + o_0) and s = levels/2 · exp(o_1 - 2), each pixel its own. A
    probability of whole grey levels. Salimans et al., "PixelCNN++", ICLR 2017, of one component.
    """

    outputs = 2

    def log_prob(self, x: Tensor, out: Tensor) -> Tensor:
        """Nats; see above."""
        x, inverse = x.to(out.dtype), (-self._log_scale(out)).exp()
        upper, lower = (x + 0.5 - self.mean(out)) * inverse, (x - 0.5 - self.mean(out)) * inverse
        # σ(u) - σ(l) = σ(u) σ(-l) (1 - e^(l - u)), which neither cancels nor underflows.
        log_prob = torch.where(x < self.top, logsigmoid(upper), 0.0)
        log_prob = log_prob + torch.where(x > 0, logsigmoid(-lower), 0.0)
        inner = (x > 0) & (x < self.top)
        width = torch.where(inner, inverse, 1.0)
        log_prob = log_prob + torch.where(inner, (-torch.expm1(-width)).log(), 0.0)
        return log_prob.flatten(1).sum(1)

    def mean(self, out: Tensor) -> Tensor:
        """m, which may lie a little outside of the levels."""
        return 0.5 * self.top * (1 + out[:, 0])

    def _draw(self, out: Tensor, generator: torch.Generator | None, relaxed: bool) -> Tensor:
        mean = self.mean(out)
        uniform = rank_shard(empty_for_all_ranks(mean).uniform_(generator=generator))
        noise = uniform.logit(torch.finfo(uniform.dtype).eps)
        x = mean + self._log_scale(out).exp() * noise
        return x if relaxed else x.round().clamp(0, self.top)

    def _log_scale(self, out: Tensor) -> Tensor:
        relative = (out[:, 1] - 2).clamp_min(LEAST_LOG_SCALE)
        return relative + torch.tensor(0.5 * (self.top + 1)).log()


KINDS: dict[str, type[Likelihood]] = {
    "bernoulli": Bernoulli,
    "gaussian": Gaussian,
    "logistic": DiscretizedLogistic,
}


def make_likelihood(kind: LikelihoodKind, shape: Shape, levels: int | None) -> Likelihood:
    """The likelihood of that name.

    Raises:
        UserError: a likelihood of grey levels for a table.
    """
    if levels is None and kind != "gaussian":
        raise UserError(f"likelihood={kind}: expected images, got a table; use likelihood=gaussian")
    return KINDS[kind](shape, levels)
