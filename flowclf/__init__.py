"""Normalizing-flow generative classifiers: one object for p(x), p(x|y) and p(y|x).

>>> model = flowclf.build("ib-inn", shape=(1, 28, 28), classes=10, beta=1.0)
>>> model.log_prob(x)          # log p(x), nats, in the data's own units
>>> model.log_posterior(x)     # log p(y|x), (B, K)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from flowclf.support.errors import NoExactDensity, UserError

if TYPE_CHECKING:
    from flowclf import oracle as oracle
    from flowclf.classifier import GenerativeClassifier
    from flowclf.config import make_config
    from flowclf.data import load_dataset
    from flowclf.decide import Decider
    from flowclf.evaluation.evaluate import evaluate
    from flowclf.models import build, load
    from flowclf.training import train

# Loaded when first used: torch takes seconds, and `flowclf --help` does not need it.
LAZY = {
    "Decider": "flowclf.decide",
    "GenerativeClassifier": "flowclf.classifier",
    "build": "flowclf.models",
    "evaluate": "flowclf.evaluation",
    "load": "flowclf.models",
    "load_dataset": "flowclf.data",
    "make_config": "flowclf.config",
    "train": "flowclf.training",
}

__all__ = [
    "Decider",
    "GenerativeClassifier",
    "NoExactDensity",
    "UserError",
    "build",
    "evaluate",
    "load",
    "load_dataset",
    "make_config",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "oracle":  # `import flowclf` is enough for flowclf.oracle.World
        return import_module("flowclf.oracle")
    if name in LAZY:
        return getattr(import_module(LAZY[name]), name)
    raise AttributeError(f"module 'flowclf' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
