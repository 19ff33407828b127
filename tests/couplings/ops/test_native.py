"""The compiled CPU kernels: which run, when they are refused, and any layout that reaches them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from operators import coupled
from torch import Tensor

from couplings import __main__ as command
from couplings.ops import build_native, native, reference

compiled = pytest.mark.skipif(not native.COMPILED, reason=native.description())


def test_one_line_says_which_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([]) == 0
    assert capsys.readouterr().out.splitlines()[1] == native.description()
    assert native.description().startswith("CPU kernels: ")
    assert command.main(["built"]) == 2


@pytest.mark.parametrize(
    ("replaced", "by", "reason"),
    [
        ("version", lambda: "other", "was compiled from other sources"),
        ("library", lambda capability: Path(capability), "none is compiled for"),
        ("library", lambda capability: Path(__file__), "test_native.py: "),
    ],
)
def test_a_library_that_does_not_fit_is_not_called(
    replaced: str, by: Any, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if replaced == "version" and not native.COMPILED:
        pytest.skip(native.description())
    monkeypatch.delenv("COUPLINGS_KERNELS", raising=False)
    monkeypatch.setattr(build_native, replaced, by)
    assert reason in str(native._load())
    monkeypatch.setenv("COUPLINGS_KERNELS", "python")
    assert native._load() == "COUPLINGS_KERNELS=python"


@pytest.mark.parametrize(
    ("compiler", "words"), [("", "no C++ compiler"), ("false", "do not compile with false")]
)
def test_a_build_that_is_impossible_says_so_in_a_line(
    compiler: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(build_native, "library", lambda capability: Path("/nowhere") / capability)
    monkeypatch.setenv("CXX", compiler)
    if not compiler:
        monkeypatch.setenv("PATH", "")
    assert command.main(["build"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


@compiled
@pytest.mark.parametrize("lay_out", ["transposed", "expanded", "every other"])
def test_strides_are_followed_or_left_to_pytorch(lay_out: str) -> None:
    active, parameters, passive = (t.detach() for t in coupled((3, 4, 6, 6), 2, rest=5))
    odd = {
        "transposed": lambda x: x.mT.contiguous().mT,
        "expanded": lambda x: x[..., :1].expand_as(x),
        "every other": lambda x: x.repeat_interleave(2, dim=3)[..., ::2],
    }[lay_out]
    active, parameters, passive = map(odd, (active, parameters, passive))
    settings = (False, 0.7, 0.1, False, False)
    got = torch.ops.couplings.affine_couple(active, parameters, passive, *settings)
    torch.testing.assert_close(got, reference.affine_couple(active, parameters, passive, *settings))


@compiled
def test_threads_do_not_change_a_bit() -> None:
    active, parameters = (t.detach() for t in coupled((16, 6, 8, 8), 2, dtype=torch.float32))
    before = torch.get_num_threads()

    def results(threads: int) -> list[Tensor]:
        torch.set_num_threads(threads)
        return list(torch.ops.couplings.affine_couple(active, parameters, None, False, 1, 1, 0, 0))

    try:
        assert all(map(torch.equal, results(1), results(3)))
    finally:
        torch.set_num_threads(before)
