"""Evaluation over the common face: metrics, suites, baselines."""

from flowclf.evaluation.evaluate import (
    SUITES,
    Predictions,
    evaluate,
    evaluate_scaled,
    predict_split,
)

__all__ = ["SUITES", "Predictions", "evaluate", "evaluate_scaled", "predict_split"]
