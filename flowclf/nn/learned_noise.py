"""Learned dequantization: a density of the noise within grey levels, trained beside that of x."""

from math import log, pi

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from couplings import ConvNet
from couplings.core import Shape

__all__ = ["LearnedNoise"]

LOGISTIC = 1.702  # of the normal whose sigmoid is nearly uniform
LIMIT = 3.0  # of the changes of mean and log-scale


class LearnedNoise(nn.Module):
    """Draw u = sigmoid(m(x) + e^{s(x)} ε), ε ~ N(0, I), within grey levels; know its log q(u|x).

        log q(u|x) = Σ_i log N(ε_i; 0, 1) - s_i - log u_i (1 - u_i)

    E[log q(x + u) - log q(u|x)] bounds the log-probability of the grey levels x for any q(u|x), the
    more tightly the nearer that is to the share of q within the level. It starts as nearly uniform.
    Ho et al., "Flow++", ICML 2019, Sec. 3.1, with one affine map in place of a flow.

    Args:
        shape: (C, H, W).
        levels: grey levels.
        width: hidden channels of the network of m and s.
        generator: where its weights come from.
    """

    def __init__(self, shape: Shape, levels: int, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.levels = levels
        self.network = ConvNet(
            shape, 2 * shape[0], generator=generator, width=width, batch_norm=False
        )

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Return u in (0, 1), as x (B, *shape), and log q(u|x) (B,), nats, of grey levels x."""
        like = next(self.parameters())
        unit = 2 * x.to(like.dtype) / (self.levels - 1) - 1
        out = self.network(unit).to(like.dtype)
        mean, log_scale = (LIMIT * torch.tanh(part / LIMIT) for part in out.chunk(2, 1))
        log_scale = log_scale + log(LOGISTIC)
        noise = torch.empty_like(unit).normal_(generator=generator)
        logit = mean + log_scale.exp() * noise
        log_slope = F.logsigmoid(logit) + F.logsigmoid(-logit)
        log_q = -0.5 * (noise.square() + log(2 * pi)) - log_scale - log_slope
        return logit.sigmoid(), log_q.flatten(1).sum(1)
