"""What a suite looks at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import Tensor

from flowclf.classifier import GenerativeClassifier
from flowclf.data import Split
from flowclf.data.corruptions import CORRUPTIONS, SEVERITIES
from flowclf.data.outliers import Outliers
from flowclf.evaluation.predictions import Predictions, predict_split
from flowclf.evaluation.scores import model_scores, training_centre
from flowclf.support.errors import UserError

__all__ = ["MOST_TRAINING", "PLAIN", "Options", "Scores", "Subject"]

Scores = dict[str, Tensor]

# Training samples that are looked at beside the test split.
MOST_TRAINING = 10_000


@dataclass(frozen=True)
class Options:
    """What the suites on other than the test data look at.

    Attributes:
        outliers: of `ood`: sets that are not of the training data.
        families, severities: of `shift`.
        official: folder of the data set's official corrupted images, in place of our own.
        epsilons: of `attack`, as fractions of the range of grey levels.
        samples: at most so many test images for `shift`, `attack` and `bound`.
        draws: importance samples of `bound`.
        explained: how many decisions `explain` looks at.
        levels: grey levels of images, None for a table.
    """

    outliers: tuple[Outliers, ...] = ()
    families: tuple[str, ...] = tuple(CORRUPTIONS)
    severities: tuple[int, ...] = SEVERITIES
    official: Path | None = None
    epsilons: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2, 0.3)
    samples: int = 1000
    draws: int = 1000
    explained: int = 8
    levels: int | None = 256


PLAIN = Options()


def _silent(text: str) -> None:
    """Nobody is told."""


@dataclass(frozen=True)
class Subject:
    """What a suite looks at.

    Attributes:
        model: in any mode; it is evaluated in eval mode and put back.
        test: what it is evaluated on.
        training: what it was trained on, where a suite needs that.
        validation: what it was not trained on, where a suite needs that.
        seed: of the dequantisation noise and of all that is drawn.
        options: of the suites on other data.
        report: is told what is being done.
    """

    model: GenerativeClassifier
    test: Split
    training: Split | None = None
    validation: Split | None = None
    seed: int = 0
    options: Options = PLAIN
    report: Callable[[str], None] = _silent

    @cached_property
    def predictions(self) -> Predictions:
        """What the model says of the test split; computed once for all suites."""
        return predict_split(self.model, self.test, self.seed)

    @cached_property
    def held_out(self) -> Predictions | None:
        """What the model says of the validation split, where there is one; computed once."""
        if not self.validation:
            return None
        return predict_split(self.model, self.validation, self.seed)

    @cached_property
    def outlier_scores(self) -> tuple[Scores, dict[str, Scores]]:
        """All scores of the test split, and of each set of outliers by its name.

        Raises:
            UserError: no outliers, or no training split where the system has a density.
        """
        outliers = self.options.outliers
        if not outliers:
            raise UserError(
                "the suite 'ood' needs outliers; name them, e.g. --outliers noise,flipped"
            )
        centre = None
        if self.model.has_density or self.model.has_elbo:
            known = self.needs_training("ood").x[:MOST_TRAINING]
            centre = training_centre(self.model, known, seed=self.seed)
        inside = model_scores(self.model, self.test.x, centre=centre, seed=self.seed)
        outside = {}
        for each in outliers:
            self.report(f"outliers: {each.name}")
            outside[each.name] = model_scores(self.model, each.x, centre=centre, seed=self.seed)
        return inside, outside

    def images(self, suite: str) -> tuple[Split, int]:
        """The first test images, and their grey levels.

        Raises:
            UserError: a table.
        """
        if self.options.levels is None:
            raise UserError(f"the suite {suite!r} needs images, got a table; leave it out")
        return self.test.take(slice(self.options.samples)), self.options.levels

    def needs_training(self, suite: str) -> Split:
        """The labelled training samples.

        Raises:
            UserError: there are none.
        """
        if self.training is None:
            raise UserError(f"the suite {suite!r} needs the training split, too; give training=…")
        return self.training.labelled()
