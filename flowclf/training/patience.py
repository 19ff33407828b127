"""Early stopping: the best validation until now, and the weights that it is of."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from flowclf.catalogue import find_metric
from flowclf.runs import Run
from flowclf.support.errors import UserError
from flowclf.support.safetensors import read_tensors, write_tensors

__all__ = ["Patience"]


class Patience:
    """Validations of one training, which is over after so many without an improvement.

    Args:
        most: validations to wait for an improvement.
        metric: of the results that are compared, by its name in the catalogue.

    Attributes:
        over: True once patience is at its end.
        weights: those of the best validation; empty before the first.
    """

    def __init__(self, most: int, metric: str) -> None:
        self.most, self.metric = most, metric
        self.over = False
        self.weights: dict[str, Tensor] = {}
        self._scores: list[float] = []  # higher ones better

    def improves(self, results: dict[str, Any]) -> bool:
        """Tell whether a validation is the best until now, and notice the end of patience.

        Raises:
            UserError: the system has not that metric.
        """
        if results.get(self.metric) is None:
            raise UserError(f"expected {self.metric} of the system for train.monitor, got none")
        sign = 1 if find_metric(self.metric).better == "higher" else -1
        self._scores.append(sign * results[self.metric])
        best, last = self._scores.index(max(self._scores)), len(self._scores) - 1
        self.over = last - best >= self.most
        return best == last

    def keep(self, model: nn.Module, run: Run | None, identity: str) -> None:
        """Keep the weights, in the folder of the run if there is one."""
        self.weights = {name: value.clone() for name, value in model.state_dict().items()}
        if run is not None:
            write_tensors(run.best_file, self.weights, identity)

    def restore(self, run: Run) -> None:
        """Read back which validation was the best, and its weights.

        Raises:
            UserError: weights of another run.
        """
        for row in run.read_metrics():
            if "validation" in row:
                self.improves(row["validation"])
        if self._scores and run.best_file.is_file():
            self.weights, named = read_tensors(run.best_file)
            run.check_identity(named, run.best_file)
