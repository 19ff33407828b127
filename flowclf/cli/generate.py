"""`flowclf sample` and `flowclf interpolate`: pictures out of trained runs."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flowclf.cli.output import AsJson, DataDir, Device, RunFolder, Where, print_json
from flowclf.support.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from flowclf.training.task import Task

__all__ = ["interpolate", "sample"]

Seed = Annotated[int, typer.Option(help="Of the draws.", min=0)]
AllowInexact = Annotated[
    bool,
    typer.Option(
        "--allow-inexact", help="Also where the inverse is off by over 1e-3 standard deviations."
    ),
]


class Around(StrEnum):
    """What samples are drawn around."""

    data = "data"
    means = "means"


class Between(StrEnum):
    """What a walk through latent space goes between."""

    images = "images"
    means = "means"
    classes = "classes"


def sample(
    run: RunFolder,
    out: Annotated[Path, typer.Option(help="Picture to write: .png, .pdf or .svg.")],
    per_class: Annotated[int, typer.Option(help="Samples of each class.", min=1, max=256)] = 8,
    temperature: Annotated[
        str, typer.Option(help="Spread around the means; several with commas, side by side.")
    ] = "0.7",
    around: Annotated[
        Around, typer.Option(help="Centre: averages of the training data, or the means.")
    ] = Around.data,
    seed: Seed = 0,
    allow_inexact: AllowInexact = False,
    device: Where = Device.auto,
    as_json: AsJson = False,
) -> None:
    """Draw images of every class."""
    from flowclf.evaluation.exactness import check_exact_draws
    from flowclf.figures import sample_figure, save_figure, temperature_figure
    from flowclf.figures.run import class_samples
    from flowclf.models import load
    from flowclf.runs import Run
    from flowclf.support.devices import pick_device

    temperatures = _temperatures(temperature)
    facts = Run(run).read_config()[1]
    levels, names = _levels(facts.levels), facts.class_names
    model = load(run, pick_device(device))
    blocks = {t: class_samples(model, per_class, t, seed, around.value) for t in temperatures}
    if not allow_inexact:
        check_exact_draws(model, max(temperatures), seed, around.value)
    if len(blocks) == 1:
        figure = sample_figure(blocks[temperatures[0]], names, levels)
    else:
        figure = temperature_figure(blocks, names, levels)
    save_figure(figure, out)
    _done(out, as_json)


def interpolate(
    runs: Annotated[list[Path], typer.Argument(help="Folders of trained runs.")],
    out: Annotated[Path, typer.Option(help="Picture to write: .png, .pdf or .svg.")],
    pairs: Annotated[
        int, typer.Option(help="Rows: pairs of images or of classes.", min=1, max=256)
    ] = 8,
    steps: Annotated[int, typer.Option(help="Images in a row.", min=2, max=256)] = 9,
    between: Annotated[
        Between,
        typer.Option(
            help="Test images; class means; or two classes, through the test image that is least "
            "sure which of them it is."
        ),
    ] = Between.images,
    classes: Annotated[
        str | None, typer.Option(help="Pairs of classes by number, as 4-9,3-5.")
    ] = None,
    seed: Seed = 0,
    allow_inexact: AllowInexact = False,
    data_dir: DataDir = None,
    device: Where = Device.auto,
    as_json: AsJson = False,
) -> None:
    """Walk through latent space on straight lines: one run's, or several side by side."""
    from flowclf.evaluation.exactness import check_exact_walks
    from flowclf.figures import save_figure
    from flowclf.training.task import load_task

    if len(runs) > 1 and between != Between.images:
        raise UserError(f"expected one run for --between {between.value}, got {len(runs)}")
    names = [_name(folder) for folder in runs]
    names = names if len(set(names)) == len(names) else [str(folder) for folder in runs]
    named = zip(names, runs, strict=True)
    tasks = {name: load_task(folder, data_dir, device.value) for name, folder in named}
    task = next(iter(tasks.values()))
    levels = _levels(task.dataset.levels)
    chosen = _pairs(classes, task.model.classes)[:pairs]
    if classes is not None and between == Between.images:
        raise UserError(
            f"expected --between means or classes for --classes {classes}, got images; leave one "
            "of them out"
        )
    if not allow_inexact:
        for each in tasks.values():
            check_exact_walks(each.model, each.test.x, seed)
    if between == Between.means:
        figure = _between_means(task, chosen, steps, levels)
    elif between == Between.classes:
        figure = _between_classes(task, chosen if classes else None, pairs, steps, levels)
    else:
        figure = _between_images(tasks, pairs, steps, seed, levels)
    save_figure(figure, out)
    _done(out, as_json)


def _between_images(
    tasks: dict[str, Task], pairs: int, steps: int, seed: int, levels: int
) -> Figure:
    from flowclf.figures import (
        interpolation_figure,
        model_interpolation_figure,
        model_interpolations,
    )
    from flowclf.figures.walks import interpolation_strips

    first = next(iter(tasks.values()))
    if len(tasks) == 1:
        strips = interpolation_strips(first.model, first.test, pairs, steps, seed)
        return interpolation_figure(strips, levels)
    models = {name: task.model for name, task in tasks.items()}
    found = model_interpolations(models, first.test, pairs, steps, seed)
    return model_interpolation_figure(found, levels)


def _between_means(task: Task, pairs: Sequence[tuple[int, int]], steps: int, levels: int) -> Figure:
    from flowclf.figures import mean_walk_figure, mean_walks

    walks = mean_walks(task.model, pairs, steps)
    return mean_walk_figure(walks, pairs, task.dataset.class_names, levels)


def _between_classes(
    task: Task, chosen: Sequence[tuple[int, int]] | None, pairs: int, steps: int, levels: int
) -> Figure:
    """By default past the samples that the model is least sure of."""
    from flowclf.evaluation import predict_split
    from flowclf.evaluation.explain import least_sure
    from flowclf.figures import ambiguous_walk, ambiguous_walk_figure
    from flowclf.figures.walks import most_ambiguous

    said = predict_split(task.model, task.test, task.config.seed).log_posterior
    if chosen is None:
        rows: list[tuple[int, tuple[int, int] | None]] = [
            (row, None) for row in least_sure(said, pairs).tolist()
        ]
    else:
        rows = [(most_ambiguous(said, pair), pair) for pair in chosen]
    walks = [ambiguous_walk(task.model, task.test.x[row], pair, steps) for row, pair in rows]
    return ambiguous_walk_figure(walks, task.dataset.class_names, levels)


def _pairs(text: str | None, classes: int) -> list[tuple[int, int]]:
    """ "4-9,3-5" to [(4, 9), (3, 5)]; by default each class and the next."""
    if text is None:
        return [(k, (k + 1) % classes) for k in range(classes)]
    try:
        found = [(int(a), int(b)) for a, b in (pair.split("-") for pair in text.split(","))]
    except ValueError:
        found = []
    if not found or any(a == b for a, b in found):
        raise UserError(f"expected --classes like 4-9,3-5, got {text!r}")
    return found


def _temperatures(text: str) -> list[float]:
    try:
        found = [float(value) for value in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(value >= 0 for value in found):
        raise UserError(
            f"expected --temperature of at least 0, or several like 0.4,0.7,1, got {text!r}"
        )
    return list(dict.fromkeys(found))


def _name(folder: Path) -> str:
    """Of a run in a picture: its β̃ where that tells runs apart, else its folder."""
    from flowclf.runs import Run

    config = Run(folder).read_config()[0]
    return folder.name if config.beta is None else f"{config.system}, β̃ = {config.beta:g}"


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
