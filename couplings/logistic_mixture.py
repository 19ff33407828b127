"""Coupling map by the distribution function of a mixture of logistics, as in Flow++.

With F(x) = Σ_k π_k σ((x - μ_k) e^(-s_k)) the map is y = logit F(x) · e^a + b, so that

    log dy/dx = log f(x) - log F(x) - log(1 - F(x)) + a,   f = F'

All is computed from log F and log(1 - F), sums of exponentials that neither under- nor overflow.

Ho, Chen, Srinivas, Duan, Abbeel: "Flow++: improving flow-based generative models with variational
dequantization and architecture design", ICML 2019, Sec. 3.2.
"""

from dataclasses import dataclass
from math import inf
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import logsigmoid

from couplings.ops.dispatch import needs_reference, widen

__all__ = ["LogisticMixture"]

# Bisections of the bracket, then Newton's steps within it.
HALVINGS, NEWTON_STEPS = 8, 12


@dataclass(frozen=True)
class LogisticMixture:
    """Monotone map logit F(x) · e^a + b with F the distribution function of K logistics.

    Zero parameters are the identity. Components then agree in all but the rates at which they
    leave: the k-th's location and log-scale are raw numbers times 0.5 + k / (K - 1).

    Args:
        components: K; 3K + 2 parameters a number: weights, locations, log-scales, a and b.
        bound: locations lie within ±bound.
        limit: log-scales, and a, lie within ±limit. With the bound it keeps the slope, and so the
            inverse, from vanishing between components that are far apart.

    Raises:
        ValueError: no component, or a bound or limit that is not positive and finite.
    """

    components: int = 4
    bound: float = 3.0
    limit: float = 1.5

    def __post_init__(self) -> None:
        if self.components < 1 or not (0 < self.bound < inf and 0 < self.limit < inf):
            raise ValueError(
                "LogisticMixture: expected at least one component and a positive, finite bound and "
                f"limit, got {self.components}, {self.bound} and {self.limit}"
            )

    @property
    def parameters_per_dim(self) -> int:
        """3K + 2."""
        return 3 * self.components + 2

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Return y and log|dy/dx| summed to (B,)."""
        mixture, scale, shift = self._mixture(parameters, x)
        logit, log_slope = _logit(widen(x), *mixture)
        y = logit * scale.exp() + shift
        return y.to(x.dtype), (log_slope + scale).flatten(1).sum(1)

    def inverse(self, y: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Return x and log|dx/dy| summed to (B,), x by bisection and Newton's method.

        Its gradient is that of one more step of Newton's, the implicit function's.
        """
        mixture, scale, shift = self._mixture(parameters, y)
        logit = (widen(y) - shift) * (-scale).exp()
        with torch.no_grad():
            x = _solve(logit, *mixture)
            slope = _logit(x, *mixture)[1].exp()
        x = x - (_logit(x, *mixture)[0] - logit) / slope
        log_slope = _logit(x, *mixture)[1]
        return x.to(y.dtype), -(log_slope + scale).flatten(1).sum(1)

    def _mixture(self, parameters: Tensor, x: Tensor) -> tuple["Mixture", Tensor, Tensor]:
        """Split parameters into log π, μ and s (B, K, A, ...), and into a and b (B, A, ...)."""
        raw = widen(parameters).unflatten(1, (self.parameters_per_dim, x.shape[1]))
        weights, means, scales, last = raw.split((*[self.components] * 3, 2), dim=1)
        rates = torch.linspace(0.5, 1.5, self.components, dtype=raw.dtype, device=raw.device)
        rates = rates.view(-1, *[1] * (raw.dim() - 2))
        mixture = Mixture(
            weights.log_softmax(1),
            _within(means * rates, self.bound),
            _within(scales * rates, self.limit),
        )
        return mixture, _within(last[:, 0], self.limit), last[:, 1]


class Mixture(NamedTuple):
    """Mixtures of K logistics, each (B, K, A, ...)."""

    log_weights: Tensor
    means: Tensor
    log_scales: Tensor


def _within(raw: Tensor, bound: float) -> Tensor:
    return bound * (raw / bound).tanh()


def _logit(
    x: Tensor, log_weights: Tensor, means: Tensor, log_scales: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute logit F(x) and the log of its slope at x (B, A, ...)."""
    if needs_reference():
        return _definition(x, log_weights, means, log_scales)
    result: tuple[Tensor, Tensor] = _Logit.apply(x, log_weights, means, log_scales)
    return result


def _definition(
    x: Tensor, log_weights: Tensor, means: Tensor, log_scales: Tensor
) -> tuple[Tensor, Tensor]:
    u = (x[:, None] - means) * (-log_scales).exp()
    above = logsigmoid(-u)
    below = above + u
    log_below = (log_weights + below).logsumexp(1)
    log_above = (log_weights + above).logsumexp(1)
    log_density = (log_weights + below + above - log_scales).logsumexp(1)
    return log_below - log_above, log_density - log_below - log_above


class _Logit(torch.autograd.Function):
    """`_definition`, which keeps its arguments alone for the backward."""

    @staticmethod
    def forward(ctx: Any, *arguments: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(*arguments)
        return _definition(*arguments)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logit: Tensor, grad_log_slope: Tensor) -> tuple[Tensor, ...]:
        x, log_weights, means, log_scales = ctx.saved_tensors
        inverse_scale = (-log_scales).exp()
        u = (x[:, None] - means) * inverse_scale
        above = logsigmoid(-u)
        below = above + u
        # Gradients of the terms of the three sums, by their shares in it.
        share_below = (log_weights + below).softmax(1) * (grad_logit - grad_log_slope)[:, None]
        share_above = (log_weights + above).softmax(1) * (grad_logit + grad_log_slope)[:, None]
        density = (log_weights + below + above - log_scales).softmax(1) * grad_log_slope[:, None]
        grad_weights = share_below - share_above + density
        grad_u = (share_below + density) * above.exp() + (share_above - density) * below.exp()
        grad_means = grad_u * inverse_scale
        return grad_means.sum(1), grad_weights, -grad_means, -density - grad_u * u


def _solve(logit: Tensor, log_weights: Tensor, means: Tensor, log_scales: Tensor) -> Tensor:
    """Solve logit F(x) = t for x (B, A, ...).

    The root lies between those of the components, where each (x - μ_k) e^(-s_k) = t.
    """
    roots = means + logit[:, None] * log_scales.exp()
    low, high = roots.aminmax(dim=1)
    x = 0.5 * (low + high)
    for step in range(HALVINGS + NEWTON_STEPS):
        value, log_slope = _definition(x, log_weights, means, log_scales)
        error = value - logit
        low, high = torch.where(error < 0, x, low), torch.where(error < 0, high, x)
        newton = x - error * (-log_slope).exp()
        middle = 0.5 * (low + high)
        inside = (newton >= low) & (newton <= high)
        x = middle if step < HALVINGS else torch.where(inside, newton, middle)
    return x
