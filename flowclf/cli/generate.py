"""`flowclf sample`, `flowclf interpolate` and `flowclf figure`: pictures of trained runs."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flowclf.cli.output import (
    AsJson,
    DataDir,
    Device,
    RunFolder,
    Where,
    parse_temperatures,
    print_json,
)
from flowclf.support.errors import UserError

if TYPE_CHECKING:
    from flowclf.figures.style import Figure
    from flowclf.training.task import Task

Seed = Annotated[int, typer.Option(help="Seed of the draws.", min=0)]
Out = Annotated[Path, typer.Option(help="Picture to write: .png, .pdf or .svg.")]
Pairs = Annotated[int, typer.Option(help="Rows: pairs of images or of classes.", min=1, max=256)]
Dark = Annotated[bool, typer.Option("--dark", help="Light lines on a dark page.")]
AllowInexact = Annotated[
    bool,
    typer.Option(
        "--allow-inexact", help="Draw even if the inverse is off by over 1e-3 standard deviations."
    ),
]


class Around(StrEnum):
    """Centre of the samples of a class."""

    data = "data"
    means = "means"


class Between(StrEnum):
    """Ends of a walk through latent space."""

    images = "images"
    means = "means"
    classes = "classes"


def sample(
    run: RunFolder,
    out: Out,
    per_class: Annotated[int, typer.Option(help="Samples of each class.", min=1, max=256)] = 8,
    temperature: Annotated[
        str, typer.Option(help="Spread around the means; several with commas, side by side.")
    ] = "0.7",
    around: Annotated[
        Around, typer.Option(help="Centre: averages of the training data, or the means.")
    ] = Around.data,
    seed: Seed = 0,
    dark: Dark = False,
    allow_inexact: AllowInexact = False,
    device: Where = Device.auto,
    as_json: AsJson = False,
) -> None:
    """Draw images of every class."""
    from flowclf.evaluation.exactness import check_exact_draws
    from flowclf.figures import sample_figure, temperature_figure
    from flowclf.figures.run import class_samples
    from flowclf.models import load
    from flowclf.runs import Run
    from flowclf.support.devices import pick_device

    temperatures = parse_temperatures(temperature)
    facts = Run(run).read_config()[1]
    levels, names = _levels(facts.levels), facts.class_names
    model = load(run, pick_device(device))
    blocks = {t: class_samples(model, per_class, t, seed, around.value) for t in temperatures}
    if not allow_inexact:
        check_exact_draws(model, max(temperatures), seed, around.value)
    if len(blocks) == 1:
        figure = sample_figure(blocks[temperatures[0]], names, levels, temperatures[0])
    else:
        figure = temperature_figure(blocks, names, levels)
    _save(figure, out, dark)
    _done(out, as_json)


def interpolate(
    runs: Annotated[list[Path], typer.Argument(help="Folders of trained runs.")],
    out: Out,
    pairs: Pairs = 8,
    steps: Annotated[int, typer.Option(help="Images in a row.", min=2, max=256)] = 9,
    between: Annotated[
        Between,
        typer.Option(
            help="Test images; class means; or two classes, through the test image whose class "
            "is least certain."
        ),
    ] = Between.images,
    classes: Annotated[
        str | None, typer.Option(help="Pairs of classes by number, as 4-9,3-5.")
    ] = None,
    seed: Seed = 0,
    dark: Dark = False,
    allow_inexact: AllowInexact = False,
    data_dir: DataDir = None,
    device: Where = Device.auto,
    as_json: AsJson = False,
) -> None:
    """Walk through latent space on straight lines, of one run or several side by side."""
    from flowclf.evaluation.exactness import check_exact_walks
    from flowclf.figures import (
        interpolation_figure,
        mean_walk_figure,
        mean_walks,
        model_interpolation_figure,
        model_interpolations,
    )
    from flowclf.figures.walks import pair_labels
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
        walks = mean_walks(task.model, chosen, steps)
        figure = mean_walk_figure(walks, chosen, task.dataset.class_names, levels)
    elif between == Between.classes:
        figure = _between_classes(task, chosen if classes else None, pairs, steps, levels)
    else:
        models = {name: each.model for name, each in tasks.items()}
        strips = model_interpolations(models, task.test, pairs, steps, seed)
        labels = pair_labels(task.test, pairs, seed, task.dataset.class_names)
        if len(strips) == 1:
            figure = interpolation_figure(next(iter(strips.values())), levels, labels)
        else:
            figure = model_interpolation_figure(strips, levels, labels)
    _save(figure, out, dark)
    _done(out, as_json)


def figure(
    run: RunFolder,
    kind: Annotated[
        str,
        typer.Option(
            help="latent, principal, samples, reconstructions, landscape, similarity (of the "
            "classes), reliability, confusion, explain, roc and scores (of --outliers), shift, "
            "attack, sample-quality, trajectory (of RGB images), extraction (of labels that had no "
            "data), learning (of the training) or information (of --rows)."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Picture to write; by default RUN/figures/KIND.png.")
    ] = None,
    classes: Annotated[
        str, typer.Option(help="Class of the landscape's sample, and another one, by number.")
    ] = "0-1",
    image: Annotated[int, typer.Option(help="Test image of the trajectory.", min=0)] = 0,
    rows: Annotated[
        Path | None, typer.Option(help="CSV file of benchmarks.flowclf.information.")
    ] = None,
    outliers: Annotated[
        str, typer.Option(help="Of the kinds roc and scores, as of `flowclf evaluate`.")
    ] = "noise:0.1,uniform,flipped,inverted,rotated",
    beside: Annotated[
        list[Path] | None, typer.Option(help="Further runs, of the kinds latent and principal.")
    ] = None,
    score: Annotated[
        str, typer.Option(help="Of the same: negative-log-prob, typicality or entropy.")
    ] = "negative-log-prob",
    dark: Dark = False,
    data_dir: DataDir = None,
    device: Where = Device.auto,
    as_json: AsJson = False,
) -> None:
    """Draw one figure of a trained run."""
    from flowclf.cli.evaluate import load_outlier_set
    from flowclf.figures.kinds import Source, draw_kind
    from flowclf.models import load
    from flowclf.runs import Run
    from flowclf.support.devices import pick_device
    from flowclf.training.task import load_task

    task = load_task(run, data_dir, device.value)
    specs = outliers.split(",") if kind in ("roc", "scores") else []
    sets = tuple(load_outlier_set(spec, task, data_dir) for spec in specs)
    source = Source(
        task.config.system, task.model, task.dataset, task.training, task.test, task.config.beta,
        _pairs(classes, task.model.classes)[0], image, _read_rows(rows) if rows else (),
        [*Run(run).read_metrics()], task.validation, sets, score,
        {_name(other): load(other, pick_device(device)) for other in beside or ()},
    )  # fmt: skip
    out = out or run / "figures" / f"{kind}.png"
    _save(draw_kind(kind, source), out, dark)
    _done(out, as_json)


def _between_classes(
    task: Task, chosen: Sequence[tuple[int, int]] | None, pairs: int, steps: int, levels: int
) -> Figure:
    """Draw walks through the least certain samples, of all or of pairs of classes."""
    from flowclf.evaluation import predict_split
    from flowclf.evaluation.explain import least_sure
    from flowclf.figures import ambiguous_walk, ambiguous_walk_figure, most_ambiguous

    predicted = predict_split(task.model, task.test, task.config.seed).log_posterior
    rows: list[tuple[int, tuple[int, int] | None]]
    if chosen is None:
        rows = [(row, None) for row in least_sure(predicted, pairs).tolist()]
    else:
        rows = [(most_ambiguous(predicted, pair), pair) for pair in chosen]
    walks = [ambiguous_walk(task.model, task.test.x[row], pair, steps) for row, pair in rows]
    return ambiguous_walk_figure(walks, task.dataset.class_names, levels)


def _read_rows(path: Path) -> list[dict[str, str]]:
    """Read estimates of information: text, and numbers that can be drawn."""
    import csv
    from math import isfinite

    from flowclf.support.parse import read_text

    try:
        rows = list(csv.DictReader(read_text(path).splitlines()))
        sizes = [int(row["samples"]) for row in rows if row["estimator"]]
        values = [float(row[name]) for row in rows for name in ("mi_nats", "md_nats")]
    except (csv.Error, KeyError, TypeError, ValueError):
        rows = []
    if not rows or not all(0 < size < 2**53 for size in sizes) or not all(map(isfinite, values)):
        raise UserError(
            "expected --rows with the columns estimator, samples, mi_nats and md_nats, and numbers "
            f"in all but the first, got {path}"
        )
    return rows


def _pairs(text: str | None, classes: int) -> list[tuple[int, int]]:
    """Parse "4-9,3-5" to [(4, 9), (3, 5)]; by default each class and the next."""
    if text is None:
        return [(k, (k + 1) % classes) for k in range(classes)]
    try:
        found = [(int(a), int(b)) for a, b in (pair.split("-") for pair in text.split(","))]
    except ValueError:
        found = []
    if not found or any(a == b for a, b in found):
        raise UserError(f"expected --classes like 4-9,3-5, got {text!r}")
    if strange := [k for pair in found for k in pair if not 0 <= k < classes]:
        raise UserError(f"expected --classes of 0 to {classes - 1}, got {strange[0]} in {text!r}")
    return found


def _name(folder: Path) -> str:
    """Name a run in a picture by its β̃ if it has one, else by its folder."""
    from flowclf.runs import Run

    config = Run(folder).read_config()[0]
    if config.beta is None:
        return folder.name
    return f"{config.system}, β̃ = {'∞' if config.beta == inf else f'{config.beta:g}'}"


def _levels(levels: int | None) -> int:
    if levels is None:
        raise UserError(
            "expected a run on images, got one on a table; in Python: "
            "flowclf.load(RUN).sample(y) and .interpolate(x0, x1, steps)"
        )
    return levels


def _save(figure: Figure, out: Path, dark: bool) -> None:
    """Write a figure; one in the folder of a run's own as they are kept there, for the report."""
    from flowclf.figures.style import save_figure, save_figures

    if out.parent.name == "figures" and out.suffix == ".png" and not dark:
        save_figures({out.stem: figure}, out.parent)
    else:
        save_figure(figure, out, dark=dark)


def _done(out: Path, as_json: bool) -> None:
    if as_json:
        print_json({"figure": str(out)})
    else:
        print(f"figure   {out}")
