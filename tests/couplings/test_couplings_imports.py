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
    inside_interop = "interop" in path.relative_to(PACKAGE).parts
    modules = set(imported_modules(path))
    foreign = {m for m in modules if package_of(m) not in (INTEROP if inside_interop else ALLOWED)}
    assert not foreign
    if not inside_interop:
        assert not {m for m in modules if m.startswith("couplings.interop")}


def test_importing_couplings_loads_no_other_flow_package() -> None:
    program = (
        "import sys, pkgutil, importlib, couplings\n"
        "for m in pkgutil.iter_modules(couplings.__path__):\n"
        "    if m.name != 'interop': importlib.import_module('couplings.' + m.name)\n"
        "print(sorted({m.partition('.')[0] for m in sys.modules} & "
        "{'FrEIA', 'nflows', 'flowclf', 'scipy'}))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "[]"


def test_all_lists_the_public_names() -> None:
    assert sorted(couplings.__all__) == sorted(set(couplings.__all__))
    assert all(hasattr(couplings, name) for name in couplings.__all__)
