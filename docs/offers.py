"""What of a module is shown: all that `__all__` names, each under its shortest name, once."""

import ast
import inspect
import re
import sys
from collections.abc import Mapping
from functools import partial
from itertools import groupby
from textwrap import indent
from typing import Annotated, Any, get_origin

from house_style import code, is_settings
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.typing import ExtensionMetadata

LOGGER = logging.getLogger(__name__)
LONGEST_VALUE = 100


def skip(
    app: Sphinx, what: str, name: str, obj: object, skipped: bool, options: object
) -> bool | None:
    """Whether to leave something out; None: as autodoc thinks."""
    module = app.env.current_document.autodoc_module
    if what != "module":
        owner = getattr(sys.modules[module], app.env.current_document.autodoc_class, None)
        return name == "model_config" or is_made(obj) or told_by(owner, name) or None
    if name in names_of(module):
        return is_data(obj) or bool(package_of(module, name))
    # Only with :ignore-module-all:, for the sections that settings consist of.
    return not (is_settings(obj) and obj.__module__ == module)


def is_made(member: object) -> bool:
    """Whether a library put it there: NamedTuple its fields, or a base class methods of its own."""
    # A cached property is functools', its function ours.
    module = getattr(getattr(member, "func", member), "__module__", None) or "flowclf"
    field = str(member.__doc__).startswith("Alias for field number")
    return field or module.partition(".")[0] not in ("couplings", "flowclf")


def told_by(owner: object, name: str) -> bool:
    """Whether a class's docstring tells of this attribute."""
    return re.search(rf"Attributes:\n(.*\n)*? +{name}: ", str(owner.__doc__)) is not None


def add_offers(
    app: Sphinx, what: str, name: str, obj: object, options: Any, lines: list[str]
) -> None:
    """Below a module's docstring what is shown elsewhere, and what autodoc shows only if asked to.

    That is its constants and types.
    """
    if what == "module" and options.members:
        by_package = partial(package_of, name)
        for package, above in groupby(sorted(names_of(name), key=by_package), by_package):
            links = ", ".join(f"`~{package}.{each}`" for each in above)
            lines += ["", f"In `{package}`: {links}.", ""] if package else []
        for each in names_of(name):
            thing = getattr(obj, each)
            if is_data(thing) and not package_of(name, each):
                lines += ["", *data_lines(name, each, thing), ""]


def is_data(thing: object) -> bool:
    """Whether it is neither a class nor a function."""
    return not (inspect.isclass(thing) or inspect.isroutine(thing))


def data_lines(module: str, name: str, thing: object) -> list[str]:
    """The directive for a constant or type: its value, of a long table its keys."""
    if get_origin(thing) is Annotated:
        definition = indent("\n".join(code(source_of(module, name))), "   ")
        return [f".. py:data:: {name}", *definition.splitlines()]
    if len(repr(thing)) < LONGEST_VALUE or not isinstance(thing, Mapping):
        return [f".. autodata:: {module}.{name}"]
    return [f".. autodata:: {module}.{name}", "   :no-value:", "", f"   {', '.join(thing)}"]


def source_of(module: str, name: str) -> str:
    """The statement that gives a variable of a module its value."""
    source = inspect.getsource(sys.modules[module])
    statements = (ast.get_source_segment(source, each) or "" for each in ast.parse(source).body)
    return next(each for each in statements if each.startswith(f"{name} = "))


def names_of(module: str) -> list[str]:
    """What a module offers."""
    return getattr(sys.modules.get(module), "__all__", [])


def package_of(module: str, name: str) -> str:
    """The highest package above the module that offers the same thing, or nothing."""
    thing = getattr(sys.modules[module], name)
    parts = module.split(".")
    above = [".".join(parts[:n]) for n in range(1, len(parts))]
    same = (p for p in above if name in names_of(p) and getattr(sys.modules[p], name) is thing)
    return next(same, "")


def check_complete(app: Sphinx, env: BuildEnvironment) -> None:
    """Warn of what a documented module offers and no page shows."""
    domain = env.domains.python_domain
    for module in domain.modules:
        for name in names_of(module):
            if f"{package_of(module, name) or module}.{name}" not in domain.objects:
                LOGGER.warning("%s.%s is on no page", module, name)


def setup(app: Sphinx) -> ExtensionMetadata:
    """Called by sphinx."""
    app.connect("autodoc-skip-member", skip)
    # After the docstring itself, before napoleon.
    app.connect("autodoc-process-docstring", add_offers, priority=450)
    app.connect("env-check-consistency", check_complete)
    return {"parallel_read_safe": True}
