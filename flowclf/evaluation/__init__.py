"""Evaluation over the common face: metrics, suites, baselines."""

from flowclf.evaluation.evaluate import SUITES, Predictions, evaluate, predict_split

__all__ = ["SUITES", "Predictions", "evaluate", "predict_split"]
