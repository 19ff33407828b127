"""The page: summary, template, style and script in one file that loads nothing."""

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from math import prod
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from flowclf.config import nested
from flowclf.report import table
from flowclf.report.charts import BOTTOM, HEIGHT, LEFT, MARGIN, WIDTH, learning_charts
from flowclf.report.collect import Baselines, Collection, Entry, collect, with_baselines
from flowclf.report.pictures import beta_curves, folder_pictures, pictured_runs, task_name
from flowclf.report.rows import MAIN, Row, by_task, make_rows, ranked, varied_settings
from flowclf.report.settings import common_settings
from flowclf.report.table import IDENTITY, short
from flowclf.support.atomic_files import write_text
from flowclf.support.errors import UserError

MOST_NAMED = 4


def write_report(
    paths: Sequence[Path], out: Path, baselines: Baselines = lambda _: ()
) -> dict[str, Any]:
    """Write a report on the runs of these folders; return its path, number of runs and bytes.

    `baselines` gives the rows of a run's data, for data that no study has them of: `system`, and
    what was measured.

    Raises:
        UserError: `out` is no .html file, no finished runs, or damaged files.
    """
    if out.suffix.lower() != ".html" or out.is_dir():
        raise UserError(f"expected --out to name a file ending in .html, got {out}")
    found = with_baselines(collect(paths), baselines)
    write_text(out, render(found))
    return {"report": str(out), "runs": len(found.entries), "bytes": out.stat().st_size}


def render(found: Collection) -> str:
    """Render the page of a collection.

    All that comes from files is escaped, and the page's policy lets only its own style and script
    run and nothing load.
    """
    folder = resources.files("flowclf.report")
    style, script = ((folder / name).read_text("utf-8") for name in ("style.css", "report.js"))
    return template("template.html.j2").render(
        **_content(found),
        style=Markup(style),
        script=Markup(script),
        # Pictures inside the page, this style and this script alone.
        policy=f"default-src 'none'; img-src data:; style-src {hash_of(style)}; "
        f"script-src {hash_of(script)}; base-uri 'none'; form-action 'none'",
    )


def _content(found: Collection) -> dict[str, Any]:
    """Return what the template shows, section by section."""
    entries = found.entries
    varied = varied_settings(entries)
    rows = make_rows(found, varied)
    anchors = {entry.name: f"run-{k}" for k, entry in enumerate(entries, 1)}
    pictures, shared = pictured_runs(rows), folder_pictures(found.pictures)
    details = [table.run_details(e, anchors[e.name], pictures.get(e.name, ())) for e in entries]
    common = common_settings([entry.settings for entry in entries])
    return {
        "title": title(entries),
        "sentences": sentences(found),
        "tasks": [(task_name(*task), _bests(group)) for task, group in by_task(rows).items()],
        "anchors": anchors,
        "unfinished": found.unfinished,
        "comparison": table.comparison_table(rows, varied, anchors),
        "comparison_main": len(IDENTITY) + len(varied) + len(MAIN),
        "seeds": table.seeds_table(rows, varied),
        "curves": beta_curves(rows, varied, anchors),
        "histories": learning_charts(entries, anchors),
        "plot": {
            "width": WIDTH,
            "height": HEIGHT,
            "left": LEFT,
            "bottom": BOTTOM,
            "margin": MARGIN,
        },
        "showcase": [each for each in details if each.images],
        "figures": shared,
        "figures_left_out": len(found.pictures) - len(shared),
        "runs": details,
        "pictured": len(pictures),
        "left_out": sum(each.has_figures for each in details) - len(pictures),
        "differences": table.settings_table(entries),
        "common": yaml.safe_dump(nested(common), sort_keys=False, allow_unicode=True),
        "environment": table.environment_table(entries),
    }


def template(name: str) -> Template:
    """Return a template of this package, which escapes all that it is given."""
    environment = Environment(
        loader=PackageLoader("flowclf.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(name)


def hash_of(text: str) -> str:
    """Return the source of a content security policy that allows this text."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


@dataclass(frozen=True)
class Best:
    """Best row of a task by one number, with a note."""

    label: str
    value: str
    row: Row
    note: str = ""


def title(entries: Sequence[Entry]) -> str:
    """Name systems and data, or count them where they are many."""
    systems = [entry.config.system for entry in entries]
    data = [entry.data for entry in entries]
    return f"{_named(systems, 'systems')} on {_named(data, 'data sets')}"


def sentences(found: Collection) -> list[str]:
    """Describe in a sentence for each data set what was trained, how often, and what varied."""
    groups: dict[str, list[Entry]] = {}
    for entry in found.entries:
        groups.setdefault(entry.data, []).append(entry)
    return [_sentence(data, entries) for data, entries in groups.items()]


def _sentence(data: str, entries: Sequence[Entry]) -> str:
    facts = entries[0].facts
    systems = _named([entry.config.system for entry in entries], "systems")
    runs = "1 run" if len(entries) == 1 else f"{len(entries)} runs"
    shape = " × ".join(map(str, facts.shape))
    kind = f"{shape} images" if len(facts.shape) == 3 else f"{prod(facts.shape):,} features"
    samples = {entry.facts.samples for entry in entries} - {None}
    size = f", {_range(samples)} training samples" if samples else ""
    what = f"{runs} of {systems} on {data} ({kind}, {len(facts.class_names)} classes{size})"
    seeds = sorted({entry.config.seed for entry in entries})
    counted = f"seed {seeds[0]}" if len(seeds) == 1 else f"{len(seeds)} seeds"
    return f"{what}, {counted}{_betas(entries)}."


def _betas(entries: Iterable[Entry]) -> str:
    betas = sorted({beta for entry in entries if (beta := entry.config.beta) is not None})
    if not betas:
        return ""
    # No line breaks within.
    return f", β̃\u00a0{'=' if len(betas) == 1 else 'from'}\u00a0{_range(betas)}"


def _bests(rows: Sequence[Row]) -> list[Best]:
    """Return the best of a task by error, ECE and bits/dim, where there are such numbers."""
    error, ece, bits = (ranked(rows, name) for name in ("accuracy", "ece", "bits_per_dim"))
    several = len(rows) > 1
    found = []
    if error:
        value = f"{100 * (1 - _value(error[0], 'accuracy')):.2f} %"
        found.append(Best("lowest error" * several or "error", value, error[0], _interval(error)))
    if ece:
        value = f"{100 * _value(ece[0], 'ece'):.2f} %"
        found.append(Best("lowest ECE" * several or "ECE", value, ece[0], "15 bins"))
    if bits:
        value = f"{_value(bits[0], 'bits_per_dim'):.3f}"
        note = f"{bits[0].values.get('density', '')} log-likelihood".strip()
        found.append(Best("fewest bits/dim" * several or "bits/dim", value, bits[0], note))
    return found


def _interval(order: Sequence[Row]) -> str:
    """Write the interval of the best error, and how many other runs lie within."""
    low, high = order[0].number("accuracy_low"), order[0].number("accuracy_high")
    if low is None or high is None:
        return ""
    near = sum(_value(row, "accuracy") >= low for row in order[1:])
    others = f"; {near} other {'run lies' if near == 1 else 'runs lie'} within" if near else ""
    return f"95 % interval {100 * (1 - high):.2f} to {100 * (1 - low):.2f} %{others}"


def _value(row: Row, name: str) -> float:
    number = row.number(name)
    assert number is not None, "ranked rows have it"
    return number


def _named(names: Iterable[str], what: str) -> str:
    """Write "a, b and c", or how many they are."""
    known = list(dict.fromkeys(names))
    if len(known) > MOST_NAMED:
        return f"{len(known)} {what}"
    return " and ".join(filter(None, (", ".join(known[:-1]), known[-1])))


def _range(values: Iterable[float | None]) -> str:
    known = sorted(value for value in values if value is not None)
    return " to ".join(map(short, dict.fromkeys((known[0], known[-1]))))
