"""Recalibration: fitted on a validation split, applied to any system's log-posteriors."""

from abc import ABC, abstractmethod
from math import exp, log
from typing import Any, Self, TypeVar

import torch
from torch import Tensor

from flowclf.evaluation.calibration import check_samples
from flowclf.support.errors import UserError

__all__ = [
    "RECALIBRATIONS",
    "IsotonicScaling",
    "Recalibration",
    "TemperatureScaling",
    "VectorScaling",
    "fit_temperature",
    "scale",
]

LEAST, LARGEST = 1e-3, 1e3
MOST_STEPS = 1000

T = TypeVar("T")


def fit_temperature(log_posterior: Tensor, y: Tensor) -> float:
    """Fit T in [0.001, 1000] of least mean -log softmax(log q / T)_y by bisection in float64.

    The loss is convex in β = 1/T, with derivative mean_n Σ_k q_nk(β) log q_nk - log q_ny, so that
    no start or step size matters. Where there is no least loss inside (every sample is classified
    correctly, say) T is a bound. To be fitted on samples that neither train nor test.

    Guo et al., "On calibration of modern neural networks", ICML 2017, Sec. 4.2.

    Args:
        log_posterior: log q(k|x), or logits, (N, K).
        y: labels (N,).

    Raises:
        UserError: no samples, another number of labels than of samples, or a log q not finite.
    """
    _check_finite(log_posterior, y)
    scores = log_posterior.double().log_softmax(1)
    given = scores.gather(1, y[:, None])[:, 0]
    low, high = log(1 / LARGEST), log(1 / LEAST)
    while low < (middle := (low + high) / 2) < high:
        expected = ((exp(middle) * scores).softmax(1) * scores).sum(1)
        if float((expected - given).mean()) > 0:  # the derivative in β
            high = middle
        else:
            low = middle
    return exp(-middle)


def scale(log_posterior: Tensor, temperature: float) -> Tensor:
    """Return log softmax(log q / T), (B, K) to (B, K); the most probable class stays the same.

    Raises:
        UserError: a temperature that is not positive.
    """
    if not temperature > 0:
        raise UserError(f"expected temperature > 0, got {temperature}")
    return (log_posterior / temperature).log_softmax(1)


class Recalibration(ABC):
    """Map of log-posteriors (N, K) to better calibrated ones, once fitted; float64."""

    @abstractmethod
    def fit(self, log_posterior: Tensor, y: Tensor) -> Self:
        """Fit to log q(k|x) (N, K) and labels (N,) that neither train nor test.

        Raises:
            UserError: shapes that do not match, no samples, a log q not finite, or, where each
                class has parameters of its own, a class without samples.
        """

    @abstractmethod
    def transform(self, log_posterior: Tensor) -> Tensor:
        """Return normalised log-probabilities (B, K) of log q(k|x) (B, K).

        Raises:
            UserError: not fitted, or to another number of classes.
        """


class TemperatureScaling(Recalibration):
    """Temperature scaling log softmax(log q / T): Guo et al. 2017, Sec. 4.2.

    Attributes:
        temperature: T, or None before the fit.
    """

    def __init__(self) -> None:
        self.temperature: float | None = None

    def fit(self, log_posterior: Tensor, y: Tensor) -> Self:
        self.temperature = fit_temperature(log_posterior, y)
        return self

    def transform(self, log_posterior: Tensor) -> Tensor:
        return scale(log_posterior.double(), _fitted(self, self.temperature))


class VectorScaling(Recalibration):
    """Vector scaling log softmax(a_k log q_k + b_k), by L-BFGS from a = 1/T, b = 0.

    Guo et al. 2017, Sec. 4.2, on normalised log-posteriors instead of logits: a constant of a
    sample does not matter. Temperature scaling is a_k = 1/T, b = 0. The loss is convex, and no
    worse than that of temperature scaling; where it has no least value (perfectly separated
    samples, say) the fit stops once it gains nothing, or after 1000 steps.

    Attributes:
        scale: a (K,), or None before the fit.
        bias: b (K,) of mean zero, or None before the fit.
    """

    def __init__(self) -> None:
        self.scale: Tensor | None = None
        self.bias: Tensor | None = None

    def fit(self, log_posterior: Tensor, y: Tensor) -> Self:
        temperature = fit_temperature(log_posterior, y)
        _check_classes(log_posterior, y)
        # In units of 1/T all parameters are of the order of one.
        scores = log_posterior.double().log_softmax(1) / temperature
        relative, bias = _fit_vector(scores, y)
        self.scale, self.bias = relative / temperature, bias - bias.mean()
        return self

    def transform(self, log_posterior: Tensor) -> Tensor:
        factor, bias = _fitted(self, self.scale), _fitted(self, self.bias)
        _check_width(log_posterior, len(factor))
        return (factor * log_posterior.double().log_softmax(1) + bias).log_softmax(1)


class IsotonicScaling(Recalibration):
    """Increasing piecewise linear function of each q(k|x), fitted one class against the rest.

    Zadrozny & Elkan, KDD 2002, with scikit-learn's regression; renormalised over classes. Below
    1/(2N), half of one of N samples, no share is told from zero: there the class's probability is
    put before it is renormalised, so that no logarithm is infinite. Predictions may change.

    Attributes:
        regressions: one a class, or None before the fit.
        floor: 1/(2N).
    """

    def __init__(self) -> None:
        self.regressions: list[Any] | None = None
        self.floor = 0.0

    def fit(self, log_posterior: Tensor, y: Tensor) -> Self:
        from sklearn.isotonic import IsotonicRegression

        _check_finite(log_posterior, y)
        _check_classes(log_posterior, y)
        p = log_posterior.double().softmax(1)
        self.floor = 1 / (2 * len(y))
        self.regressions = [
            IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(
                p[:, k].numpy(), (y == k).double().numpy()
            )
            for k in range(p.shape[1])
        ]
        return self

    def transform(self, log_posterior: Tensor) -> Tensor:
        regressions = _fitted(self, self.regressions)
        _check_width(log_posterior, len(regressions))
        p = log_posterior.double().softmax(1)
        columns = [
            torch.from_numpy(regression.predict(column.numpy()))
            for regression, column in zip(regressions, p.unbind(1), strict=True)
        ]
        return torch.stack(columns, 1).clamp_min(self.floor).log().log_softmax(1)


RECALIBRATIONS: dict[str, type[Recalibration]] = {
    "temperature": TemperatureScaling,
    "vector": VectorScaling,
    "isotonic": IsotonicScaling,
}


@torch.enable_grad()
def _fit_vector(scores: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Fit a and b (K,) of least mean -log softmax(a_k s_k + b_k)_y."""
    classes = scores.shape[1]
    parameters = torch.stack([torch.ones(classes), torch.zeros(classes)]).double().requires_grad_()
    effort = {"max_iter": MOST_STEPS, "max_eval": 2 * MOST_STEPS}
    ends: dict[str, Any] = {"tolerance_grad": 1e-9, "tolerance_change": 1e-14, **effort}
    optimizer = torch.optim.LBFGS([parameters], line_search_fn="strong_wolfe", **ends)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(parameters[0] * scores + parameters[1], y)
        loss.backward()
        return loss

    optimizer.step(closure)
    factor, bias = parameters.detach()
    return factor, bias


def _fitted(step: Recalibration, value: T | None) -> T:
    if value is None:
        raise UserError(f"expected a fitted {type(step).__name__}, got none; call fit first")
    return value


def _check_classes(log_posterior: Tensor, y: Tensor) -> None:
    count = y.bincount(minlength=log_posterior.shape[1])
    if (count == 0).any():
        missing = (count == 0).nonzero()[:, 0].tolist()
        raise UserError(
            f"expected validation samples of every class, got none of {missing}; "
            "hold more samples back, or scale by a temperature"
        )


def _check_width(log_posterior: Tensor, classes: int) -> None:
    if log_posterior.ndim != 2 or log_posterior.shape[1] != classes:
        raise UserError(
            f"expected log-posteriors (B, {classes}) as fitted, got {tuple(log_posterior.shape)}"
        )


def _check_finite(log_posterior: Tensor, y: Tensor) -> None:
    check_samples(log_posterior, y)
    if not bool(torch.isfinite(log_posterior).all()):
        raise UserError("expected finite log-posteriors, got others")
