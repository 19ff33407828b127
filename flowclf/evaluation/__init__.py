"""Evaluation over the common face: metrics, suites, baselines."""

from flowclf.evaluation.context import Options, Predictions, Subject, predict_split
from flowclf.evaluation.evaluate import evaluate, evaluate_scaled, evaluate_subject
from flowclf.evaluation.exactness import InexactInverse, check_exact
from flowclf.evaluation.suites import SUITES

__all__ = [
    "SUITES",
    "InexactInverse",
    "Options",
    "Predictions",
    "Subject",
    "check_exact",
    "evaluate",
    "evaluate_scaled",
    "evaluate_subject",
    "predict_split",
]
