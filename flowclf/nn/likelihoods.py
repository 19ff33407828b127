"""Likelihoods p(x|z): from a decoder's outputs to log-probabilities in the data's own units.

A decoder returns `outputs` numbers per number of x: (B, outputs, *shape).
"""

from abc import abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from couplings.core import Shape
from flowclf.support.collectives import normal_like, uniform_like
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
# Gradients of a draw x' for the decoder: none; those of the mean; those of a continuous draw (of a
# Bernoulli: binary Concrete of temperature 1).
Sampling = Literal["detached", "straight-through", "relaxed"]
LEAST_LOG_SCALE = -7.0


class Likelihood(nn.Module):
    """Base class; images have `levels` grey levels 0 … levels - 1, tables have None."""

    outputs: int = 1
    # True for probabilities of whole grey levels, False for densities.
    discrete: bool = True

    def __init__(self, shape: Shape, levels: int | None) -> None:
        super().__init__()
        self.shape, self.levels = tuple(shape), levels
        self.top = levels - 1 if levels else 1

    def fit(self, x: Tensor) -> None:
        """Adopt the units of a table (N, F); do nothing for images."""

    def is_bound(self, x: Tensor) -> bool:
        """Return True if log_prob of x (N, *shape) is normalized, so that -elbo bounds its bits."""
        return True

    @abstractmethod
    def log_prob(self, x: Tensor, out: Tensor) -> Tensor:
        """Return log p(x|z), (B,), nats, of x (B, *shape) in data units, given decoder outputs."""

    @abstractmethod
    def mean(self, out: Tensor) -> Tensor:
        """Return E[x|z] (B, *shape), in data units."""

    def sample(
        self, out: Tensor, generator: torch.Generator | None = None, sampling: Sampling = "detached"
    ) -> Tensor:
        """Draw x' ~ p(x|z), (B, *shape), in data units."""
        x = self._draw(out, generator, relaxed=sampling == "relaxed")
        if sampling == "straight-through":
            mean = self.mean(out)
            return x.detach() + mean - mean.detach()
        return x.detach() if sampling == "detached" else x

    @abstractmethod
    def _draw(self, out: Tensor, generator: torch.Generator | None, relaxed: bool) -> Tensor:
        """Draw x' (B, *shape), continuous if `relaxed`."""


class Bernoulli(Likelihood):
    """Bernoulli: log p(x|z) = Σ_d t log σ(o) + (1 - t) log σ(-o),  t = x/(levels - 1).

    A probability for binary images (0 or levels - 1); for grey levels in between it is the
    cross-entropy that VAEs are often trained with, which bounds nothing.
    """

    def is_bound(self, x: Tensor) -> bool:
        """Return True if every number is 0 or the highest level."""
        return bool(((x == 0) | (x == self.top)).all())

    def log_prob(self, x: Tensor, out: Tensor) -> Tensor:
        """Return log p(x|z), (B,), nats."""
        target = x.to(out.dtype) / self.top
        loss = binary_cross_entropy_with_logits(out[:, 0], target, reduction="none")
        return -loss.flatten(1).sum(1)

    def mean(self, out: Tensor) -> Tensor:
        """Return (levels - 1) σ(o)."""
        return self.top * out[:, 0].sigmoid()

    def _draw(self, out: Tensor, generator: torch.Generator | None, relaxed: bool) -> Tensor:
        logits = out[:, 0]
        uniform = uniform_like(logits, generator)
        if relaxed:
            return self.top * (logits + uniform.logit(torch.finfo(uniform.dtype).eps)).sigmoid()
        return self.top * (uniform < logits.sigmoid()).to(out.dtype)


class Gaussian(Likelihood):
    """Gaussian: log p(x|z) = Σ_d log N(x_d; shift_d + scale_d o_d, (scale_d s)²), s learned.

    shift and scale: middle and half of the range of grey levels; mean and standard deviation of a
    table's features. A density: dequantize integer data first.
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
        """Set shift and scale to mean and standard deviation of each feature of a table."""
        if self.levels is None:
            std = x.std(0, correction=0)
            self.shift.copy_(x.mean(0))
            self.scale.copy_(torch.where(std > 0, std, 1.0))

    def log_prob(self, x: Tensor, out: Tensor) -> Tensor:
        """Return log p(x|z), (B,), nats."""
        # In units of the scale: squares in a table's own units may overflow.
        normal = torch.distributions.Normal(out[:, 0], self._std(), validate_args=False)
        x = (x.to(out.dtype) - self.shift) / self.scale
        return (normal.log_prob(x) - self.scale.log()).flatten(1).sum(1)

    def mean(self, out: Tensor) -> Tensor:
        """Return shift + scale · o."""
        return self.shift + self.scale * out[:, 0]

    def _draw(self, out: Tensor, generator: torch.Generator | None, relaxed: bool) -> Tensor:
        mean = self.mean(out)
        noise = normal_like(mean, generator)
        return mean + self.scale * self._std() * noise

    def _std(self) -> Tensor:
        return self.log_std.clamp_min(LEAST_LOG_SCALE).exp()


class DiscretizedLogistic(Likelihood):
    """Discretized logistic P(x|z) = σ((x + ½ - m)/s) - σ((x - ½ - m)/s), tails in the end levels.

    m = (levels - 1)/2 · (1 + o_0) and s = levels/2 · exp(o_1 - 2), per pixel. A probability of
    whole grey levels. Salimans et al., "PixelCNN++", ICLR 2017, with one component.
    """

    outputs = 2

    def log_prob(self, x: Tensor, out: Tensor) -> Tensor:
        """Return log p(x|z), (B,), nats."""
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
        """Return m, which may lie slightly outside of the levels."""
        return 0.5 * self.top * (1 + out[:, 0])

    def _draw(self, out: Tensor, generator: torch.Generator | None, relaxed: bool) -> Tensor:
        mean = self.mean(out)
        uniform = uniform_like(mean, generator)
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
    """Return the likelihood of that name.

    Raises:
        UserError: a likelihood of grey levels for a table.
    """
    if levels is None and kind != "gaussian":
        raise UserError(f"likelihood={kind}: expected images, got a table; use likelihood=gaussian")
    return KINDS[kind](shape, levels)
