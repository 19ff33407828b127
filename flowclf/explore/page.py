"""The page as one file: its style and modules inline, and what it must be told."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

__all__ = ["POLICY", "page"]

POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'wasm-unsafe-eval' data: blob:; "
    "style-src 'unsafe-inline'; img-src data: blob:; connect-src 'self' data: blob:; "
    "worker-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def page(
    told: Mapping[str, Any], model: str = "server", more: Mapping[str, str] | None = None
) -> str:
    """Return the page, whose modules find each other by an import map.

    Args:
        told: what it must know, as JSON; shown as text only.
        model: the module that answers its questions: "server", or "file" without one.
        more: further modules by name.
    """
    folder = resources.files("flowclf.explore") / "page"
    modules = {
        file.name.removesuffix(".js"): file.read_text("utf-8")
        for file in sorted(folder.iterdir(), key=lambda file: file.name)
        if file.name.endswith(".js")
    }
    modules["model"] = modules.pop(model)
    for other in {"server", "file"} & modules.keys():
        del modules[other]
    addresses = {name: _data_url(text) for name, text in (modules | dict(more or {})).items()}
    html = (folder / "index.html").read_text("utf-8")
    for mark, text in (
        ("/*POLICY*/", POLICY.partition("; frame-ancestors")[0]),
        ("/*STYLE*/", (folder / "style.css").read_text("utf-8")),
        ("/*IMPORTS*/", _inline({"imports": addresses})),
        ("/*TOLD*/", _inline(told)),
    ):
        html = html.replace(mark, text)
    return html


def _data_url(script: str) -> str:
    return f"data:text/javascript;base64,{base64.b64encode(script.encode()).decode()}"


def _inline(value: Any) -> str:
    """Return JSON that cannot end the script element it stands in."""
    return json.dumps(value).replace("<", "\\u003c")
