"""Encoders: from data to the latent space of the mixture, and what each knows exactly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from couplings import Invertible
from flowclf.support.collectives import empty_for_all, own_rows
from flowclf.support.errors import UserError

__all__ = [
    "DeltaEncoder",
    "Encoder",
    "EncoderKind",
    "Encoding",
    "GaussianEncoder",
    "InvertibleEncoder",
    "log_softplus",
]

EncoderKind = Literal["invertible", "gaussian", "delta", "relaxed-label"]


@dataclass(frozen=True)
class Encoding:
    """Latents z (B, D) and what the encoder knows beside them.

    Attributes:
        z: latents; a Gaussian encoder's sample, or its mean in eval mode.
        log_det: log|det dz/dx| (B,) in nats, of an invertible encoder.
        mean, log_var: (B, D) of a Gaussian encoder.
    """

    z: Tensor
    log_det: Tensor | None = None
    mean: Tensor | None = None
    log_var: Tensor | None = None

    def draw(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """(count, B, D): draws from q(z|x); z itself, once, where that is a point."""
        if self.mean is None:
            return self.z[None]
        noise = self.mean.new_empty(count, *self.mean.shape)
        return self.at(noise.normal_(generator=generator))

    def at(self, noise: Tensor) -> Tensor:
        """m(x) + s(x) · noise, (S, B, D), of standard normal numbers (S, B, D) or (S, 1, D).

        The same for every sample (S, 1, D) make what is computed of a sample independent of its
        batch. Where q(z|x) is a point: z itself, once.
        """
        if self.mean is None or self.log_var is None:
            return self.z[None]
        return self.mean + (0.5 * self.log_var).exp() * noise


class Encoder(nn.Module):
    """Fitted pre-processing, then a network.

    Args:
        preprocess: from data units to network units, e.g. standardisation.
        network: from there on.

    Attributes:
        kind: form of q(z|x): an invertible map, a Gaussian, a point or a relaxed label with a
            latent.
    """

    kind: EncoderKind

    def __init__(self, preprocess: Invertible, network: nn.Module) -> None:
        super().__init__()
        self.preprocess, self.network = preprocess, network

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Encoding:
        """Encoding of x (B, *shape) in data units; `generator` for what it draws."""
        raise NotImplementedError

    def decode(self, z: Tensor) -> Tensor:
        """The x of latents z (B, D), in data units.

        Raises:
            UserError: the encoder has no inverse.
        """
        raise UserError(
            f"expected a system that can decode, got one with a {type(self).__name__}, which has "
            "no inverse; train ib-inn or class-nll"
        )


class InvertibleEncoder(Encoder):
    """q(z|x) is a point, and so is q(x|z): pre-processing counts in the log-determinant, too.

    Args:
        preprocess, network: as of every encoder.
        condition: gives the features (F,) that the network sees beside every x; None: it sees none.
    """

    kind = "invertible"
    network: Invertible

    def __init__(
        self, preprocess: Invertible, network: Invertible, condition: nn.Module | None = None
    ) -> None:
        super().__init__(preprocess, network)
        self.condition = condition

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Encoding:
        """z and log_det."""
        u, log_det_preprocess = self.preprocess(x)
        z, log_det_network = self.network(u, self.context(u))
        return Encoding(z, log_det_preprocess + log_det_network)

    def context(self, x: Tensor) -> Tensor | None:
        """What the network sees beside x (B, …), (B, F)."""
        return None if self.condition is None else self.condition().to(x).expand(x.shape[0], -1)

    def decode(self, z: Tensor) -> Tensor:
        """The x of latents z (B, D), in data units."""
        u, _ = self.network.inverse(z, self.context(z))
        x, _ = self.preprocess.inverse(u)
        return x


class DeltaEncoder(Encoder):
    """q(z|x) is the point f(x), of a network from (B, *shape) to (B, D)."""

    kind = "delta"

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Encoding:
        """z = f(x)."""
        return Encoding(self.network(self.preprocess(x)[0]))


class GaussianEncoder(Encoder):
    """q(z|x) = N(m(x), diag s(x)²), of a network from (B, *shape) to (B, 2D).

    The network's second half r gives s = softplus(r + shift). In training z is a sample, in eval
    mode the mean. log s stays finite however small s is.

    Args:
        preprocess, network: as of every encoder.
        shift: -5: where the network starts with r = 0, s is 0.0067 (Alemi et al., "Deep
            variational information bottleneck", ICLR 2017).
    """

    kind = "gaussian"

    def __init__(self, preprocess: Invertible, network: nn.Module, shift: float = -5.0) -> None:
        super().__init__(preprocess, network)
        self.shift = shift

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Encoding:
        """z, mean and log_var."""
        mean, raw = self.network(self.preprocess(x)[0]).chunk(2, dim=1)
        log_std = log_softplus(raw + self.shift)
        z = mean
        if self.training:
            z = mean + log_std.exp() * own_rows(empty_for_all(mean).normal_(generator=generator))
        return Encoding(z, mean=mean, log_var=2 * log_std)


def log_softplus(r: Tensor) -> Tensor:
    """log log(1 + e^r), which is r where e^r no longer counts beside 1."""
    return torch.where(r < -20, r, nn.functional.softplus(r.clamp_min(-20)).log())
