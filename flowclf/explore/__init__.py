"""`flowclf explore`: a page about trained models, their latent space, samples and decisions."""

from collections.abc import Sequence
from pathlib import Path

from flowclf.explore.explorer import Explorer
from flowclf.support.errors import UserError
from flowclf.training.task import load_task

__all__ = ["Explorer", "load_explorers"]


def load_explorers(
    runs: Sequence[Path], data_dir: Path | None = None, device: str = "auto"
) -> list[Explorer]:
    """Load runs, to be looked at side by side where there are several.

    Raises:
        UserError: not finished runs, or runs on data of different shapes or classes.
    """
    tasks = [load_task(run, data_dir, device) for run in runs]
    first = tasks[0].dataset
    for run, task in zip(runs, tasks, strict=True):
        if (task.dataset.shape, task.dataset.class_names) != (first.shape, first.class_names):
            raise UserError(
                f"expected runs on the same data to compare, got {first.name} and "
                f"{task.dataset.name} ({run}); explore them one by one"
            )
    return [Explorer(task, run) for task, run in zip(tasks, runs, strict=True)]
