"""Two-part encoder: a relaxed label y given x, and a latent z given x and y.

    q(y|x) = Concrete(π(x), τ)         q(z|x, y):  t ~ N(m, diag s²) of [x, y],  z = squash(t)

The label: Maddison et al., "The concrete distribution", ICLR 2017. The squash maps the real line
onto (-box, box) by a logistic function, to match a prior that is uniform there: Gemp, Parente,
Mahadevan, "Inverting VAEs for improved generative accuracy", 2017.
"""

from dataclasses import dataclass
from math import lgamma, log

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot, softplus

from couplings import Invertible, Logistic
from couplings.ops.dispatch import widen
from flowclf.latent.information import gaussian_log_prob
from flowclf.nn.encoders import Encoder, Encoding
from flowclf.support.collectives import empty_for_all_ranks, normal_like, rank_shard, uniform_like

__all__ = [
    "LatentPart",
    "SquashedGaussian",
    "TwoPartEncoder",
    "TwoPartEncoding",
    "close_corners",
    "concrete_log_prob",
    "concrete_sample",
    "relaxed_label",
]

LEAST_STD = 1e-5
# A uniform float32 may be 0, the edge of the box, where the inverse is infinite.
MARGIN = 1e-6


def concrete_sample(
    logits: Tensor, temperature: float, generator: torch.Generator | None = None
) -> Tensor:
    """Draw log y of y ~ Concrete(softmax(logits), τ): y = softmax((logits + Gumbel)/τ), (B, K)."""
    noise = rank_shard(empty_for_all_ranks(logits).exponential_(generator=generator))
    gumbel = -noise.clamp_min(torch.finfo(noise.dtype).tiny).log()
    return ((logits + gumbel) / temperature).log_softmax(1)


def concrete_log_prob(log_y: Tensor, logits: Tensor, temperature: float) -> Tensor:
    """Return the Concrete log-density on the simplex, (B, K) twice to (B,), nats.

        log Γ(K) + (K-1) log τ + Σ_i (log π_i - (τ+1) log y_i) - K log Σ_i π_i y_i^-τ

    With respect to the first K - 1 numbers of y; logits are log π up to a constant.
    """
    classes = logits.shape[1]
    constant = lgamma(classes) + (classes - 1) * log(temperature)
    powers = logits - temperature * log_y
    return constant + (powers - log_y).sum(1) - classes * powers.logsumexp(1)


def close_corners(classes: int, corner: float, like: Tensor) -> Tensor:
    """Return one-hot labels moved inside the simplex, (K, K), with `corner` on the class."""
    rest = (1 - corner) / (classes - 1)
    eye = torch.eye(classes, dtype=like.dtype, device=like.device)
    return rest + (corner - rest) * eye


@dataclass(frozen=True)
class SquashedGaussian:
    """Distribution of z = squash(t), t ~ N(mean, diag e^log_var) (B, D); z = t without squash."""

    mean: Tensor
    log_var: Tensor
    squash: Logistic | None

    @property
    def centre(self) -> Tensor:
        """Squashed mean, (B, D)."""
        return self._of(self.mean)[0]

    def draw(self, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw z (B, D); return it with its log-density (B,) in nats."""
        return self.at(normal_like(self.mean, generator))

    def at(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return z of standard normal noise (B, D) or (1, D), and its log-density (B,) in nats."""
        t = self.mean + (0.5 * self.log_var).exp() * noise
        z, log_det = self._of(t)
        return z, gaussian_log_prob(t, self.mean, self.log_var) - log_det

    def log_prob(self, z: Tensor) -> Tensor:
        """Return log q(z), (B,), nats, of z within the box."""
        if self.squash is None:
            return gaussian_log_prob(z, self.mean, self.log_var)
        t, log_det = self.squash.inverse(z)
        return gaussian_log_prob(t, self.mean, self.log_var) + log_det

    def _of(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return (t, t.new_zeros(t.shape[0])) if self.squash is None else self.squash(t)


@dataclass(frozen=True)
class TwoPartEncoding(Encoding):
    """Encoding with z = [y, z] (B, K + D): relaxed label and latent; in eval mode their centres."""

    logits: Tensor | None = None  # of q(y|x), (B, K)
    log_y: Tensor | None = None  # log of the first K numbers of z


class LatentPart(nn.Module):
    """Network from x (B, *) and y (B, K) to mean and log-variance (B, D), s = softplus(r) + 1e-5.

    `hidden` maps [x, y] flattened, (B, F + K), to features, on which mean and r are linear; `raw`
    is zeroed, so that s starts at log 2.
    """

    def __init__(self, hidden: nn.Module, mean: nn.Linear, raw: nn.Linear) -> None:
        super().__init__()
        self.hidden, self.mean, self.raw = hidden, mean, raw
        nn.init.zeros_(raw.weight)
        nn.init.zeros_(raw.bias)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance, (B, D) each."""
        features = self.hidden(torch.cat((x.flatten(1), y), 1))
        mean, raw = widen(self.mean(features)), widen(self.raw(features))
        return mean, 2 * (softplus(raw) + LEAST_STD).log()


class TwoPartEncoder(Encoder):
    """Encoder q(y|x) q(z|x, y).

    The network maps to the logits (B, K) of q(y|x), `latent` to mean and log-variance of t. z lies
    within ±box, with a uniform prior; box None: on the real line, with prior N(0, I).
    """

    kind = "relaxed-label"

    def __init__(
        self,
        preprocess: Invertible,
        network: nn.Module,
        latent: LatentPart,
        dims: int,
        *,
        temperature: float = 1.0,
        box: float | None = 1.5,
    ) -> None:
        super().__init__(preprocess, network)
        self.latent, self.dims, self.temperature, self.box = latent, dims, temperature, box
        self.squash = None if box is None else Logistic((dims,), -box, box)

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> TwoPartEncoding:
        """Return y and z: draws in training, in eval mode softmax and centre of q(z|x, y)."""
        logits = self.logits(x)
        log_y = logits.log_softmax(1)
        if self.training:
            log_y = concrete_sample(logits, self.temperature, generator)
        y = log_y.exp()
        given = self.given(x, y)
        z = given.draw(generator)[0] if self.training else given.centre
        return TwoPartEncoding(torch.cat((y, z), 1), logits=logits, log_y=log_y)

    def logits(self, x: Tensor) -> Tensor:
        """Return the logits of q(y|x), (B, K), for x (B, *shape) in data units."""
        return widen(self.network(self.preprocess(x)[0]))

    def given(self, x: Tensor, y: Tensor) -> SquashedGaussian:
        """Return q(z|x, y) of x (B, *shape) in data units and y (B, K) on the simplex."""
        mean, log_var = self.latent(self.preprocess(x)[0], y)
        return SquashedGaussian(mean, log_var, self.squash)

    def prior_log_prob(self, z: Tensor) -> Tensor:
        """Return log p(z), (B, D) to (B,), nats."""
        if self.box is None:
            return gaussian_log_prob(z, torch.zeros_like(z), torch.zeros_like(z))
        return z.new_full(z.shape[:1], -self.dims * log(2 * self.box))

    def prior_sample(self, like: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw z ~ p(z), (B, D), one for each row of `like` (B, …)."""
        rows = like.new_empty(len(like), self.dims)
        if self.box is None:
            return normal_like(rows, generator)
        return self.box * (2 * uniform_like(rows, generator).clamp(MARGIN, 1 - MARGIN) - 1)


def relaxed_label(y: Tensor, classes: int, otherwise: Tensor) -> Tensor:
    """Return one-hot(y) (B, K), with the rows of `otherwise` where y is -1."""
    known = one_hot(y.clamp_min(0), classes).to(otherwise)
    return torch.where((y >= 0)[:, None], known, otherwise)
