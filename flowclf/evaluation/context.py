"""Context of an evaluation: the model, its splits, options, and predictions computed once."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from flowclf.classifier import GenerativeClassifier, evaluating
from flowclf.data import Split
from flowclf.data.corruptions import CORRUPTIONS, SEVERITIES
from flowclf.data.outliers import Outliers
from flowclf.evaluation.scores import Reference, model_scores
from flowclf.evaluation.statistics import COSTLY, STATISTICS
from flowclf.support.errors import UserError
from flowclf.support.seeding import generator_for

__all__ = ["MOST_TRAINING", "PLAIN", "Options", "Predictions", "Scores", "Subject", "predict_split"]

Scores = dict[str, Tensor]

# Training samples that are used beside the test split.
MOST_TRAINING = 10_000
BATCH_SIZE = 512


@dataclass(frozen=True)
class Predictions:
    """Predictions of a model on a split."""

    y: Tensor  # labels (N,)
    log_posterior: Tensor  # (N, K), of the noise-free x
    # log q(x) (N,) in nats, data units, of the uniformly dequantised x, or None
    log_prob: Tensor | None
    elbo: Tensor | None  # its lower bound (N,), where a system has that instead, or None
    # further published rates (N,) by name, of the same x; see `extra_rates`
    rates: dict[str, Tensor]
    dims: int  # dimensions of one sample
    bounds_bits: bool  # True if log_prob or elbo bounds the bits that x takes


@torch.no_grad()
def predict_split(model: GenerativeClassifier, split: Split, seed: int = 0) -> Predictions:
    """Compute posteriors and densities of a split, batch by batch on the model's device.

    Raises:
        UserError: an empty split, or NaN among posteriors or densities.
    """
    if len(split) == 0:
        raise UserError("expected at least one sample to evaluate, got none")
    with evaluating(model):
        batches = [
            _predict_batch(model, split.x[start : start + BATCH_SIZE], seed, start)
            for start in range(0, len(split), BATCH_SIZE)
        ]
    values = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    known = {name: values.pop(name, None) for name in ("log_posterior", "log_prob", "elbo")}
    for name, value in known.items():  # infinite values are possible
        if value is not None and (wrong := int(value.view(len(value), -1).isnan().any(1).sum())):
            raise UserError(
                f"expected a {name} that is a number, got NaN for {wrong} of {len(value)} samples; "
                "the weights or the data hold NaN: train the run again or clean the data"
            )
    log_posterior = known.pop("log_posterior")
    assert log_posterior is not None
    bounds = model.bounds_bits(split.x)
    return Predictions(
        split.y, log_posterior, **known, rates=values, dims=model.dims, bounds_bits=bounds
    )


@dataclass(frozen=True)
class Options:
    """Options of the suites that use other data than the test split."""

    outliers: tuple[Outliers, ...] = ()  # out-of-distribution sets of `ood`
    families: tuple[str, ...] = tuple(CORRUPTIONS)  # of `shift`
    severities: tuple[int, ...] = SEVERITIES  # of `shift`
    # folder of the data set's official corrupted images, in place of our own
    official: Path | None = None
    # of `attack`, as fractions of the range of grey levels
    epsilons: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2, 0.3)
    # at most so many test images for `shift`, `attack` and `bound`, and drawn ones for `samples`
    samples: int = 1000
    temperatures: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8, 1.0)  # of `samples`
    judge_steps: int = 600  # training steps of the network that judges `samples`
    # importance samples of `bound`; None: 1000 of an encoder's z, 16 of a flow's noise
    draws: int | None = None
    explained: int = 8  # number of predictions that `explain` looks at
    levels: int | None = 256  # grey levels of images, None for a table
    features: bool = False  # True: the table is one of frozen features
    costly: bool = False  # True: scores that take backward passes, too
    general: GenerativeClassifier | None = None  # of the score `ratio`


PLAIN = Options()


@dataclass(frozen=True)
class Subject:
    """Model and data that a suite evaluates."""

    model: GenerativeClassifier  # in any mode; it is evaluated in eval mode and put back
    test: Split  # split to evaluate on
    training: Split | None = None  # split that the model was trained on, where a suite needs it
    validation: Split | None = None  # split held out from the training, where a suite needs it
    seed: int = 0  # of the dequantisation noise and of all that is drawn
    options: Options = PLAIN  # of the suites on other data
    report: Callable[[str], None] = lambda _: None  # called with a line of progress

    @cached_property
    def predictions(self) -> Predictions:
        """Predictions on the test split, computed once for all suites."""
        return predict_split(self.model, self.test, self.seed)

    @cached_property
    def held_out(self) -> Predictions | None:
        """Predictions on the validation split, if there is one; computed once."""
        if not self.validation:
            return None
        return predict_split(self.model, self.validation, self.seed)

    @cached_property
    def reference(self) -> Reference | None:
        """Training samples that scores are fitted to, if there are any; fitted once."""
        if not self.training:
            return None
        known = self.training.spread(MOST_TRAINING).x
        return Reference.fit(self.model, known, self.seed, self._statistics)

    @property
    def _statistics(self) -> tuple[str, ...]:
        """Names of what scores are made of."""
        return (*STATISTICS, *(COSTLY if self.options.costly else ()))

    def _scores(self, x: Tensor) -> Scores:
        options = self._statistics, self.options.general
        return model_scores(self.model, x, self.reference, *options)

    @cached_property
    def test_scores(self) -> Scores:
        """All scores of the test split, computed once."""
        return self._scores(self.test.x)

    @cached_property
    def held_out_scores(self) -> Scores | None:
        """All scores of the validation split, if there is one; computed once."""
        if not self.validation:
            return None
        return self._scores(self.validation.x)

    @cached_property
    def outlier_scores(self) -> tuple[Scores, dict[str, Scores]]:
        """All scores of the test split, and of each out-of-distribution set by its name.

        Raises:
            UserError: no such set, or no training split.
        """
        outliers = self.options.outliers
        if not outliers:
            raise UserError(
                "the suite 'ood' needs out-of-distribution data; name some, "
                "e.g. --outliers noise,flipped"
            )
        self.needs_training("ood")
        outside = {}
        for each in outliers:
            self.report(f"out-of-distribution: {each.name}")
            outside[each.name] = self._scores(each.x)
        return self.test_scores, outside

    def images(self, suite: str) -> tuple[Split, int]:
        """Return the first test images, and their grey levels.

        Raises:
            UserError: a table.
        """
        if self.options.levels is None:
            raise UserError(f"the suite {suite!r} needs images, got a table; leave it out")
        return self.test.take(slice(self.options.samples)), self.options.levels

    def needs_training(self, suite: str) -> Split:
        """Return the labelled training samples.

        Raises:
            UserError: there are none.
        """
        if self.training is None:
            raise UserError(f"the suite {suite!r} needs the training split; give training=…")
        return self.training.labelled()


def _predict_batch(
    model: GenerativeClassifier, x: Tensor, seed: int, start: int
) -> dict[str, Tensor]:
    """Return posterior, density or its bound, and further rates of a batch, on the CPU."""
    device = model.mixture.device
    x = x.to(device)
    found = {"log_posterior": model.log_posterior(x)}
    if model.has_elbo:
        noisy = model.dequantize(x, generator_for(seed, "evaluate", start, device=device))
        if model.has_density:
            log_prob = model.log_prob(noisy)
            found |= {"log_prob": log_prob, **model.extra_rates(noisy, log_prob)}
        else:
            found |= {"elbo": model.elbo(noisy), **model.extra_rates(noisy)}
    return {name: values.cpu() for name, values in found.items()}
