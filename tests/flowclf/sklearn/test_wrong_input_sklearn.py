"""The scikit-learn estimator refuses wrong input by name, at times in scikit-learn's words."""

from collections.abc import Callable
from functools import cache
from math import inf, nan
from typing import Any

import numpy as np
import pytest

from flowclf.sklearn import GenerativeClassifier

SHAPE, B, LEVELS = (3, 4, 4), 6, 8


@cache
def estimator() -> GenerativeClassifier:
    """On images, fitted."""
    network = {"kind": "mlp", "blocks": 1, "hidden": [8]}
    model = GenerativeClassifier(
        shape=SHAPE, levels=LEVELS, epochs=1, random_state=0, settings={"network": network}
    )
    return model.fit(rows(), NAMES[labels()])


NAMES = np.array(["a", "b", "c"])


def rows() -> np.ndarray:
    return np.random.default_rng(0).integers(0, LEVELS, (B, 48)).astype(np.float64)


def labels(count: int = B) -> np.ndarray:
    return np.arange(count) % 3


def row_with(value: float) -> np.ndarray:
    x = rows()
    x[1, 3] = value
    return x


WRONG_ROWS: dict[str, tuple[Callable[[], Any], str]] = {
    "NaN": (lambda: row_with(nan), "NaN"),
    "inf": (lambda: row_with(inf), "infinity"),
    "no grey level": (lambda: row_with(0.5), "whole grey levels 0..7, got 0.5"),
    "beyond the levels": (lambda: row_with(8), "whole grey levels 0..7, got 8"),
    "negative": (lambda: row_with(-1), "whole grey levels 0..7, got -1"),
    "complex": (lambda: rows() * 1j, "Complex data not supported"),
    "words": (lambda: rows().astype(str).astype(object) + "x", "could not convert string"),
    "too few columns": (lambda: rows()[:, :47], "47 features, but .* 48"),
    "one row": (lambda: rows()[0], "Expected 2D array"),
    "no rows": (lambda: rows()[:0], "0 sample"),
    "grey images": (lambda: rows().reshape(B, *SHAPE)[:, 0], "images of shape .3, 4, 4., got .4,"),
}


@pytest.mark.parametrize("method", ["predict", "score_samples", "transform"])
@pytest.mark.parametrize("case", WRONG_ROWS)
def test_no_rows_that_are_wrong_are_taken(method: str, case: str) -> None:
    make_x, message = WRONG_ROWS[case]
    with pytest.raises(ValueError, match=message):
        getattr(estimator(), method)(make_x())


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.astype(np.uint8),
        lambda x: x.astype(np.float32),
        lambda x: x.astype(np.int64),
        np.asfortranarray,
        lambda x: np.repeat(x, 2, axis=1)[:, ::2],
        lambda x: x.reshape(B, *SHAPE),
        lambda x: x.tolist(),
    ],
)
def test_rows_in_another_form_give_the_same_answers(change: Callable[[Any], Any]) -> None:
    for method in ("predict_log_proba", "score_samples", "transform"):
        call = getattr(estimator(), method)
        np.testing.assert_array_equal(call(change(rows())), call(rows()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_samples": 0}, "n_samples of at least 1, got 0"),
        ({"n_samples": 2.5}, "n_samples .*at least 1, got 2.5"),
        ({"n_samples": "many"}, "n_samples .*at least 1, got 'many'"),
        ({"y": "d"}, "labels among .*, got 'd'"),
        ({"y": 0}, "labels among .*, got 0"),
        ({"y": [["a"]]}, r"y, .*labels \(n,\), got shape \(1, 1\)"),
        ({"y": {"a": 1}}, "labels among .*, got {'a': 1}"),
        ({"temperature": -1.0}, "temperature >= 0.*, got -1"),
        ({"temperature": nan}, "temperature .*, got nan"),
        ({"temperature": inf}, "temperature .*, got inf"),
        ({"temperature": "warm"}, "temperature .*, got 'warm'"),
        ({"random_state": "x"}, "cannot be used to seed"),
    ],
)
def test_samples_that_cannot_be_drawn(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        estimator().sample(**options)


def test_samples_of_no_label_are_no_rows() -> None:
    x, y = estimator().sample(y=[])
    assert x.shape == (0, 48)
    assert y.shape == (0,)


WRONG_FIT: dict[str, tuple[Callable[[], Any], Callable[[], Any], str]] = {
    "NaN": (lambda: row_with(nan), lambda: NAMES[labels()], "NaN"),
    "labels too few": (rows, lambda: NAMES[labels(5)], "inconsistent numbers of samples"),
    "labels of real numbers": (rows, lambda: labels() + 0.5, "Unknown label type"),
    "labels that are NaN": (rows, lambda: np.full(B, nan), "NaN"),
    "a table of labels": (rows, lambda: np.eye(3)[labels()], "y should be a 1d array"),
    "no labels": (rows, lambda: None, "requires y to be passed"),
    "one class": (rows, lambda: ["a"] * B, r"at least 2 classes, got 1 class \('a'\)"),
    "no rows": (lambda: rows()[:0], lambda: labels(0), "0 sample"),
}


@pytest.mark.parametrize("case", WRONG_FIT)
def test_no_data_that_are_wrong_are_fitted(case: str) -> None:
    make_x, make_y, message = WRONG_FIT[case]
    fresh = GenerativeClassifier(shape=SHAPE, levels=LEVELS, epochs=1, random_state=0)
    with pytest.raises(ValueError, match=message):
        fresh.fit(make_x(), make_y())
