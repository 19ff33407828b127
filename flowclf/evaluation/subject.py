"""What a suite looks at."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from flowclf.classifier import GenerativeClassifier
from flowclf.data import Split
from flowclf.data.corruptions import CORRUPTIONS, SEVERITIES
from flowclf.data.outliers import Outliers
from flowclf.errors import UserError
from flowclf.evaluation.predictions import Predictions, predict_split

__all__ = ["MOST_TRAINING", "PLAIN", "Options", "Subject"]

# Training samples that are looked at beside the test split.
MOST_TRAINING = 10_000


@dataclass(frozen=True)
class Options:
    """What the suites on other than the test data look at.

    Attributes:
        outliers: of `ood`: sets that are not of the training data.
        families, severities: of `shift`.
        epsilons: of `attack`, as fractions of the range of grey levels.
        samples: at most so many test images for `shift`, `attack` and `bound`.
        draws: importance samples of `bound`.
        levels: grey levels of images, None for a table.
    """

    outliers: tuple[Outliers, ...] = ()
    families: tuple[str, ...] = tuple(CORRUPTIONS)
    severities: tuple[int, ...] = SEVERITIES
    epsilons: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2, 0.3)
    samples: int = 1000
    draws: int = 1000
    levels: int | None = 256


PLAIN = Options()


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
    """

    model: GenerativeClassifier
    test: Split
    training: Split | None = None
    validation: Split | None = None
    seed: int = 0
    options: Options = PLAIN

    @cached_property
    def predictions(self) -> Predictions:
        """What the model says of the test split; computed once for all suites."""
        return predict_split(self.model, self.test, self.seed)

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
