"""Encoders: from data to the latent space of the mixture, and what each knows exactly."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from couplings import Invertible

__all__ = ["Encoding", "InvertibleEncoder"]


@dataclass(frozen=True)
class Encoding:
    """Latents z (B, D) and what the encoder knows beside them.

    Attributes:
        z: latents; a Gaussian encoder's sample.
        log_det: log|det dz/dx| (B,) in nats, of an invertible encoder.
        mean, log_var: (B, D) of a Gaussian encoder.
    """

    z: Tensor
    log_det: Tensor | None = None
    mean: Tensor | None = None
    log_var: Tensor | None = None


class InvertibleEncoder(nn.Module):
    """Fitted pre-processing, then an invertible network: both count in the log-determinant.

    Args:
        preprocess: from data units to network units, e.g. standardisation.
        network: from there to latents (D,).
    """

    def __init__(self, preprocess: Invertible, network: Invertible) -> None:
        super().__init__()
        self.preprocess, self.network = preprocess, network

    def forward(self, x: Tensor) -> Encoding:
        """Encoding of x (B, *shape) in data units."""
        u, log_det_preprocess = self.preprocess(x)
        z, log_det_network = self.network(u)
        return Encoding(z, log_det_preprocess + log_det_network)

    def decode(self, z: Tensor) -> Tensor:
        """The x of latents z (B, D), in data units."""
        u, _ = self.network.inverse(z)
        x, _ = self.preprocess.inverse(u)
        return x
