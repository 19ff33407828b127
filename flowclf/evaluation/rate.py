"""What a Gaussian encoder's latents say of x, by its aggregate posterior on a set of samples."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flowclf.autoencoder import Autoencoder
from flowclf.classifier import GenerativeClassifier, evaluating
from flowclf.information import active_units, information
from flowclf.seeding import generator_for

__all__ = ["aggregate_information", "gaussians", "importance_bounds"]

BATCH_SIZE = 512
LATENTS = 1000


def aggregate_information(model: GenerativeClassifier, x: Tensor, seed: int = 0) -> dict[str, Any]:
    """`mi_nats` I(x; z), `md_nats` KL(q(z) ‖ p(z)) and `active_units`, of samples x (N, *shape).

    q(z) is the average of all N Gaussians; both are Monte-Carlo at one z for each of the first
    thousand, so that I is at most log N.
    """
    mean, log_var = gaussians(model, x)
    own = mean[:LATENTS], log_var[:LATENTS]
    noise = torch.empty_like(own[0])
    noise.normal_(generator=generator_for(seed, "information", device=noise.device))
    z = own[0] + (0.5 * own[1]).exp() * noise
    with torch.no_grad():
        found = information(z, *own, mean, log_var, model.mixture.log_prob(z))
    return {**found, "active_units": active_units(mean)}


@torch.no_grad()
def gaussians(model: GenerativeClassifier, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log-variance of q(z|x), (N, D) each, in eval mode, batch by batch."""
    device = model.mixture.means.device
    means, log_vars = [], []
    with evaluating(model):
        for part in x.split(BATCH_SIZE):
            encoding = model.encode(part.to(device))
            assert encoding.mean is not None
            assert encoding.log_var is not None
            means.append(encoding.mean)
            log_vars.append(encoding.log_var)
    return torch.cat(means), torch.cat(log_vars)


def importance_bounds(model: Autoencoder, x: Tensor, draws: int, seed: int = 0) -> Tensor:
    """`importance_bound` of x (N, *shape) on the model's device, (N,), nats, in eval mode."""
    generator = generator_for(seed, "bound", device=x.device)
    with evaluating(model):
        return torch.cat([model.importance_bound(p, None, draws, generator) for p in x.split(20)])
