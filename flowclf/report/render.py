"""The page: template, style and script in one file that asks the network for nothing."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from flowclf.config import nested
from flowclf.report.collect import Collection, collect
from flowclf.report.curves import beta_curves
from flowclf.report.details import run_details
from flowclf.report.pictures import folder_pictures, pictured_runs
from flowclf.report.rows import MAIN, make_rows, varied_settings
from flowclf.report.settings import common_settings
from flowclf.report.summary import sentences, task_summaries, title
from flowclf.report.table import (
    LABELS,
    comparison_table,
    environment_table,
    seeds_table,
    settings_table,
)
from flowclf.support.atomic_files import write_text
from flowclf.support.errors import UserError

__all__ = ["render", "write_report"]


def write_report(paths: Sequence[Path], out: Path) -> dict[str, Any]:
    """A report on the runs of these folders; its path, the number of runs, and its bytes.

    Raises:
        UserError: `out` is no .html file, no finished runs, or damaged files.
    """
    if out.suffix.lower() != ".html" or out.is_dir():
        raise UserError(f"expected --out to name a file ending in .html, got {out}")
    found = collect(paths)
    write_text(out, render(found))
    return {"report": str(out), "runs": len(found.entries), "bytes": out.stat().st_size}


def render(found: Collection) -> str:
    """The page of a collection.

    All that comes from files is escaped: only style and script are ours, and the page's policy
    lets nothing else run or load.
    """
    style, script = (_source(name) for name in ("style.css", "report.js"))
    environment = Environment(
        loader=PackageLoader("flowclf.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("template.html.j2").render(
        **_content(found),
        style=Markup(style),
        script=Markup(script),
        policy=_policy(style, script),
    )


def _content(found: Collection) -> dict[str, Any]:
    """What the template shows, section by section."""
    entries = found.entries
    varied = varied_settings(entries)
    rows = make_rows(found, varied)
    anchors = {entry.name: f"run-{k}" for k, entry in enumerate(entries, 1)}
    pictures, shared = pictured_runs(rows), folder_pictures(found.pictures)
    details = [run_details(e, anchors[e.name], pictures.get(e.name, ())) for e in entries]
    common = common_settings([entry.settings for entry in entries])
    return {
        "title": title(entries),
        "sentences": sentences(found),
        "tasks": task_summaries(rows),
        "anchors": anchors,
        "unfinished": found.unfinished,
        "comparison": comparison_table(rows, varied, anchors),
        "comparison_main": len(LABELS) + len(varied) + len(MAIN),
        "seeds": seeds_table(rows, varied),
        "figures": [*beta_curves(rows, varied), *shared],
        "figures_left_out": len(found.pictures) - len(shared),
        "runs": details,
        "pictured": len(pictures),
        "left_out": sum(each.has_figures for each in details) - len(pictures),
        "differences": settings_table(entries),
        "common": yaml.safe_dump(nested(common), sort_keys=False, allow_unicode=True),
        "environment": environment_table(entries),
    }


def _policy(style: str, script: str) -> str:
    """Content-Security-Policy: pictures inside the page, this style and this script alone."""
    return (
        f"default-src 'none'; img-src data:; style-src {_hash(style)}; "
        f"script-src {_hash(script)}; base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _source(name: str) -> str:
    return (resources.files("flowclf.report") / name).read_text("utf-8")
