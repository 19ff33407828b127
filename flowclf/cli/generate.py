"""`flowclf sample` and `flowclf interpolate`: pictures out of a trained run."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from flowclf.cli.options import AsJson, DataDir, Device, RunFolder, Where
from flowclf.cli.output import print_json
from flowclf.errors import UserError

__all__ = ["interpolate", "sample"]

Seed = Annotated[int, typer.Option(help="Of the draws.")]


class Around(StrEnum):
    """What samples are drawn around."""

    data = "data"
    means = "means"


def sample(
    run: RunFolder,
    out: Annotated[Path, typer.Option(help="Picture to write: .png, .pdf or .svg.")],
    per_class: Annotated[int, typer.Option(help="Samples of each class.", min=1)] = 8,
    temperature: Annotated[float, typer.Option(help="Spread around the means.", min=0)] = 0.7,
    around: Annotated[
        Around, typer.Option(help="Centre: averages of the training data, or the means.")
    ] = Around.data,
    seed: Seed = 0,
    device: Where = Device.auto,
    as_json: AsJson = False,
) -> None:
    """Draw images of every class."""
    from flowclf.devices import pick_device
    from flowclf.figures import sample_figure, save_figure
    from flowclf.figures.run import class_samples
    from flowclf.models import load
    from flowclf.runs import Run

    facts = Run(run).read_config()[1]
    levels = _levels(facts.levels)
    model = load(run, pick_device(device))
    images = class_samples(model, per_class, temperature, seed, around.value)
    save_figure(sample_figure(images, facts.class_names, levels), out)
    _done(out, as_json)


def interpolate(
    run: RunFolder,
    out: Annotated[Path, typer.Option(help="Picture to write: .png, .pdf or .svg.")],
    pairs: Annotated[int, typer.Option(help="Pairs of test images.", min=1)] = 8,
    steps: Annotated[int, typer.Option(help="Images in a row.", min=2)] = 9,
    seed: Seed = 0,
    data_dir: DataDir = None,
    device: Where = Device.auto,
    as_json: AsJson = False,
) -> None:
    """Walk from one test image to another on a straight line in latent space."""
    from flowclf.figures import interpolation_figure, save_figure
    from flowclf.figures.run import interpolation_strips
    from flowclf.training.task import load_task

    task = load_task(run, data_dir, device.value)
    levels = _levels(task.dataset.levels)
    strips = interpolation_strips(task.model, task.test, pairs, steps, seed)
    save_figure(interpolation_figure(strips, levels), out)
    _done(out, as_json)


def _levels(levels: int | None) -> int:
    if levels is None:
        raise UserError(
            "expected a run on images, got one on a table; in Python: "
            "flowclf.load(RUN).sample(y) and .interpolate(x0, x1, steps)"
        )
    return levels


def _done(out: Path, as_json: bool) -> None:
    if as_json:
        print_json({"figure": str(out)})
    else:
        print(f"figure   {out}")
