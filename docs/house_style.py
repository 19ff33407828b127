"""What sphinx must be told of docstrings that are plain text with maths in it, not markup."""

import inspect
import re
from textwrap import dedent, indent
from typing import TypeGuard, get_origin

from sphinx.application import Sphinx
from sphinx.util.typing import ExtensionMetadata

from flowclf.settings import Section

SECTION = re.compile(r"(Args|Attributes|Raises|Returns|Yields):\n")
# Code, between backticks or behind >>>, and what must be escaped: * and | are signs of maths, K. is
# no item of a list, and a letter may stand behind a backtick, as in `Split`s.
CODE = r"`[^`]*`|^ *(?:>>>|\.\.\. ).*$"
SIGNS = re.compile(rf"({CODE})|((?<=`)(?=\w)|[*|]|(?<=\b[A-Za-z])\.(?!\w))", re.MULTILINE)


def plain_text(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Signs are signs, and an indented block of formulas is shown as it is set."""
    shown, in_section = [], False
    for paragraph in re.split(r"\n\s*\n", "\n".join(lines)):
        indented = paragraph.startswith(" ")
        if not indented:
            in_section = SECTION.match(paragraph) is not None
        verbatim = indented and not in_section
        shown.append(f"::\n\n{paragraph}" if verbatim else escaped(paragraph))
    if what in ("attribute", "property", "data"):
        # Napoleon takes what is before a colon in the first line for a type; of a comment, nothing.
        shown.insert(0, "..")
    lines[:] = "\n\n".join(shown).split("\n")


def escaped(text: str) -> str:
    """The same text, in which no sign is markup."""
    return SIGNS.sub(lambda found: found[1] or "\\" + found[2], text)


def drop_doc_of_type(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """A constant has a docstring of its own or none, not that of `dict`."""
    first = [str(thing.__doc__).splitlines()[:1] for thing in (type(obj), get_origin(obj))]
    if lines[:1] in first:
        lines.clear()


def add_fields(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Below what settings are for, their fields: types, defaults and reasons."""
    if is_settings(obj):
        body = inspect.getsource(obj).split('"""', 2)[2]
        fields = dedent(re.split(r"^    (?:def|@|model_config)", body, flags=re.MULTILINE)[0])
        if fields.strip():
            lines += code(fields)


def tidy_signature(
    app: Sphinx,
    what: str,
    name: str,
    obj: object,
    options: object,
    signature: str | None,
    returned: str | None,
) -> tuple[str | None, str | None]:
    """None for settings, whose fields say more; otherwise one that sphinx can read."""
    if is_settings(obj):
        signature = ""
    readable = re.sub(r"<function (\w+)>", r"\1", signature or "")
    return signature and readable.replace("<factory>", "..."), returned


def is_settings(thing: object) -> TypeGuard[type[Section]]:
    """Whether it is a class whose fields can be set."""
    return inspect.isclass(thing) and issubclass(thing, Section)


def code(source: str) -> list[str]:
    """Lines that show it as Python."""
    return ["", ".. code-block:: python", "", *indent(source.strip(), "   ").splitlines(), ""]


def setup(app: Sphinx) -> ExtensionMetadata:
    """Called by sphinx."""
    # Before napoleon, whose priority is 500.
    for change in (drop_doc_of_type, plain_text, add_fields):
        app.connect("autodoc-process-docstring", change, priority=400)
    app.connect("autodoc-process-signature", tidy_signature)
    return {"parallel_read_safe": True}
