"""Exactness of an invertible encoder in floating-point numbers, float32 as a rule.

In real numbers decode(encode(x)) is x and encode(decode(z)) is z. In floating-point numbers
rounding grows with the condition of the map, and nothing else shows it: the likelihood of a map
that has lost its inverse looks like any other. Errors of x are measured where the network sees it,
behind the pre-processing, where by default the standard deviation of a feature or pixel is 1; those
of z in the latents' own units, where that of a class is 1 at the start. What is not finite is off
by infinity.
"""

from copy import deepcopy
from math import inf

import torch
from torch import Tensor

from flowclf.classifier import GenerativeClassifier, evaluating, latents
from flowclf.latent.gaussian import Around
from flowclf.nn.encoders import InvertibleEncoder
from flowclf.support.errors import UserError
from flowclf.support.seeding import generator_for

__all__ = [
    "TOLERANCE",
    "InexactInverse",
    "check_exact",
    "check_exact_draws",
    "check_exact_walks",
    "has_inverse",
    "inverse_errors",
    "latent_errors",
    "points",
    "precision_errors",
]

# A thousandth of a standard deviation: far below what a picture shows, far above rounding.
TOLERANCE = 1e-3
MOST = 256


class InexactInverse(UserError):
    """Raised where an inverse does not give back what it was handed."""


def has_inverse(model: GenerativeClassifier) -> bool:
    """Return True if there is an inverse to check; i-revnet has one, though no density."""
    return model.encoder_kind == "invertible"


@torch.no_grad()
def inverse_errors(model: GenerativeClassifier, x: Tensor) -> Tensor:
    """Compute max over dimensions of |u(decode(encode(x))) - u(x)|, (B,), u the pre-processing.

    Args:
        model: with an invertible encoder; evaluated in eval mode and put back.
        x: points (B, *shape), in data units, in the model's dtype and on its device.

    Raises:
        UserError: the system has no inverse.
    """
    encoder = _invertible(model)
    with evaluating(model):
        return _distance(*_back_and_given(encoder, x))


@torch.no_grad()
def latent_errors(model: GenerativeClassifier, z: Tensor) -> Tensor:
    """Compute the larger of max |encode(x) - z| and the inverse error, x = decode(z): (B,).

    Neither does alone. Where decoding amplifies rounding, encoding shrinks it again, and z is as it
    was; where decoding takes many z to one x, that x is as it was.

    Args, errors: as of `inverse_errors`; latents z (B, D) in place of x.
    """
    encoder = _invertible(model)
    with evaluating(model):
        x = encoder.decode(z)
        return torch.maximum(_distance(encoder(x).z, z), _distance(*_back_and_given(encoder, x)))


@torch.no_grad()
def precision_errors(model: GenerativeClassifier, x: Tensor) -> tuple[Tensor, Tensor]:
    """Compare the model with a copy of it in float64, the same numbers: (B,) each.

        |log_det - log_det64| / max(1, |log_det64|)   and   max over the dimensions of |z - z64|

    Args, errors: as of `inverse_errors`.
    """
    encoder = _invertible(model)
    with evaluating(model):
        got, exact = encoder(x), deepcopy(encoder).double()(x.double())
    assert got.log_det is not None
    assert exact.log_det is not None
    scale = exact.log_det.abs().clamp_min(1)
    log_det = _distance((got.log_det / scale)[:, None], (exact.log_det / scale)[:, None])
    return log_det, _distance(got.z, exact.z)


def points(model: GenerativeClassifier, x: Tensor, seed: int = 0) -> Tensor:
    """Return the first 256 of x (N, *shape) on the model's device, grey levels with noise."""
    device = model.mixture.device
    generator = generator_for(seed, "exactness", device=device)
    return model.dequantize(x[:MOST].to(device), generator)


def check_exact(model: GenerativeClassifier, x: Tensor, seed: int = 0) -> None:
    """Refuse a model that does not give the first 256 of x (N, *shape) back within 1e-3.

    Args:
        model: any; without an inverse there is nothing to refuse.
        x: samples as for `encode`.
        seed: of the noise on grey levels.

    Raises:
        InexactInverse: it does not.
    """
    if has_inverse(model):
        _check(inverse_errors(model, points(model, x, seed)), "samples")


@torch.no_grad()
def check_exact_walks(model: GenerativeClassifier, x: Tensor, seed: int = 0) -> None:
    """Apply `check_exact`, also to class means and points halfway between latents of these x.

    Args, errors: as of `check_exact`; see `latent_errors`.
    """
    check_exact(model, x, seed)
    if has_inverse(model):
        z = latents(model, points(model, x, seed))
        halfway = z.lerp(z.roll(1, 0), 0.5)
        _check(latent_errors(model, torch.cat((halfway, model.mixture.centres()))), "latents")


@torch.no_grad()
def check_exact_draws(
    model: GenerativeClassifier, temperature: float, seed: int = 0, around: Around = "means"
) -> None:
    """Refuse a model that does not give 256 latents of all classes back, see `latent_errors`.

    Args:
        model: any; without an inverse there is nothing to refuse.
        temperature, around: as of `sample`.
        seed: of the latents.

    Raises:
        InexactInverse: it does not.
    """
    if has_inverse(model):
        device = model.mixture.device
        y = torch.arange(MOST, device=device) % model.classes
        generator = generator_for(seed, "exactness", device=device)
        z = model.mixture.sample(y, temperature, generator, around)
        _check(latent_errors(model, z), "latents")


def _check(errors: Tensor, what: str) -> None:
    worst = float(errors.max())
    if worst > TOLERANCE:
        raise InexactInverse(
            f"expected an inverse that gives {what} back within {TOLERANCE:g} standard deviations, "
            f"got one that is off by {worst:.2g}: train again with a smaller train.lr or "
            "network.clamp.limit, or take what it decodes as it is (--allow-inexact)"
        )


def _invertible(model: GenerativeClassifier) -> InvertibleEncoder:
    if not isinstance(model.encoder, InvertibleEncoder):
        raise UserError(f"expected a system with an inverse, got {type(model).__name__}")
    return model.encoder


def _back_and_given(encoder: InvertibleEncoder, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return u(decode(encode(x))) and u(x), where the network sees them."""
    back = encoder.decode(encoder(x).z)
    return encoder.preprocess(back)[0], encoder.preprocess(x)[0]


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """Return max over the dimensions of |a - b|, (B,), infinite where it is NaN."""
    return (a - b).abs().flatten(1).amax(1).nan_to_num(nan=inf, posinf=inf)
