"""No provider is timed that computes something else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from benchmarks.couplings.affine import affine_cases
from benchmarks.couplings.agreement import AgreementError, check, jobs_of
from benchmarks.couplings.case import PASSES, Case, Options, Pass, Provider, Tensors
from benchmarks.couplings.compiled import compiled
from benchmarks.couplings.mixture import mixture_cases
from benchmarks.couplings.run import run_case
from benchmarks.couplings.spline import spline_cases

CPU = Options(torch.device("cpu"), quick=True, compiles=False)


def affine() -> Case:
    return next(affine_cases(CPU))


def spoiled(provider: Provider, spoil: Callable[..., Tensors]) -> Provider:
    def forward(*inputs: Tensor) -> Tensors:
        return spoil(*provider.forward(*inputs))

    return replace(provider, name="spoiled", forward=forward)


def scaled_gradient(tensor: Tensor) -> Tensor:
    """The same number with another gradient."""
    return tensor.detach() + 1.01 * (tensor - tensor.detach())


WRONG: dict[str, tuple[Pass, Callable[..., Tensors], str]] = {
    "output": ("forward", lambda y, log_det: (y + 0.001, log_det), "output 0"),
    "log_det": ("forward", lambda y, log_det: (y, -log_det), "output 1"),
    "shape": ("forward", lambda y, log_det: (y, log_det.sum()), "output 1"),
    "nothing": ("forward", lambda y, log_det: (y,), "output 1"),
    "not a number": ("forward", lambda y, log_det: (y / 0, log_det), "output 0"),
    "gradient": (
        "forward+backward",
        lambda y, log_det: (scaled_gradient(y), log_det),
        "gradient 0",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_provider_is_an_error_and_not_a_row(what: str) -> None:
    kind, spoil, named = WRONG[what]
    case = affine()
    ours = case.providers[0]
    wrong = replace(case, providers=[ours, spoiled(ours, spoil)], heads=lambda *out: out[:1])
    jobs = jobs_of(wrong, kind)
    with pytest.raises(AgreementError, match=f"spoiled and couplings differ in {named} by"):
        check(jobs)


def test_a_wrong_inverse_is_an_error() -> None:
    case = affine()
    ours = case.providers[0]
    wrong = replace(ours, name="spoiled", inverse=ours.forward)
    with pytest.raises(AgreementError, match="inverse: spoiled and couplings"):
        check(jobs_of(replace(case, providers=[ours, wrong]), "inverse"))


@pytest.mark.parametrize("kind", PASSES)
def test_in_float64_all_peers_agree_to_the_last_digits(kind: Pass) -> None:
    for case in affine_cases(CPU):
        if case.dtype_name == "float32" and case.name == "affine coupling":
            inputs = tuple(t.detach().double().requires_grad_() for t in case.inputs)
            jobs = jobs_of(replace(case, inputs=inputs, tolerance=1e-12), kind)
            names = [job.provider.name for job in jobs]
            assert {"FrEIA", "nflows", "normflows", "zuko"} < set(names)
            check(jobs)


@pytest.mark.parametrize("kind", PASSES)
def test_splines_agree_in_float64(kind: Pass) -> None:
    (case,) = spline_cases(CPU)
    inputs = tuple(t.detach().double().requires_grad_() for t in case.inputs)
    jobs = jobs_of(replace(case, inputs=inputs, tolerance=1e-10), kind)
    assert [job.provider.name for job in jobs][2:] == ["nflows", "normflows", "zuko"]
    check(jobs)


def test_mixtures_agree_in_float64() -> None:
    (case,) = mixture_cases(CPU)
    z, means, log_weights = (t.detach().double() for t in case.inputs)
    inputs = (z.requires_grad_(), means.requires_grad_(), log_weights)
    for kind in case.passes:
        check(jobs_of(replace(case, inputs=inputs, tolerance=1e-12), kind))


def test_a_row_a_provider_and_ours_is_the_measure() -> None:
    from benchmarks.couplings.measure import Effort

    rows = run_case(affine(), Effort(seconds=0, least=2))
    assert {row["pass"] for row in rows} == set(PASSES)
    ours = [row for row in rows if row["provider"] == "couplings"]
    assert [row["ratio"] for row in ours] == [1.0, 1.0, 1.0]
    assert all(row["peak_mb"] > 0 and row["p20_ms"] <= row["p80_ms"] for row in rows)
    assert all(row["roofline"] > 0 for row in rows)


def test_what_cannot_be_compiled_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks.couplings.measure import Effort

    def broken(*_: Tensor) -> Tensors:
        raise RuntimeError("no compiler\nbut much more to say")

    case = replace(affine(), passes=("forward",))
    ours = case.providers[0]
    fails = Provider("couplings", broken, compiled=True)
    works = compiled([ours], backend="eager")
    rows = run_case(replace(case, providers=[ours, fails, *works]), Effort(seconds=0, least=1))
    assert [row["compiled"] for row in rows] == [False, True]
    assert rows[1]["compile_s"] is not None
    assert "couplings, compiled is left out: no compiler\n" in capsys.readouterr().err


def test_the_global_generators_stay_as_they_were() -> None:
    before = torch.get_rng_state()
    case = affine()
    check(jobs_of(case, "forward"))
    assert torch.equal(torch.get_rng_state(), before)
