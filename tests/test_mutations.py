"""The faults of `tests/mutations.py` still have their places; that they are found takes minutes."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).parent


def load() -> ModuleType:
    """The script beside this file."""
    spec = importlib.util.spec_from_file_location("mutations", HERE / "mutations.py")
    assert spec is not None
    assert spec.loader is not None
    # Dataclasses look their module up.
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


mutations = load()


@pytest.mark.parametrize("fault", mutations.FAULTS, ids=lambda fault: fault.name)
def test_each_fault_has_its_place(fault: object) -> None:
    mutated = mutations.mutated(fault)
    assert mutated != (HERE.parent / fault.file).read_text("utf-8")
    compile(mutated, fault.file, "exec")
    assert all((HERE.parent / test.split("::")[0]).is_file() for test in fault.tests)


def test_a_fault_without_its_place_is_refused() -> None:
    fault = mutations.Fault("none", "flowclf/support/errors.py", "no such text", "", ())
    message = "no such text.* once in flowclf/support/errors.py, got it 0 times"
    with pytest.raises(ValueError, match=message):
        mutations.mutated(fault)
