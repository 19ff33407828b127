"""Suite `cycle`: does the model read back what it has drawn itself, (y, z) -> x -> (y, z)?"""

from typing import Any

import torch

from flowclf.classifier import evaluating, latents
from flowclf.evaluation import metrics
from flowclf.evaluation.context import Subject
from flowclf.support.errors import UserError
from flowclf.support.seeding import generator_for

__all__ = ["cycle_suite"]


def cycle_suite(subject: Subject) -> dict[str, Any]:
    """Draw latents of all classes in turn, `samples` in all, decode them, and encode what comes.

    `cycle_accuracy` is the share whose predicted class is the one drawn; `cycle_latent_error` is

        Σ |z' - z|² / Σ |z - E[z|y]|²   over draws, and dimensions that vary within the classes:

    0 where each z is found again, as by a flow; 1 or more where x says nothing of it; None of less
    than two draws a class.

    Raises:
        UserError: a system that cannot draw.
    """
    model = subject.model
    if not model.can_sample:
        raise UserError(
            f"the suite 'cycle' needs a system that draws, got {type(model).__name__}, which has "
            "no model of x; leave it out"
        )
    device = model.mixture.device
    y = torch.arange(subject.options.samples, device=device) % model.classes
    generator = generator_for(subject.seed, "cycle", device=device)
    with torch.no_grad(), evaluating(model):
        z = model.draw_latents(y, 1.0, generator, "means")
        x = model.decode(z)
        log_posterior, found = model.log_posterior(x), latents(model, x)
    own = torch.nn.functional.one_hot(y, model.classes).to(z)
    within = z - own @ ((own.T @ z) / own.sum(0).clamp_min(1)[:, None])
    varying = within.abs().amax(0) > 0
    error = (found - z)[:, varying].square().sum() / within.square().sum()
    return {
        "cycle_accuracy": metrics.accuracy(log_posterior.cpu(), y.cpu()),
        "cycle_latent_error": float(error) if bool(varying.any()) else None,
    }
