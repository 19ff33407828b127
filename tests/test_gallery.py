"""Every figure function stands in the docs' gallery, with a command that the command line takes.

That the commands draw what they say is seen by `make docs`.
"""

import ast
import importlib.util
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main

from flowclf.cli.app import app
from flowclf.figures.kinds import KINDS

ROOT = Path(__file__).parents[1]
OFFER = re.compile(r"^__all__ = (\[.*?\])", re.MULTILINE | re.DOTALL)
# They draw parts of figures, or what they are given.
PARTS = {"new_figure", "save_figure", "square_figure", "block_figure"}


def gallery() -> Any:
    spec = importlib.util.spec_from_file_location("gallery", ROOT / "docs" / "gallery.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gallery"] = module  # for its dataclass
    spec.loader.exec_module(module)
    return module


FOUND = gallery()
COMMANDS = [*FOUND.MODELS.values(), *(each.command for each in FOUND.shown())]


def test_every_figure_function_and_kind_is_shown() -> None:
    offered = {
        name
        for path in (ROOT / "flowclf" / "figures").glob("*.py")
        for found in [OFFER.search(path.read_text("utf-8"))]
        for name in (ast.literal_eval(found[1]) if found else ())
        if name.endswith(("_figure", "_panels", "_histograms"))
    }
    assert len(offered) > 20
    assert {each.draws for each in FOUND.shown()} == offered - PARTS
    kinds = {words[words.index("--kind") + 1] for c in COMMANDS if "--kind" in (words := c.split())}
    assert kinds | {"samples"} == KINDS.keys()


def test_names_are_unique_and_what_is_copied_is_made() -> None:
    names = [each.name for each in FOUND.shown()]
    assert len(names) == len(set(names))
    for each in FOUND.shown():
        assert each.made in FOUND.MODELS if each.made else "OUT" in each.command.split()


@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_line_takes_the_command(command: str) -> None:
    found: Any = typer.main.get_command(app)
    words = shlex.split(command)
    while hasattr(found, "commands"):
        found = found.commands[words.pop(0)]
    found.make_context(found.name, words)
