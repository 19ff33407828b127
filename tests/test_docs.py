"""The reference forgets nothing that the packages offer, read from sources alone.

That every page is made without a warning, and shows each name, is seen by `make docs`.
"""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Of these packages each module is for users; of any other, what the package itself offers.
OPEN = {"couplings", "flowclf", "flowclf.evaluation", "flowclf.figures", "flowclf.systems"}
OFFER = re.compile(r"^__all__ = (\[.*?\])", re.MULTILINE | re.DOTALL)
DIRECTIVE = re.compile(r"^\.\. (auto\w+|currentmodule):: (\S+)\n((?: +:.*\n)*)", re.MULTILINE)


def offers() -> dict[str, list[str]]:
    """Return the modules that have an `__all__`, and it."""
    found = {}
    for package in ("couplings", "flowclf"):
        for path in (ROOT / package).rglob("*.py"):
            if offer := OFFER.search(path.read_text("utf-8")):
                parts = path.relative_to(ROOT).with_suffix("").parts
                module = ".".join(parts).removesuffix(".__init__")
                found[module] = list(ast.literal_eval(offer[1]))
    return found


def for_users(module: str) -> bool:
    """Tell whether a module is a package, or in one of the open ones."""
    path = ROOT.joinpath(*module.split("."), "__init__.py")
    return path.exists() or module.rpartition(".")[0] in OPEN


def documented() -> tuple[set[str], set[str]]:
    """Return the modules shown whole, and the full names shown by themselves."""
    modules, names = set(), set()
    for page in (ROOT / "docs").glob("*.rst"):
        current = ""
        for directive, name, options in DIRECTIVE.findall(page.read_text("utf-8")):
            if directive == "currentmodule":
                current = name
            elif directive != "automodule":
                names.add(f"{current}.{name}")
            elif ":no-members:" not in options:
                modules.add(name)
    return modules, names


def test_the_reference_shows_all_that_is_offered() -> None:
    modules, names = documented()
    offered = offers()

    def shown(module: str, name: str) -> bool:
        """Tell whether a name is shown by itself, or by a package above that offers it."""
        package = module.rpartition(".")[0]
        above = name in offered.get(package, ()) and shown(package, name)
        return module in modules or f"{module}.{name}" in names or above

    users = [(module, name) for module in filter(for_users, offered) for name in offered[module]]
    assert len(users) > 400
    forgotten = {f"{module}.{name}" for module, name in users if not shown(module, name)}
    assert not forgotten, "name the module on a page of docs/: .. automodule:: MODULE"


def test_an_example_of_a_docstring_is_shown_as_code() -> None:
    """The house's docstrings are plain text: code is what stands behind >>>."""
    text = (ROOT / "flowclf" / "sklearn" / "__init__.py").read_text("utf-8")
    calls = [
        line for line in text.splitlines() if re.match(r"(>>> )?\w+(\.\w+)?\(|.* = \w+\(", line)
    ]
    assert len(calls) >= 4
    assert all(line.startswith(">>> ") for line in calls)


def test_the_reference_shows_nothing_that_is_gone() -> None:
    modules, names = documented()
    offered = offers()
    assert modules <= set(offered)
    assert names <= {f"{module}.{name}" for module, all_ in offered.items() for name in all_}
