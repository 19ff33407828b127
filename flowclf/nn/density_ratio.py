"""Discriminators on the latents, trained by a loss of their own."""

from typing import Literal

import torch
from torch import Tensor, nn

from couplings.conditioners import kaiming_linear
from couplings.ops.dispatch import full_precision
from flowclf.latent.gaussian import GaussianMixture

__all__ = ["DensityRatio", "RatioKind"]

RatioKind = Literal["affine", "quadratic", "mlp"]


class DensityRatio(nn.Module):
    """Discriminators T_k(z), one per class, with optimum log q(z|k)/p(z|k).

        affine:     T_k(z) = a_k·u + c_k,            u = (z - μ_k)/σ_k of the mixture
        quadratic:  T_k(z) = a_k·u + b_k·u² + c_k
        mlp:        T_k(z) = v_k·tanh(W_k u + d_k) + c_k

    Functions affine or quadratic in u are so in z; in u they are well scaled wherever the class
    lies. Affine ones are exact if q and p are Gaussians of equal covariance (and blind to other
    differences), quadratic ones for all diagonal Gaussians. All start at zero. Dhuliawala et al.,
    "Variational classification", TMLR 2023, Sec. 3.3. `hidden` units per class of "mlp" start with
    weights from `generator`.
    """

    def __init__(
        self,
        classes: int,
        dims: int,
        kind: RatioKind,
        hidden: int = 64,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.kind = kind
        self.bias = nn.Parameter(torch.zeros(classes))
        features = {"affine": dims, "quadratic": 2 * dims, "mlp": hidden}[kind]
        self.weight = nn.Parameter(torch.zeros(classes, features))
        if kind == "mlp":
            generator = generator or torch.Generator().manual_seed(0)
            inner = kaiming_linear(dims, classes * hidden, generator, gain=0.5**0.5)
            self.inner_weight = nn.Parameter(inner.weight.detach().view(classes, hidden, dims))
            self.inner_bias = nn.Parameter(torch.zeros(classes, hidden))

    def forward(self, z: Tensor, mixture: GaussianMixture) -> Tensor:
        """Return T_k(z) of all classes, (B, D) to (B, K), nats; the mixture only sets the units.

        In the dtype of z also under autocast, as the densities that it compares.
        """
        with full_precision(z):
            return self._ratios(z, mixture)

    def frozen(self, z: Tensor, mixture: GaussianMixture) -> Tensor:
        """Return T_k(z) without gradients for the discriminators' own parameters."""
        parameters = {name: value.detach() for name, value in self.named_parameters()}
        out: Tensor = torch.func.functional_call(self, parameters, (z, mixture))
        return out

    def _ratios(self, z: Tensor, mixture: GaussianMixture) -> Tensor:
        scale = 1 / mixture.std().detach()
        shift = mixture.means.detach() * scale
        if self.kind == "mlp":
            inner = self.inner_weight * scale[:, None]
            offset = self.inner_bias - (self.inner_weight @ shift[..., None])[..., 0]
            hidden = torch.tanh(torch.einsum("bd,khd->bkh", z, inner) + offset)
            return (hidden * self.weight).sum(2) + self.bias
        linear = self.weight[:, : z.shape[1]]
        slope, offset = linear * scale, self.bias - (linear * shift).sum(1)
        if self.kind == "affine":
            return z @ slope.T + offset
        square = self.weight[:, z.shape[1] :]
        slope = slope - 2 * square * shift * scale
        offset = offset + (square * shift.square()).sum(1)
        features, weights = (z, z.square()), (slope, square * scale.square())
        return torch.cat(features, 1) @ torch.cat(weights, 1).T + offset
