"""Evaluation over the common face: metrics, suites, baselines."""

from flowclf.evaluation.evaluate import evaluate, evaluate_scaled, evaluate_subject
from flowclf.evaluation.predictions import Predictions, predict_split
from flowclf.evaluation.subject import Options, Subject
from flowclf.evaluation.suites import SUITES

__all__ = [
    "SUITES",
    "Options",
    "Predictions",
    "Subject",
    "evaluate",
    "evaluate_scaled",
    "evaluate_subject",
    "predict_split",
]
