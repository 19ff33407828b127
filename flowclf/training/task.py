"""A finished run with its model, its settings and its data."""

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from flowclf.classifier import GenerativeClassifier
from flowclf.config import RunConfig
from flowclf.data import Dataset, Split
from flowclf.models import load
from flowclf.runs import Run
from flowclf.support.devices import pick_device
from flowclf.training.setup import splits

__all__ = ["Task", "load_task"]


@dataclass(frozen=True)
class Task:
    """Finished run, as `load_task` reads it."""

    config: RunConfig
    model: GenerativeClassifier
    dataset: Dataset
    training: Split
    validation: Split
    test: Split


def load_task(
    folder: Path,
    data_dir: Path | None = None,
    device: str = "auto",
    features: nn.Module | None = None,
) -> Task:
    """Load the model of a run and the data it was trained on; `features`: of `Run.load_data`.

    Raises:
        UserError: not a finished run, or data that are gone or changed.
    """
    run = Run(folder)
    config, _ = run.read_config()
    model = load(folder, pick_device(device))
    dataset = run.load_data(data_dir, features)
    return Task(config, model, dataset, *splits(config, dataset))
