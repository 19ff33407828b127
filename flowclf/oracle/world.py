"""`World`: a trained flow taken for the truth, from which data are drawn."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from flowclf.classifier import GenerativeClassifier, evaluating
from flowclf.data import Dataset, Split
from flowclf.evaluation.calibration import expected_calibration_error
from flowclf.evaluation.metrics import accuracy
from flowclf.support import validate
from flowclf.support.errors import UserError
from flowclf.support.seeding import generator_for

__all__ = ["Judgement", "World", "calibration_error"]

BATCH_SIZE = 512


@dataclass(frozen=True)
class Judgement:
    """A classifier q(y|x) beside the truth p(y|x); averages over samples, nats where not shares."""

    accuracy: float  # on the labels that were drawn
    bayes_accuracy: float  # E max_k p(k|x): the best that there is
    calibration_error: float  # E |max_k q(k|x) - E[p(k|x) | q(k|x)]|, see the function
    ece: float  # what 15 bins and the labels make of it
    distance: float  # E |max_k q(k|x) - p(k|x)|, of the same k: not to be seen from labels
    cross_entropy: float  # E Σ_k -p(k|x) log q(k|x), = aleatoric + epistemic
    aleatoric: float  # E H(p(y|x)): doubt that no classifier can avoid
    epistemic: float  # E KL(p(y|x) ‖ q(y|x)): what this one does not know

    @property
    def ece_bias(self) -> float:
        """The binned error less the true one."""
        return self.ece - self.calibration_error


class World:
    """The truth of a flow: x | y ~ q(x|y), y by the mixture's weights, and p(y|x) by Bayes' rule.

    The world of an image is that of real numbers, not of grey levels: its x are floating-point.

    Args:
        model: a trained system with an exact density and an inverse, e.g. class-nll.

    Raises:
        UserError: a system without a density.
    """

    def __init__(self, model: GenerativeClassifier) -> None:
        if not (model.has_density and model.can_sample):
            raise UserError(
                f"expected a model with an exact density to draw from, got {type(model).__name__}; "
                "train ib-inn or class-nll"
            )
        self.model = model

    @torch.no_grad()
    def draw(self, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Draw x (N, *shape) and labels y (N,), the same for the same seed.

        Raises:
            UserError: fewer than one.
        """
        validate.at_least("count", count, 1)
        mixture = self.model.mixture
        generator = generator_for(seed, "world", device=mixture.device)
        weights = mixture.log_weights.exp()
        y = torch.multinomial(weights, count, replacement=True, generator=generator)
        with evaluating(self.model):
            parts = [self.model.sample(part, 1.0, generator) for part in y.split(BATCH_SIZE)]
        return torch.cat(parts).cpu(), y.cpu()

    @torch.no_grad()
    def log_posterior(self, x: Tensor) -> Tensor:
        """Compute the true log p(k|x), (N, *shape) to (N, K), float64.

        Raises:
            UserError: x of another shape.
        """
        mixture = self.model.mixture
        with evaluating(self.model):
            parts = [
                mixture.log_prob_given_class(self.model.encode(part.to(mixture.device)).z).cpu()
                for part in x.split(BATCH_SIZE)
            ]
        # By the weights that y are drawn with, whatever the model itself predicts with.
        weights = mixture.log_weights.detach().cpu().double()
        return (torch.cat(parts).double() + weights).log_softmax(1)

    def bayes_error(self, count: int = 10_000, seed: int = 0) -> float:
        """Estimate E (1 - max_k p(k|x)), the smallest error rate, from so many x."""
        x, _ = self.draw(count, seed)
        return float(1 - self.log_posterior(x).exp().amax(1).mean())

    def judge(self, log_posterior: Tensor, x: Tensor, y: Tensor) -> Judgement:
        """Judge anybody's log q(k|x) (N, K) of samples x that were drawn here with labels y.

        Raises:
            UserError: another number of rows or classes.
        """
        if log_posterior.shape != (len(x), self.model.classes):
            raise UserError(
                f"expected log_posterior of shape {(len(x), self.model.classes)}, got "
                f"{tuple(log_posterior.shape)}"
            )
        q, p = log_posterior.double(), self.log_posterior(x)
        confidence, k = q.exp().max(1)
        truth = p.exp().gather(1, k[:, None])[:, 0]
        cross_entropy = -(p.exp() * q.clamp_min(-700)).sum(1).mean()
        aleatoric = torch.special.entr(p.exp()).sum(1).mean()
        return Judgement(
            accuracy=accuracy(q, y),
            bayes_accuracy=float(p.exp().amax(1).mean()),
            calibration_error=calibration_error(confidence, truth),
            ece=expected_calibration_error(q, y),
            distance=float((confidence - truth).abs().mean()),
            cross_entropy=float(cross_entropy),
            aleatoric=float(aleatoric),
            epistemic=float(cross_entropy - aleatoric),
        )

    def dataset(self, train: int, test: int, seed: int = 0) -> Dataset:
        """Draw a data set of tables, for `flowclf.train`.

        Raises:
            UserError: a world of images, whose x are no grey levels.
        """
        if len(self.model.shape) != 1:
            raise UserError(
                f"expected a world of tables, got samples of shape {self.model.shape}; draw() has "
                "images as real numbers"
            )
        known, new = Split(*self.draw(train, 2 * seed)), Split(*self.draw(test, 2 * seed + 1))
        return Dataset("world", known, new, tuple(map(str, range(self.model.classes))))


def calibration_error(confidence: Tensor, truth: Tensor) -> float:
    """Estimate E |c - E[t | c]| of confidences c and true probabilities t of the same class, (N,).

    E[t | c] by local averages: of the √N nearest confidences on either side. No label is drawn, so
    that the noise of a bin's accuracy is not counted as an error.
    """
    order = confidence.argsort()
    c, t = confidence[order].double(), truth[order].double()
    half = max(int(len(c) ** 0.5), 1)
    sums = torch.cat([t.new_zeros(1), (c - t).cumsum(0)])
    places = torch.arange(len(c))
    low, high = (places - half).clamp_min(0), (places + half + 1).clamp_max(len(c))
    return float(((sums[high] - sums[low]) / (high - low)).abs().mean())
