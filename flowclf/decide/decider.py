"""`Decider`: what to do with this input, with guarantees from calibration samples."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from flowclf.classifier import GenerativeClassifier
from flowclf.evaluation.conformal import (
    NONCONFORMITIES,
    Nonconformity,
    class_thresholds,
    least_samples,
    p_values,
    threshold,
)
from flowclf.evaluation.scores import SCORES, Reference
from flowclf.evaluation.statistics import Statistics, differentiable_statistics, statistics
from flowclf.models import load
from flowclf.support import validate
from flowclf.support.errors import UserError
from flowclf.support.parse import parse_json
from flowclf.support.safetensors import DamagedFile, digest, read_tensors, write_tensors
from flowclf.support.seeding import generator_for, hashed_uniform

__all__ = ["FILE", "Decider", "Decision", "Decisions", "Drift"]

Decision = Literal["accept", "ambiguous", "never seen"]
ACCEPT, AMBIGUOUS, NEVER_SEEN = get_args(Decision)

FILE = "decider.safetensors"


@dataclass(frozen=True)
class Decisions:
    """Decisions for N inputs, a row each; tensors are on the CPU."""

    label: Tensor  # most probable class (N,), int64
    probability: Tensor  # q(label|x), (N,), float64
    sets: Tensor  # classes that conform at the coverage asked for, (N, K), bool; may be empty
    score: Tensor  # the outlier score (N,), float64; higher is more outlying
    p_value: Tensor  # (N,), float64; at most α with a probability of at most α, if x is like the
    # calibration samples
    decision: npt.NDArray[np.str_]  # "accept", "ambiguous" or "never seen", (N,)

    def __len__(self) -> int:
        return len(self.label)

    def rows(self, class_names: tuple[str, ...] | None = None) -> Iterator[dict[str, Any]]:
        """Yield a dictionary for each input: label, probability, set, p_value, decision."""
        names = class_names or tuple(map(str, range(self.sets.shape[1])))
        for i in range(len(self)):
            yield {
                "label": names[int(self.label[i])],
                "probability": float(self.probability[i]),
                "set": [names[k] for k in self.sets[i].nonzero()[:, 0].tolist()],
                "p_value": float(self.p_value[i]),
                "decision": str(self.decision[i]),
            }


@dataclass(frozen=True)
class Drift:
    """Comparison of a batch's outlier scores with those of the calibration samples."""

    statistic: float  # of Kolmogorov and Smirnov: the largest distance of the two distributions
    p_value: float  # of samples that are like the calibration samples, two-sided
    samples: int  # in the batch
    drifted: bool  # True where the p-value is at most `false_alarm`


class Decider:
    """Decide for each input: accept its label, call it ambiguous, or say that it was never seen.

        p = (1 + #{calibration scores >= score(x)}) / (n + 1)    never seen: p <= false_alarm
        set = {k : nonconformity(x, k) <= threshold}             accept: else, one class in it

    With calibration samples that the model was not trained on, and inputs like them, a set holds
    the true class with a probability of `coverage` or more, and an input is called never seen with
    one of `false_alarm` or less, whatever the model is worth (`flowclf.evaluation.conformal`). Both
    are averages over calibration samples and inputs. Of inputs unlike them nothing is promised:
    how many of these are found is a matter of the score.

    Args:
        model: a trained classifier; it is used in eval mode and put back.
        coverage: of the sets, between 0 and 1.
        false_alarm: share of inputs like the calibration samples that are called never seen.
        sets: nonconformity: lac (the smallest sets), aps or raps (sets adapted to the sample).
        per_class: True: the coverage holds within each class, which needs samples of each.
        score: a name of `flowclf evaluate --list-scores` that one model has; "auto" combines those.

    Raises:
        UserError: a share that is not between 0 and 1, or an unknown name.
    """

    def __init__(
        self,
        model: GenerativeClassifier,
        *,
        coverage: float = 0.95,
        false_alarm: float = 0.01,
        sets: Nonconformity = "lac",
        per_class: bool = False,
        score: str = "auto",
    ) -> None:
        for name, share in (("coverage", coverage), ("false_alarm", false_alarm)):
            if not isinstance(share, float) or not 0 < share < 1:
                raise UserError(f"expected {name} between 0 and 1, got {share!r}; try 0.95 or 0.01")
        validate.one_of("sets", sets, tuple(NONCONFORMITIES))
        validate.one_of("score", score, tuple(SCORES))
        self.model = model
        self.coverage, self.false_alarm = coverage, false_alarm
        self.sets, self.per_class, self.score = sets, per_class, score
        self._fitted: _Fitted | None = None
        self._limits = torch.empty(0)

    def fit(self, x: Tensor, y: Tensor, x_train: Tensor | None = None) -> Self:
        """Calibrate on samples x (n, *shape) with labels y (n,) that the model was not trained on.

        Args:
            x, y: calibration samples, of the same kind as the inputs to come.
            x_train: training samples, a few thousand, to which scores such as `auto` are fitted;
                None: to a random half of x, whose other half then gives the p-values.

        Raises:
            UserError: fewer samples than the levels need, of a class where `per_class`; a score
                that the model has not; x and y as for `model.loss`.
        """
        validate.samples("x", x, self.model.shape)
        y = validate.indices("y", y, "labels", self.model.classes, y, length=len(x)).cpu()
        ranked = x
        if x_train is None:
            order = torch.randperm(len(x), generator=generator_for(0, "decide"))
            x_train, ranked = x[order[::2]], x[order[1::2]]
        half = " (half of them, as there is no x_train)" if len(ranked) < len(x) else ""
        self._check_count(len(ranked), half)
        own = self._strangeness(x, self._posterior(x)).gather(1, y[:, None])[:, 0]
        reference = Reference.fit(self.model, x_train, names=SCORES[self.score].uses)
        self._fitted = _Fitted(reference, own, y, self._score(ranked, reference))
        self._limits = self._thresholds()
        return self

    def __call__(self, x: Tensor) -> Decisions:
        """Decide for inputs x (N, *shape); each answer depends on its own input alone.

        Raises:
            UserError: not fitted yet; x as for `model.encode`, or none.
        """
        fitted = self._known()
        told = self._told(x, fitted.reference)
        log_posterior = told["log_posterior"]
        sets = self._strangeness(x, log_posterior) <= self._limits
        score = self._chosen(told, fitted.reference)
        p_value = p_values(fitted.scores, score)
        seen, single = (p_value > self.false_alarm).numpy(), (sets.sum(1) == 1).numpy()
        decision = np.select([~seen, single], [NEVER_SEEN, ACCEPT], AMBIGUOUS)
        probability, label = log_posterior.exp().max(1)
        return Decisions(label, probability, sets, score, p_value, decision)

    @property
    def reference(self) -> Reference:
        """Training samples that the score was fitted to."""
        return self._known().reference

    @property
    def scores(self) -> Tensor:
        """Outlier scores of the calibration samples, (n,), float64."""
        return self._known().scores

    @property
    def limits(self) -> Tensor:
        """The largest nonconformity of a class in a set, (1,), or of each class (K,), float64."""
        self._known()
        return self._limits

    @property
    def limit(self) -> float:
        """The largest score that is not called never seen, as the calibration samples have it."""
        scores = self._known().scores.sort().values
        # p <= false_alarm where at most this many calibration scores are not below.
        above = int(self.false_alarm * (len(scores) + 1) + 1e-9) - 1
        return float(scores[len(scores) - 1 - above])

    def excess(self, x: Tensor) -> Tensor:
        """Return how far the scores of points x (B, *shape) are beyond `limit`, (B,), float64.

        In standard deviations of the calibration scores; above 0 an input is called never seen.
        Differentiable where the score is (bits as a PNG file count as constant), for
        `evading_pgd`.

        Raises:
            UserError: as of a call.
        """
        fitted = self._known()
        names = SCORES[self.score].uses
        discriminant = fitted.reference.discriminant
        told = differentiable_statistics(self.model, x, names, discriminant)
        return (self._chosen(told, fitted.reference) - self.limit) / fitted.scores.std()

    def monitor(self, x: Tensor) -> Drift:
        """Test whether a batch x (N, *shape) is like the calibration samples, by its scores.

        By the two-sample test of Kolmogorov and Smirnov, which knows that the calibration samples
        are but a sample: p-values of one batch share them, and are not quite uniform.

        Raises:
            UserError: as of a call.
        """
        from scipy.stats import ks_2samp

        fitted = self._known()
        found = ks_2samp(self._score(x, fitted.reference).numpy(), fitted.scores.numpy())
        p_value = float(found.pvalue)
        return Drift(float(found.statistic), p_value, len(x), p_value <= self.false_alarm)

    def save(self, folder: str | Path) -> Path:
        """Write decider.safetensors beside a saved model or into its run; return the file.

        It holds statistics and scores, no sample, and the digest of the model's weights.

        Raises:
            UserError: not fitted yet.
        """
        fitted, file = self._known(), Path(folder) / FILE
        tensors = {f"fitted.{name}": getattr(fitted, name) for name in FITTED}
        note = {"weights": digest(self.model.state_dict()), **self._settings()}
        note["formula"] = SCORES[self.score].formula
        write_tensors(file, tensors | fitted.reference.tensors(), json.dumps(note))
        return file

    @classmethod
    def load(
        cls,
        folder: str | Path,
        model: GenerativeClassifier | None = None,
        device: torch.device | str = "cpu",
        *,
        coverage: float | None = None,
        false_alarm: float | None = None,
    ) -> Self:
        """Read what `save` wrote, with the model beside it.

        Args:
            folder: of the run or saved model.
            model: that model, where it is loaded already.
            device: where the model goes, if it is loaded here.
            coverage, false_alarm: others than it was made with.

        Raises:
            UserError: no such file, a damaged one, or one of other weights than the model's or of
                another definition of its score; too few calibration samples for these levels.
        """
        file = Path(folder) / FILE
        if not file.is_file():
            raise UserError(
                f"{folder} has no {FILE}: expected what Decider.save or flowclf decide wrote"
            )
        model = load(folder, device) if model is None else model
        tensors, note = read_tensors(file)
        asked = {"coverage": coverage, "false_alarm": false_alarm}
        levels = {name: value for name, value in asked.items() if value is not None}
        try:
            settings = parse_json(note or "")
            weights, formula = settings.pop("weights"), settings.pop("formula", None)
            decider = cls(model, **settings | levels)
            parts = {name: tensors[f"fitted.{name}"] for name in FITTED}
            decider._fitted = _Fitted(Reference.from_tensors(tensors), **parts)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, UserError):
                raise
            raise DamagedFile(f"{file} is damaged: {error} is missing or wrong") from None
        if weights != digest(model.state_dict()):
            raise UserError(
                f"{file} belongs to other weights than those of {folder}: the model has changed; "
                "calibrate again, with Decider.fit or flowclf decide --calibrate"
            )
        if formula != SCORES[decider.score].formula:
            raise UserError(
                f"{file} was calibrated with another definition of the score {decider.score!r}; "
                "calibrate again, with Decider.fit or flowclf decide --calibrate"
            )
        decider._check_count(len(decider._fitted.scores))
        decider._limits = decider._thresholds()
        return decider

    def _check_count(self, count: int, note: str = "") -> None:
        """Refuse fewer samples with an outlier score than `false_alarm` needs."""
        if (least := least_samples(self.false_alarm)) > count:
            raise UserError(
                f"expected at least {least} calibration samples for false_alarm="
                f"{self.false_alarm:g}, got {count}{note}; give more, or raise false_alarm"
            )

    def _settings(self) -> dict[str, Any]:
        names = ("coverage", "false_alarm", "sets", "per_class", "score")
        return {name: getattr(self, name) for name in names}

    def _known(self) -> _Fitted:
        if self._fitted is None:
            raise UserError("expected a Decider that is calibrated; call fit(x, y) first")
        return self._fitted

    def _thresholds(self) -> Tensor:
        """Return the largest nonconformity of a class in a set, (K,) or (1,)."""
        fitted = self._known()
        if self.per_class:
            return class_thresholds(fitted.own, fitted.y, self.model.classes, self.coverage)
        return torch.tensor([threshold(fitted.own, self.coverage)], dtype=torch.float64)

    def _strangeness(self, x: Tensor, log_posterior: Tensor) -> Tensor:
        """Return the nonconformity of each class, (N, K)."""
        return NONCONFORMITIES[self.sets](log_posterior, hashed_uniform(x).cpu())

    def _posterior(self, x: Tensor) -> Tensor:
        return statistics(self.model, x, ("log_posterior",))["log_posterior"]

    def _told(self, x: Tensor, reference: Reference) -> Statistics:
        names = {"log_posterior", *SCORES[self.score].uses}
        return statistics(self.model, x, names, reference.discriminant)

    def _score(self, x: Tensor, reference: Reference) -> Tensor:
        return self._chosen(self._told(x, reference), reference)

    def _chosen(self, told: Statistics, reference: Reference) -> Tensor:
        """Return the score of the user's choice, (N,).

        Raises:
            UserError: the model has it not.
        """
        found = SCORES[self.score](told, reference.statistics)
        if found is None:
            raise UserError(
                f"expected a score that {type(self.model).__name__} has, got {self.score!r}, which "
                f"needs {SCORES[self.score].needs}; take 'auto'"
            )
        return found


@dataclass(frozen=True)
class _Fitted:
    """Calibration of a `Decider`."""

    reference: Reference  # training samples, to which scores are fitted
    own: Tensor  # nonconformity of the calibration samples' labels (n,), float64
    y: Tensor  # these labels, int64
    scores: Tensor  # outlier scores of the calibration samples (m,), float64


FITTED = ("own", "y", "scores")
