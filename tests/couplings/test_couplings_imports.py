"""Floors of `couplings`: it imports torch, numpy and the standard library, no flow package."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import couplings

PACKAGE = Path(couplings.__file__).parent
ALLOWED = {"torch", "numpy", "couplings"} | sys.stdlib_module_names


def imported_modules(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "couplings" if node.level else str(node.module)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_imports_stay_within_the_floor(path: Path) -> None:
    modules = set(imported_modules(path))
    # Adapters and kernels may import what they are about, too.
    own = {"interop": {"FrEIA", "nflows"}}.get(path.parent.name, set())
    own |= {"triton"} if path.name.startswith("triton_") else set()
    assert {module.partition(".")[0] for module in modules} <= ALLOWED | own
    if path.parent.name != "interop":
        assert not {m for m in modules if m.startswith("couplings.interop")}


def test_no_circle() -> None:
    """Each module's imports can be loaded before it."""
    names = {
        ".".join(("couplings", *path.relative_to(PACKAGE).with_suffix("").parts)): path
        for path in PACKAGE.rglob("*.py")
        if path.name != "__init__.py"
    }
    graph = {name: set(imported_modules(path)) & set(names) for name, path in names.items()}
    assert len(list(TopologicalSorter(graph).static_order())) == len(names)


def loaded_after(program: str) -> set[str]:
    """Return which foreign packages a fresh interpreter has loaded."""
    foreign = (
        "{'FrEIA', 'nflows', 'normflows', 'zuko', 'flowclf', 'benchmarks', 'scipy', 'matplotlib', "
        "'triton'}"
    )
    report = f"import sys; print(*({{m.partition('.')[0] for m in sys.modules}} & {foreign}))"
    run = subprocess.run(
        [sys.executable, "-c", f"{program}\n{report}"], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


def test_importing_couplings_loads_no_other_flow_package() -> None:
    program = (
        "import pkgutil, importlib, couplings\n"
        "for m in pkgutil.iter_modules(couplings.__path__):\n"
        "    if m.name != 'interop': importlib.import_module('couplings.' + m.name)"
    )
    assert loaded_after(program) == set()


def test_the_benchmarks_load_peers_only_where_they_run_them() -> None:
    program = "import benchmarks.couplings.cli, benchmarks.couplings.figure"
    assert loaded_after(program) == {"benchmarks"}


def test_all_lists_the_public_names() -> None:
    assert sorted(couplings.__all__) == sorted(set(couplings.__all__))
    assert all(hasattr(couplings, name) for name in couplings.__all__)
