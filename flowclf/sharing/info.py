"""What a model is rebuilt from besides settings and weights, and what is told of it."""

from __future__ import annotations

from math import isfinite
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field

from couplings.core import Shape
from flowclf.settings import Positive, Section

__all__ = ["ModelInfo", "number_names"]


def _of_a_sample(shape: Shape) -> Shape:
    if len(shape) not in (1, 3):
        raise ValueError(f"expected (C, H, W) or (F,), got {shape}")
    return shape


class ModelInfo(Section):
    """What a model remembers of where it comes from; `GenerativeClassifier.info`.

    Attributes:
        system: its name, of `flowclf systems`.
        shape: (C, H, W) or (F,).
        class_names: one for each class.
        levels: grey levels of an image; None: a table.
        seed: of rotations and permutations.
        samples: N of the training set, where that is known.
        data: name of what it was trained on, or None.
        vocabulary: the words that the inputs of a model of texts stand for.
        metrics: on the test set, by their names in summary.json and evaluation.json.
    """

    system: str
    shape: Annotated[tuple[Positive, ...], AfterValidator(_of_a_sample)]
    class_names: Annotated[tuple[str, ...], Field(min_length=1)]
    levels: Positive | None = None
    seed: int = 0
    samples: Positive | None = None
    data: str | None = None
    vocabulary: tuple[str, ...] = ()
    metrics: dict[str, float] = {}

    def with_metrics(self, results: dict[str, Any]) -> Self:
        """The same with the single numbers among test results, those that are finite."""
        numbers = {k: v for k, v in results.items() if isinstance(v, int | float)}
        finite = {name: float(value) for name, value in numbers.items() if isfinite(value)}
        return self.model_copy(update={"metrics": finite})

    @property
    def title(self) -> str:
        """What the card is headed."""
        return f"{self.system} on {self.data}" if self.data else self.system


def number_names(classes: int) -> tuple[str, ...]:
    """Names of classes that have none: 0 … K - 1."""
    return tuple(map(str, range(classes)))
