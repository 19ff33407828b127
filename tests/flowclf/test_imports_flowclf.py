"""The floors of the house, read from the sources: imports run downward only, without cycles."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import couplings
import flowclf

PACKAGE = Path(flowclf.__file__).parent
SOURCES = {
    ".".join(("flowclf", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(
        ".__init__"
    ): path
    for path in sorted(PACKAGE.rglob("*.py"))
}

# From the ground up. A module imports from floors below its own, at module level and in functions.
FLOORS = (
    ("support",),
    ("settings", "catalogue"),
    ("objectives", "latent"),
    ("nn", "data", "sharing"),
    ("classifier",),
    ("systems",),
    ("config",),
    ("runs",),
    ("models",),
    ("export", "evaluation"),
    ("training", "decide", "oracle"),
    ("many",),
    ("figures", "sklearn"),
    ("report", "explore"),
    ("cli",),
    ("__main__", ""),
)
LEVEL = {floor: level for level, floors in enumerate(FLOORS) for floor in floors}
# What lies below them all the same, and is none of their business.
APART = {
    "data": {"objectives", "latent"},
    "figures": {"training", "many"},
    "report": {"training", "evaluation"},
    "sklearn": {"many"},
}


def floor_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def targets(node: ast.AST) -> Iterator[str]:
    """Modules that an import statement names; `from package import module` names the module."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute here"
        for alias in node.names:
            inside = f"{node.module}.{alias.name}"
            yield inside if inside in SOURCES else str(node.module)


def all_imports(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {target for node in ast.walk(tree) for target in targets(node)}


def imports_at_load(path: Path) -> set[str]:
    """Those that run when the module is loaded: outside of functions and TYPE_CHECKING."""

    def statements(body: list[ast.stmt]) -> Iterator[ast.AST]:
        for node in body:
            typing_only = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or typing_only:
                continue
            yield node
            children = ast.iter_child_nodes(node)
            yield from statements([child for child in children if isinstance(child, ast.stmt)])

    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {target for node in statements(tree.body) for target in targets(node)}


def test_every_module_belongs_to_a_floor() -> None:
    assert {floor_of(module) for module in SOURCES} == set(LEVEL)


@pytest.mark.parametrize("module", SOURCES)
def test_imports_run_downward(module: str) -> None:
    floor = floor_of(module)
    targets = {t for t in all_imports(SOURCES[module]) if t.startswith("flowclf.")}
    imported = {floor_of(target) for target in targets} - {floor}
    allowed = {f for f in LEVEL if LEVEL[f] < LEVEL[floor]} - APART.get(floor, set())
    assert imported <= allowed


@pytest.mark.parametrize(
    ("floor", "users"), [("cli", {"cli", "__main__"}), ("sklearn", {"sklearn"})]
)
def test_nothing_below_imports_the_command_line_or_the_estimator(
    floor: str, users: set[str]
) -> None:
    found = {
        floor_of(module)
        for module, path in SOURCES.items()
        if any(floor_of(t) == floor for t in all_imports(path) if t.startswith("flowclf"))
    }
    assert found == users


def test_only_the_command_line_knows_of_the_benchmarks() -> None:
    users = {m for m, p in SOURCES.items() if any("benchmarks" in t for t in all_imports(p))}
    assert users == {"flowclf.cli.bench"}


def test_couplings_never_imports_flowclf() -> None:
    paths = sorted(Path(couplings.__file__).parent.rglob("*.py"))
    assert len(paths) > 5
    for path in paths:
        assert not [t for t in all_imports(path) if t.partition(".")[0] == "flowclf"], path.name


def test_no_cycles_when_modules_are_loaded() -> None:
    graph = {m: imports_at_load(path) & SOURCES.keys() - {m} for m, path in SOURCES.items()}
    assert sum(map(len, graph.values())) > 50
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def loaded_after(program: str) -> set[str]:
    """Top-level packages in a fresh interpreter after the program."""
    report = "import sys; print(*{m.partition('.')[0] for m in sys.modules}, file=sys.stderr)"
    run = subprocess.run(
        [sys.executable, "-c", f"{program}\n{report}"], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return set(run.stderr.split())


HEAVY = {"torch", "lightning", "matplotlib", "numpy", "sklearn", "scipy"}
HELP = "from flowclf.cli.app import run\nassert run({arguments}) == 0"


@pytest.mark.parametrize(
    "program",
    [
        "import flowclf",
        "import flowclf; dir(flowclf); flowclf.UserError",
        HELP.format(arguments=["--help"]),
        HELP.format(arguments=["train", "--help"]),
        HELP.format(arguments=["study", "low-data", "--help"]),
        HELP.format(arguments=["report", "--help"]),
        HELP.format(arguments=["export", "--help"]),
    ],
)
def test_what_needs_no_torch_does_not_load_it(program: str) -> None:
    loaded = loaded_after(program)
    assert "flowclf" in loaded
    assert loaded & HEAVY == set()


def test_public_names_are_there_when_asked_for() -> None:
    assert all(callable(getattr(flowclf, name)) for name in flowclf.__all__)
    assert flowclf.oracle.World
    assert sorted(dir(flowclf)) == sorted(flowclf.__all__)
    with pytest.raises(AttributeError, match="no attribute 'colour'"):
        _ = flowclf.colour
