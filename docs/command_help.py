"""The directive `command-help`: what `flowclf VERB --help` prints, of every verb."""

from collections.abc import Iterator
from typing import Any

import typer.main
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.typing import ExtensionMetadata

from flowclf.cli.app import app as command_line

WIDTH = 92


class CommandHelp(SphinxDirective):
    """A section for each command, with its help."""

    def run(self) -> list[nodes.Node]:
        """The sections."""
        return [section(*each) for each in help_texts(typer.main.get_command(command_line))]


def help_texts(command: Any, parent: Any = None) -> Iterator[tuple[str, str]]:
    """Full name and help of a command, and of those below it."""
    # Rich would draw boxes.
    command.rich_markup_mode = None
    context = command.make_context(command.name, [], parent, resilient_parsing=True)
    context.terminal_width = context.max_content_width = WIDTH
    yield context.command_path, command.get_help(context)
    for below in getattr(command, "commands", {}).values():
        yield from help_texts(below, context)


def section(name: str, text: str) -> nodes.section:
    """A section under the command's name."""
    title, shown = nodes.title("", name), nodes.literal_block(text, text, language="none")
    return nodes.section("", title, shown, ids=[nodes.make_id(name)], names=[name])


def setup(app: Sphinx) -> ExtensionMetadata:
    """Called by sphinx."""
    app.add_directive("command-help", CommandHelp)
    return {"parallel_read_safe": True}
