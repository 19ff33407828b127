"""What `couplings` may import: torch, numpy and the standard library; never a flow package."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import couplings

PACKAGE = Path(couplings.__file__).parent
ALLOWED = {"torch", "numpy", "couplings"} | sys.stdlib_module_names
INTEROP = ALLOWED | {"FrEIA", "nflows"}
PEERS = INTEROP | {"normflows", "zuko"}


def allowed_in(path: Path) -> set[str]:
    """Adapters, bench and kernels may import the packages that they are about; nothing else may."""
    inside = path.relative_to(PACKAGE).parts[0]
    if path.name.startswith("triton_"):
        return ALLOWED | {"triton"}
    figure = {"matplotlib"} if path == PACKAGE / "bench" / "figure.py" else set()
    return {"interop": INTEROP, "bench": PEERS | figure}.get(inside, ALLOWED)


def imported_modules(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "couplings" if node.level else str(node.module)


def package_of(module: str) -> str:
    return module.partition(".")[0]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_imports_stay_within_the_floor(path: Path) -> None:
    modules = set(imported_modules(path))
    assert not {module for module in modules if package_of(module) not in allowed_in(path)}
    inside = path.relative_to(PACKAGE).parts[0]
    if inside not in ("interop", "bench"):
        assert not {m for m in modules if m.startswith("couplings.interop")}
    if inside != "bench":
        assert not {m for m in modules if m.startswith("benchmarks.couplings")}


def loaded_after(program: str) -> set[str]:
    """Which foreign packages a fresh interpreter has loaded."""
    foreign = "{'FrEIA', 'nflows', 'normflows', 'zuko', 'flowclf', 'scipy', 'matplotlib', 'triton'}"
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


def test_the_bench_loads_peers_only_where_it_runs_them() -> None:
    assert loaded_after("import benchmarks.couplings.cli, benchmarks.couplings.figure") == set()
    assert (
        loaded_after("import sys, couplings; assert 'benchmarks.couplings' not in sys.modules")
        == set()
    )


def test_all_lists_the_public_names() -> None:
    assert sorted(couplings.__all__) == sorted(set(couplings.__all__))
    assert all(hasattr(couplings, name) for name in couplings.__all__)
