"""Latents of several runs side by side: python -m benchmarks.flowclf.latents RUN RUN … OUT.png"""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from flowclf.evaluation.metrics import accuracy, variance_ratio
from flowclf.figures import latent_panels, save_figure
from flowclf.training.task import Task, load_task

SHOWN = 3000


def compare_latents(runs: Sequence[Path], out: Path) -> None:
    """Write the picture: test latents, and each class's Gaussian at two standard deviations."""
    tasks = [load_task(run, device="cpu") for run in runs]
    panels = [_panel(run, task) for run, task in zip(runs, tasks, strict=True)]
    save_figure(latent_panels(panels, tasks[0].dataset.class_names), out)


@torch.no_grad()
def _panel(run: Path, task: Task) -> tuple[str, Tensor, Tensor, Tensor, Tensor]:
    mixture, test = task.model.mixture, task.test
    z = torch.cat([task.model.encode(x).z for x in test.x.split(512)])
    ratio = variance_ratio(z, test.y, mixture.means, mixture.std())
    right = accuracy(mixture.log_posterior(z), test.y)
    title = f"{run.name}\naccuracy {100 * right:.1f} %, variance ratio {ratio:.2f}"
    means, std = mixture.means.detach(), mixture.std()
    return title, z[:SHOWN], test.y[:SHOWN], means, std


if __name__ == "__main__":
    *folders, picture = map(Path, sys.argv[1:])
    compare_latents(folders, picture)
