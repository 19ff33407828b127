"""`flowclf evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from flowclf.catalogue import ENDS, find_metric
from flowclf.cli.output import (
    AsJson,
    DataDir,
    Device,
    Where,
    message,
    parse_temperatures,
    print_json,
    print_table,
    status,
)
from flowclf.support.errors import UserError

if TYPE_CHECKING:
    from flowclf.data.outliers import Outliers
    from flowclf.evaluation import Options, Subject
    from flowclf.training.task import Task

__all__ = ["evaluate"]

PER_CLASS = "accuracy_per_class"
# Walks of a strip, and images of each.
WALKS, WALK_STEPS = 6, 9
DRAWN = ("reliability",)
NAMES = ("run", "system", "data")
OUTLIERS = "noise:0.1,uniform,flipped,inverted,rotated"
TABLE_OUTLIERS = "permuted,noise,gaussian,far"
ALL = ENSEMBLE = "all"
# Settings of the data that the test samples do not depend on.
TRAINING_ALONE = {
    "train_size": None, "labels": None, "augment": "none", "validation": 0.0, "subset": "first"
}  # fmt: skip


def evaluate(
    runs: Annotated[list[Path] | None, typer.Argument(help="Folders of trained runs.")] = None,
    suite: Annotated[
        str,
        typer.Option(
            help="Suites, separated by commas, or all: accuracy, confusion, calibration, "
            "reliability, paper-calibration, recalibration, conformal, selective, likelihood, "
            "bound, exactness, clustering, information, explain, samples, ood, shift, attack."
        ),
    ] = "accuracy,calibration,likelihood,exactness",
    outliers: Annotated[
        str | None,
        typer.Option(
            help="Of the suite ood: kinds, known data, folders or files, separated by commas.",
            show_default=f"{OUTLIERS}; of tables {TABLE_OUTLIERS}",
        ),
    ] = None,
    resize: Annotated[
        bool, typer.Option(help="Make outliers of another size or colour fit.")
    ] = True,
    costly: Annotated[
        bool, typer.Option("--costly", help="Also scores that take backward passes.")
    ] = False,
    general: Annotated[
        Path | None,
        typer.Option(help="Run on more varied data, whose density the score ratio divides by."),
    ] = None,
    samples: Annotated[
        int, typer.Option(help="Images of the suites shift, attack and samples.", min=1)
    ] = 1000,
    temperatures: Annotated[
        str, typer.Option(help="Of the suite samples, separated by commas.")
    ] = "0.2,0.4,0.6,0.8,1",
    betas: Annotated[
        str | None,
        typer.Option(help="FIRST:LAST:COUNT or values, of runs with network.condition=beta."),
    ] = None,
    data_dir: DataDir = None,
    device: Where = Device.auto,
    baselines: Annotated[bool, typer.Option(help="Also rows of QDA and others.")] = True,
    list_scores: Annotated[
        bool, typer.Option("--list-scores", help="What the suite ood scores by.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Evaluate trained runs on their test sets; each gets an evaluation.json and figures.

    A suite that does not apply to a run is skipped with a note. Runs on different data get tables
    of their own, each printed as soon as its runs are done.
    """
    if list_scores:
        _print_scores(as_json)
        return
    if not runs:
        raise UserError("expected the folder of a trained run, got none; see flowclf train")

    suites = _suites(suite)
    if outliers is not None and "ood" not in suites:
        message("note: --outliers is of the suite ood, which --suite does not name")
    drawn = tuple(parse_temperatures(temperatures))
    scoring = outliers, resize, costly, general
    wanted = Wanted(suites, *scoring, samples, drawn, betas, data_dir, device.value)
    documents = []
    for (*_, class_names), group in _by_data(runs).items():
        found: list[dict[str, Any]] = []
        try:
            task = _evaluate_group(group, wanted, found)
            if baselines and not as_json:
                found += _baselines(task)
        finally:  # what is finished is not thrown away by a mistake in the next run
            if found and not as_json:
                _print(found, class_names)
        documents += found
    if as_json:
        print_json(documents[0] if len(documents) == 1 else documents)


class Wanted(NamedTuple):
    """Suites and their options, as asked for."""

    suites: list[str]
    outliers: str | None
    resize: bool
    costly: bool
    general: Path | None
    samples: int
    temperatures: tuple[float, ...]
    betas: str | None
    data_dir: Path | None
    device: str


def _suites(names: str) -> list[str]:
    """Return the names of suites.

    Raises:
        UserError: an unknown one.
    """
    from flowclf.evaluation.suites import SUITES

    suites = [*SUITES] if names == ALL else [name.strip() for name in names.split(",")]
    for name in suites:
        if name not in SUITES:
            raise UserError(f"unknown suite {name!r}; choose from: all, {', '.join(SUITES)}")
    return suites


def _by_data(runs: Sequence[Path]) -> dict[tuple[Any, ...], list[Path]]:
    """Group runs whose test samples are the same; the names of the classes end each key.

    A mistake in the last run is found before any work.

    Raises:
        UserError: not a run.
    """
    from flowclf.runs import Run

    groups: dict[tuple[Any, ...], list[Path]] = {}
    for folder in runs:
        config, facts = Run(folder).read_config()
        test: Any = config.data.model_copy(update=TRAINING_ALONE)
        texts = config.data.target is None and config.dataset.endswith(".csv")
        if texts or config.data.features is not None:
            test = config.data, config.seed  # texts and components are drawn with all of them
        same = config.dataset, test, facts.shape, facts.class_names
        groups.setdefault(same, []).append(folder)
    return groups


def _evaluate_group(folders: Sequence[Path], wanted: Wanted, found: list[dict[str, Any]]) -> Task:
    """Evaluate runs on the same data, append what is printed to `found`; return the last."""
    from flowclf.evaluation import Options, Subject
    from flowclf.evaluation.robustness import ensemble_rows
    from flowclf.models import load
    from flowclf.training.task import load_task

    models, suites = [], wanted.suites
    general = None if wanted.general is None else load(wanted.general)
    for folder in folders:
        task = load_task(folder, wanted.data_dir, wanted.device)
        if general is not None:
            general = general.to(task.model.mixture.device)
        for notice in task.dataset.notices:
            message(f"note: {notice}")
        scored = "ood" in suites
        features = task.dataset.features
        images = task.dataset.is_image or (features is not None and features.images is not None)
        usual = OUTLIERS if images else TABLE_OUTLIERS
        kinds = usual if wanted.outliers is None else wanted.outliers
        specs = kinds.split(",") if scored else []
        sets = [load_outlier_set(spec, task, wanted.data_dir, wanted.resize) for spec in specs]
        official = _official(task, wanted.data_dir) if "shift" in suites else None
        levels = task.dataset.levels
        options = Options(
            tuple(sets), official=official, samples=wanted.samples, levels=levels,
            temperatures=wanted.temperatures, features=features is not None,
            costly=wanted.costly, general=general,
        )  # fmt: skip
        if wanted.betas is not None:
            found += _along(folder, task, suites, options, wanted.betas)
        else:
            found.append(_evaluated(folder, task, suites, options))
        models.append(task.model)
    if scored and len(models) > 1:
        subject = Subject(task.model, task.test, seed=task.config.seed, options=options)
        found.append({"run": ENSEMBLE, "ood": ensemble_rows(models, subject)})
    return task


def _print_scores(as_json: bool) -> None:
    from flowclf.evaluation.scores import SCORES

    columns = ("name", "needs", "formula", "direction", "paper")
    rows = [{column: getattr(score, column) for column in columns} for score in SCORES.values()]
    if as_json:
        print_json(rows)
    else:
        print_table(
            "scores of out-of-distribution samples", columns, [[*row.values()] for row in rows]
        )


def load_outlier_set(spec: str, task: Task, data_dir: Path | None, resize: bool = True) -> Outliers:
    """Load a set in the form of the run's data; print what was changed.

    Raises:
        UserError: an empty name, or one of no data.
    """
    from flowclf.data.outliers import load_outliers

    if not spec.strip():
        raise UserError("expected --outliers with names between the commas, got an empty one")
    found = load_outliers(spec.strip(), task.dataset, task.config.seed, data_dir, resize)
    for notice in found.notices:
        message(f"note: {found.name}: {notice}")
    return found


def _official(task: Task, data_dir: Path | None) -> Path | None:
    """Find CIFAR-10-C or CIFAR-100-C, if the data are CIFAR and it is there."""
    from flowclf.data.corruptions import find_official
    from flowclf.data.source import DataSource

    found = find_official(task.config.dataset, DataSource(data_dir).roots())
    if found:
        message(f"note: corrupted images of {found}")
    return found


def _results(
    label: str, task: Task, suites: Sequence[str], options: Options
) -> tuple[Subject, dict[str, Any]]:
    """Run the suites on a task's test split, with their progress behind the label.

    Those that do not apply are skipped with a note.

    Raises:
        UserError: none applies.
    """
    from flowclf.evaluation import Subject, evaluate_subject

    splits = task.test, task.training, task.validation
    results: dict[str, Any] = {}
    skipped: list[UserError] = []
    with status(f"{label}: ") as report:
        subject = Subject(task.model, *splits, task.config.seed, options, report)
        for name in suites:
            try:
                results |= evaluate_subject(subject, [name])
            except UserError as error:
                skipped.append(error)
    if not results:
        raise skipped[0]
    for reason in skipped:
        message(f"note: {label}: skipped: {reason}")
    return subject, results


def _evaluated(folder: Path, task: Task, suites: Sequence[str], options: Options) -> dict[str, Any]:
    """Evaluate a run, write results and figures to its folder, return what is printed."""
    from flowclf.data import public_name
    from flowclf.figures.evaluation import evaluation_figures
    from flowclf.runs import Run

    subject, results = _results(str(folder), task, suites, options)
    config, run, classes = task.config, Run(folder), task.dataset.class_names
    run.write_evaluation(results)
    scores = subject.outlier_scores if "ood" in results else None
    for path in evaluation_figures(config.system, results, run.figures, classes, scores):
        message(f"figure   {path}")
    if results.get("explain"):
        _draw_decisions(subject, results["explain"], task, run.figures)
    if results.get("walk_class_changes") is not None:
        _draw_walks(task, run.figures)
    names = {"system": config.system, "data": public_name(config.dataset)}
    return {"run": str(folder), **names, **results}


def _along(
    folder: Path, task: Task, suites: Sequence[str], options: Options, betas: str
) -> list[dict[str, Any]]:
    """Evaluate a run at each β̃, write `betas` to its folder, return what is printed."""
    from flowclf.data import public_name
    from flowclf.many import parse_betas
    from flowclf.runs import Run
    from flowclf.systems.ib_inn import ConditionedIBInn

    model, config = task.model, task.config
    if not isinstance(model, ConditionedIBInn):
        raise UserError(f"expected a run with network.condition=beta for --betas, got {folder}")
    found = []
    for beta in parse_betas(betas):
        model.move_to(beta)
        _, results = _results(f"{folder} at β̃ = {beta:g}", task, suites, options)
        found.append({"beta": beta, **results})
    Run(folder).write_evaluation({"betas": found})
    names = {"system": config.system, "data": public_name(config.dataset)}
    return [{"run": f"β̃ = {row['beta']:g}", **names, **row} for row in found]


def _draw_walks(task: Task, folder: Path) -> None:
    """Draw strip.png, of walks as the suite samples judges them."""
    from flowclf.figures.images import interpolation_figure
    from flowclf.figures.style import save_figures
    from flowclf.figures.walks import interpolation_strips, pair_labels

    test, levels, seed = task.test, task.dataset.levels, task.config.seed
    assert levels is not None, "the suite is of images"
    pairs = min(WALKS, len(test) // 2)
    strips = interpolation_strips(task.model, test, pairs, WALK_STEPS, seed)
    labels = pair_labels(test, pairs, seed, task.dataset.class_names)
    for path in save_figures({"strip": interpolation_figure(strips, levels, labels)}, folder):
        message(f"figure   {path}")


def _draw_decisions(
    subject: Subject, rows: Sequence[dict[str, Any]], task: Task, folder: Path
) -> None:
    """Draw explain.png, or print why not."""
    from flowclf.figures.explain import explanation_figures

    data, split = task.dataset, (subject.model, subject.test)
    words = data.vocabulary or data.feature_names
    try:
        for path in explanation_figures(
            *split, rows, data.class_names, subject.options.levels, folder, words
        ):
            message(f"figure   {path}")
    except UserError as error:
        message(f"note: no figure of explained predictions: {error}")


def _baselines(task: Task) -> list[dict[str, Any]]:
    """Fit baselines to the data of the last run; return their columns."""
    from flowclf.evaluation.baselines import baseline_rows

    data = task.dataset
    rows = baseline_rows(task.training, task.test, data.levels, data.features is not None)
    shown = ("accuracy", "ece", "bits_per_dim")
    return [{"run": row["system"], **{name: row[name] for name in shown}} for row in rows]


def _print(documents: Sequence[dict[str, Any]], class_names: Sequence[str]) -> None:
    """Print the tables of runs on the same data, and of their baselines."""
    known = {name: v for each in reversed(documents) for name, v in each.items() if v is not None}
    shown = [name for each in documents for name in each if name in known]
    shown = [*dict.fromkeys(shown)]
    scalars = [name for name in shown if name not in NAMES and not isinstance(known[name], list)]
    rows = [
        (find_metric(name).column, *(_with_interval(name, each) for each in documents))
        for name in scalars
        if not name.endswith(ENDS)
    ]
    for k, name in enumerate(class_names if PER_CLASS in known else ()):
        values = [each[PER_CLASS][k] if PER_CLASS in each else None for each in documents]
        rows.append((f"accuracy of {name}", *map(find_metric(PER_CLASS).written, values)))
    titles = [each["run"] for each in documents]
    systems = dict.fromkeys(each["system"] for each in documents if "system" in each)
    if rows:
        print_table(f"{', '.join(systems)} on {known['data']}", ("metric", *titles), rows)
    for name in shown:
        if isinstance(known[name], list) and name not in (PER_CLASS, *DRAWN):
            _print_rows(name, documents)


def _print_rows(name: str, documents: Sequence[dict[str, Any]]) -> None:
    """Print a table of a suite's rows, run after run; intervals are in evaluation.json."""
    rows = [{"run": each["run"], **row} for each in documents for row in each.get(name, ())]
    if name == "explain":
        rows = [_short_explanation(row) for row in rows]
    keys = dict.fromkeys(key for row in rows for key in row)
    alone = len({row["run"] for row in rows}) == 1
    columns = [key for key in keys if not (key.endswith(ENDS) or (alone and key == "run"))]
    cells = [[find_metric(key).written(row.get(key)) for key in columns] for row in rows]
    metrics = [find_metric(key) for key in columns]
    headings = [each.label if name == "explain" else each.column for each in metrics]
    print_table(find_metric(name).label, headings, cells)


def _short_explanation(row: dict[str, Any]) -> dict[str, Any]:
    """Join the columns of an explained decision that belong together, to fit in 80 letters."""
    kinds = ("log_prob_per_dim_nats", "elbo_per_dim_nats")
    kind = next((kind for kind in kinds if kind in row), None)
    joined = {
        "predicted": _joined(row, "predicted", "posterior", " {:.2f}"),
        "runner_up": _joined(row, "runner_up", "runner_up_posterior", " {:.2f}"),
        "distance": _joined(row, "distance", "runner_up_distance", " → {:.1f}", "{:.1f}"),
        "shift": _joined(row, "shift", None, "", "{:.2f}"),
    }
    if kind:
        joined[kind] = _joined(row, kind, f"counterfactual_{kind}", " → {:.2f}", "{:.2f}")
    first = {key: row[key] for key in ("run", "sample", "class")}
    return first | {key: value for key, value in joined.items() if value is not None}


def _joined(
    row: dict[str, Any], one: str, other: str | None, more: str, form: str = "{}"
) -> str | None:
    """Write a value, and behind it another one if there is one."""
    if row[one] is None:
        return None
    second = row[other] if other else None
    return form.format(row[one]) + (more.format(second) if second is not None else "")


def _with_interval(name: str, results: dict[str, Any]) -> str:
    written = find_metric(name).written
    ends = [written(results[name + end]) for end in ENDS if name + end in results]
    return written(results.get(name)) + (f" ({' – '.join(ends)})" if ends else "")
