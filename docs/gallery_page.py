"""The directive `gallery`: every picture of `gallery.py`, with the command that draws it."""

import shlex
from pathlib import Path

from docutils import nodes
from gallery import GALLERY, MODELS, Shown, draw
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.typing import ExtensionMetadata

PLACE = "_build/gallery"


class Gallery(SphinxDirective):
    """A section for each kind of picture, and the commands behind them all."""

    def run(self) -> list[nodes.Node]:
        """The sections."""
        sections = [section(title, map(picture, shown)) for title, shown in GALLERY.items()]
        commands = "\n".join(written(command) for command in MODELS.values())
        return [*sections, section("The models", [literal(commands)])]


def section(title: str, parts: object) -> nodes.section:
    """A section of these parts, one after the other."""
    found = nodes.section("", nodes.title("", title), ids=[nodes.make_id(title)], names=[title])
    for part in parts:
        found += part
    return found


def picture(shown: Shown) -> list[nodes.Node]:
    """A sentence, the command and the picture."""
    image = nodes.image(uri=f"/{PLACE}/{shown.name}.png", alt=shown.tells)
    drawn = nodes.inline("", f" ({shown.draws})", classes=["quiet"])
    return [
        nodes.rubric("", shown.name),
        nodes.paragraph("", "", nodes.inline("", shown.tells), drawn),
        literal(written(shown.command)),
        image,
    ]


def literal(text: str) -> nodes.literal_block:
    """A block of commands."""
    return nodes.literal_block(text, text, language="none")


def written(command: str) -> str:
    """A command as one types it."""
    words = shlex.split(command.replace("RUNS", "runs").replace("OUT", "picture.png"))
    return f"flowclf {shlex.join(words)}"


def make(app: Sphinx) -> None:
    """Draw the pictures that are not there yet."""
    draw(Path(app.srcdir) / PLACE)


def setup(app: Sphinx) -> ExtensionMetadata:
    """Called by sphinx."""
    app.connect("builder-inited", make)
    app.add_directive("gallery", Gallery)
    return {"parallel_read_safe": True}
