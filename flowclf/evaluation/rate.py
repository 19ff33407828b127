"""Information of latents about x: aggregate posterior, importance bounds, cross-information."""

from math import isinf
from typing import Any

import torch
from torch import Tensor

from flowclf.classifier import GenerativeClassifier, evaluating
from flowclf.evaluation.metrics import bits_per_dim
from flowclf.latent.information import active_units, information
from flowclf.nn.sample_softmax import IdentitySoftmax
from flowclf.support import validate
from flowclf.support.seeding import generator_for
from flowclf.systems.autoencoder import Autoencoder

__all__ = [
    "aggregate_information",
    "cross_information",
    "gaussians",
    "importance_bounds",
    "noisy_log_probs",
    "softmax_information",
]

BATCH_SIZE = 512
LATENTS = 1000
MOST_LATENTS = 10_000


def aggregate_information(model: GenerativeClassifier, x: Tensor, seed: int = 0) -> dict[str, Any]:
    """Compute `mi_nats` I(x; z), `md_nats` KL(q(z) ‖ p(z)), `active_units` of x (N, *shape).

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
    """Return mean and log-variance of q(z|x), (N, D) each, in eval mode, batch by batch."""
    device = model.mixture.device
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
    """Compute `importance_bound` of x (N, *shape) on the model's device, (N,), nats."""
    generator = generator_for(seed, "bound", device=x.device)
    with evaluating(model):
        return torch.cat([model.importance_bound(p, None, draws, generator) for p in x.split(20)])


@torch.no_grad()
def noisy_log_probs(model: GenerativeClassifier, x: Tensor, draws: int, seed: int = 0) -> Tensor:
    """Compute log q(x + u) of grey levels x (N, *shape) at draws of u from U[0, 1): (draws, N).

    Their mean bounds log P(x) = log ∫ q(x + u) du from below, as does, more tightly, the log of the
    mean of q (Burda et al. 2016, Eq. 8, with the noise for z); nats, float64.

    Raises:
        UserError: fewer than one draw.
    """
    validate.at_least("draws", draws, 1)
    device = model.mixture.device
    generator, found = generator_for(seed, "bound", device=device), []
    with evaluating(model):
        for part in x.split(BATCH_SIZE):
            noisy = (model.dequantize(part.to(device), generator) for _ in range(draws))
            found.append(torch.stack([model.log_prob(each).double() for each in noisy]))
    return torch.cat(found, 1)


@torch.no_grad()
def cross_information(model: GenerativeClassifier, x: Tensor, seed: int = 0) -> float | None:
    """Compute CI(X; Z) = -mean log q(x + ε) - h(ε) of x (N, *shape), nats; None without noise.

    What the latents of a flow know of x, by the noise ε that it was trained with: without end as ε
    vanishes, and never below I(X; Z). IB-INN (Ardizzone et al. 2020), Sec. 3.1 and Prop. 2.
    """
    entropy = model.noise.entropy(floating=x.is_floating_point())
    if isinf(entropy):
        return None
    device, values = model.mixture.device, []
    generator = generator_for(seed, "cross-information", device=device)
    with evaluating(model):
        for part in x.split(BATCH_SIZE):
            values.append(-model.log_prob(model.perturb(part.to(device), generator)).double())
    return float(torch.cat(values).mean()) - entropy


@torch.no_grad()
def learned_noise_bits(model: GenerativeClassifier, x: Tensor, seed: int = 0) -> float:
    """Compute -mean (log₂ q(x + u) - log₂ q(u|x))/d of grey levels x, bits, with the learned u.

    A bound on the bits/dim of the levels of its own, beside the one by uniform noise.
    """
    device, values = model.mixture.device, []
    generator = generator_for(seed, "learned noise", device=device)
    with evaluating(model):
        for part in x.split(BATCH_SIZE):
            noisy, log_noise = model.noise.draw(part.to(device), generator)
            assert log_noise is not None
            values.append((model.log_prob(noisy) - log_noise).double())
    return bits_per_dim(torch.cat(values), model.dims)


@torch.no_grad()
def softmax_information(model: Autoencoder, x: Tensor, kl: float | None = None) -> dict[str, float]:
    """Compute I(z; x) and KL(q(z) ‖ p(z)) by a VAE-AS' softmax over its training samples x.

    `identity_nats` its cross-entropy SC at one z for each of the first 10,000; `mi_nats` = log N -
    SC, a lower bound; `md_nats` = KL + SC - log N, an upper one; `mi_entropy_nats` the paper's own.

    Args:
        model: a VAE-AS.
        x: its training samples, from the first.
        kl: mean KL(q(z|x) ‖ p(z)); None: of these samples.
    """
    softmax, device = model.heads["identity"], model.mixture.device
    assert isinstance(softmax, IdentitySoftmax)
    generator, values = generator_for(0, "rate", device=device), []
    with evaluating(model):
        for index in torch.arange(min(MOST_LATENTS, len(x)), device=device).split(BATCH_SIZE):
            encoding = model.encode(x[index.cpu()].to(device))
            z = encoding.draw(1, generator)[0]
            divergence = model.kl(encoding, model.mixture.densities(z))
            values.append(torch.stack((*softmax(z, index), divergence)))
    identity, entropy, own = (float(v.mean()) for v in torch.cat(values, 1))
    known = softmax.log_count - identity
    return {
        "identity_nats": identity,
        "mi_nats": known,
        "md_nats": (own if kl is None else kl) - known,
        "mi_entropy_nats": softmax.log_count - entropy,
    }
