"""The faults of `tests/mutations.py` still have their places; that they are found takes minutes."""

import pytest
from mutations import FAULTS, HERE, Fault, mutated


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_each_fault_has_its_place(fault: Fault) -> None:
    text = mutated(fault)
    assert text != (HERE / fault.file).read_text("utf-8")
    if fault.file.endswith(".py"):
        compile(text, fault.file, "exec")
    assert all((HERE / test.split("::")[0]).is_file() for test in fault.tests)


def test_a_fault_without_its_place_is_refused() -> None:
    fault = Fault("none", "flowclf/support/errors.py", "no such text", "", ())
    message = "no such text.* once in flowclf/support/errors.py, got it 0 times"
    with pytest.raises(ValueError, match=message):
        mutated(fault)
