"""The directive `settings-table`: fields of a section with kind, default, and their comments."""

import ast
import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from textwrap import dedent
from typing import Any, Literal, get_args, get_origin

from docutils import nodes
from house_style import escaped
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.typing import ExtensionMetadata

from flowclf.settings import Section


class SettingsTable(SphinxDirective):
    """`.. settings-table:: module.Class prefix`: a row for each field, named prefix.field."""

    required_arguments = 2

    def run(self) -> list[nodes.Node]:
        """The table."""
        path, prefix = self.arguments
        module, _, name = path.rpartition(".")
        lines = [".. list-table::", "   :header-rows: 1", "   :widths: 24 16 60", ""]
        cells = [("setting", "default", "meaning"), *rows(getattr(import_module(module), name))]
        for number, (field, default, meaning) in enumerate(cells):
            shown = field if number == 0 else f"``{prefix}.{field}``"
            value = default if number == 0 else f"``{default}``"
            lines += [f"   * - {shown}", f"     - {value}", f"     - {escaped(meaning)}"]
        return self.parse_text_to_nodes("\n".join(lines))


def rows(section: type[Section]) -> Iterator[tuple[str, str, str]]:
    """Name, default and comment of each field: the comment beside it, or the one above."""
    source = dedent(inspect.getsource(section)).splitlines()
    for statement in ast.parse("\n".join(source)).body[0].body:  # type: ignore[attr-defined]
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            name, end = statement.target.id, statement.end_lineno or statement.lineno
            field = section.model_fields[name]
            words = " | ".join(choices(field.annotation))
            told = " ".join(comments(source, statement.lineno, end))
            yield name, shown(field.default), ": ".join(filter(None, (words, told)))


def comments(source: list[str], first: int, last: int) -> Iterator[str]:
    """Lines of comment above a field, and behind it."""
    above = []
    for line in reversed(source[: first - 1]):
        if not line.strip().startswith("#"):
            break
        above.append(line.strip(" #"))
    yield from reversed(above)
    for line in source[first - 1 : last]:
        if found := re.search(r"  # (.*)$", line):
            yield found[1]


def shown(default: Any) -> str:
    """A default as it is written after --set."""
    if isinstance(default, tuple):
        return "[" + ",".join(map(shown, default)) + "]"
    if default is None or isinstance(default, bool):
        return str(default).lower()
    return str(default)


def choices(annotation: Any) -> Iterator[str]:
    """Words that a field may be, wherever in its type they stand."""
    if get_origin(annotation) is Literal:
        yield from (str(value) for value in get_args(annotation))
    elif annotation is not None:
        for part in get_args(annotation):
            yield from choices(part)


def setup(app: Sphinx) -> ExtensionMetadata:
    """Called by sphinx."""
    app.add_directive("settings-table", SettingsTable)
    return {"parallel_read_safe": True}
