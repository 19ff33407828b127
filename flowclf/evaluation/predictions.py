"""What a model says of a split: posteriors, and densities or bounds where it has them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from flowclf.classifier import GenerativeClassifier, evaluating
from flowclf.data import Split
from flowclf.support.errors import UserError
from flowclf.support.seeding import generator_for

__all__ = ["Predictions", "predict_split"]

BATCH_SIZE = 512


@dataclass(frozen=True)
class Predictions:
    """What a model says of a split.

    Attributes:
        y: labels (N,).
        log_posterior: (N, K), of the noise-free x.
        log_prob: log q(x) (N,) in nats, data units, of the uniformly dequantised x, or None.
        elbo: its lower bound (N,), where a system has that instead, or None.
        paper_rate_per_dim: L_X/d (N,) in the units of IB-INN's authors, or None.
        dims: dimensions of one sample.
        bounds_bits: whether log_prob or elbo bounds the bits that x takes.
    """

    y: Tensor
    log_posterior: Tensor
    log_prob: Tensor | None
    elbo: Tensor | None
    paper_rate_per_dim: Tensor | None
    dims: int
    bounds_bits: bool


@torch.no_grad()
def predict_split(model: GenerativeClassifier, split: Split, seed: int = 0) -> Predictions:
    """Posteriors and densities of a split, batch by batch on the model's device.

    Raises:
        UserError: an empty split, or a model whose posteriors or densities are not numbers.
    """
    if len(split) == 0:
        raise UserError("expected at least one sample to evaluate, got none")
    with evaluating(model):
        batches = [
            _predict_batch(model, split.x[start : start + BATCH_SIZE], seed, start)
            for start in range(0, len(split), BATCH_SIZE)
        ]
    log_posterior, log_prob, elbo, paper = map(_join, zip(*batches, strict=True))
    assert log_posterior is not None
    _check_numbers(log_posterior=log_posterior, log_prob=log_prob, elbo=elbo)
    bounds = model.bounds_bits(split.x)
    return Predictions(split.y, log_posterior, log_prob, elbo, paper, model.dims, bounds)


def _predict_batch(
    model: GenerativeClassifier, x: Tensor, seed: int, start: int
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Posterior, density, its bound and IB-INN's rate of a batch."""
    device = model.mixture.device
    x = x.to(device)
    log_posterior = model.log_posterior(x).cpu()
    if not (model.has_density or model.has_elbo):
        return log_posterior, None, None, None
    noisy = model.dequantize(x, generator_for(seed, "evaluate", start, device=device))
    if not model.has_density:
        return log_posterior, None, model.elbo(noisy).cpu(), None
    log_prob = model.log_prob(noisy)
    paper = getattr(model, "paper_rate_per_dim", None)
    rate = paper(noisy, log_prob).cpu() if paper else None
    return log_posterior, log_prob.cpu(), None, rate


def _check_numbers(**values: Tensor | None) -> None:
    """Infinite values are possible, NaN never is."""
    for name, value in values.items():
        wrong = 0 if value is None else int(value.reshape(len(value), -1).isnan().any(1).sum())
        if value is not None and wrong:
            raise UserError(
                f"expected a {name} that is a number, got NaN for {wrong} of {len(value)} samples; "
                "the weights or the data hold NaN: train the run again or mend the data"
            )


def _join(parts: tuple[Tensor | None, ...]) -> Tensor | None:
    present = [part for part in parts if part is not None]
    return torch.cat(present) if present else None
