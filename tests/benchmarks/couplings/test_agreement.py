"""No provider is timed that computes something else; memory is exact, and time in turn."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from benchmarks.couplings.affine import affine_cases
from benchmarks.couplings.case import (
    PASSES,
    PEERS,
    Case,
    Job,
    Options,
    Pass,
    Provider,
    Tensors,
    compiled,
)
from benchmarks.couplings.mixture import mixture_cases
from benchmarks.couplings.run import (
    AgreementError,
    Effort,
    check,
    jobs_of,
    measure,
    peak_of,
    run_case,
)
from benchmarks.couplings.spline import spline_cases
from benchmarks.measure import copy_bandwidth

CPU = Options(torch.device("cpu"), quick=True, compiles=False)
N = 1000  # float32 numbers


@pytest.fixture
def affine() -> Case:
    return next(affine_cases(CPU))


def spoiled(provider: Provider, spoil: Callable[..., Tensors]) -> Provider:
    def forward(*inputs: Tensor) -> Tensors:
        return spoil(*provider.forward(*inputs))

    return replace(provider, name="spoiled", forward=forward)


def scaled_gradient(tensor: Tensor) -> Tensor:
    """Return the same number with another gradient."""
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
def test_a_wrong_provider_is_an_error_and_not_a_row(what: str, affine: Case) -> None:
    kind, spoil, named = WRONG[what]
    ours = affine.providers[0]
    wrong = replace(affine, providers=[ours, spoiled(ours, spoil)], heads=lambda *out: out[:1])
    with pytest.raises(AgreementError, match=f"spoiled and couplings differ in {named} by"):
        check(jobs_of(wrong, kind))


def test_a_wrong_inverse_is_an_error(affine: Case) -> None:
    ours = affine.providers[0]
    wrong = replace(ours, name="spoiled", inverse=ours.forward)
    with pytest.raises(AgreementError, match="inverse: spoiled and couplings"):
        check(jobs_of(replace(affine, providers=[ours, wrong]), "inverse"))


@pytest.mark.parametrize("kind", PASSES)
@pytest.mark.parametrize(
    ("cases", "tolerance", "peers"),
    [(affine_cases, 1e-12, [*PEERS]), (spline_cases, 1e-10, [*PEERS[1:]])],
)
def test_in_float64_all_peers_agree_to_the_last_digits(
    kind: Pass, cases: Callable[..., object], tolerance: float, peers: list[str]
) -> None:
    case = next(cases(CPU))
    inputs = tuple(t.detach().double().requires_grad_() for t in case.inputs)
    jobs = jobs_of(replace(case, inputs=inputs, tolerance=tolerance), kind)
    assert [job.provider.name for job in jobs][2:] == peers
    check(jobs)


def test_mixtures_agree_in_float64() -> None:
    (case,) = mixture_cases(CPU)
    z, means, log_weights = (t.detach().double() for t in case.inputs)
    inputs = (z.requires_grad_(), means.requires_grad_(), log_weights)
    for kind in case.passes:
        check(jobs_of(replace(case, inputs=inputs, tolerance=1e-12), kind))


def test_a_row_a_provider_and_ours_is_the_measure(affine: Case) -> None:
    rows = run_case(affine, Effort(seconds=0, least=2))
    assert {row["pass"] for row in rows} == set(PASSES)
    ours = [row for row in rows if row["provider"] == "couplings"]
    assert [row["ratio"] for row in ours] == [1.0, 1.0, 1.0]
    assert all(row["peak_mb"] > 0 and row["p20_ms"] <= row["p80_ms"] for row in rows)
    assert all(row["roofline"] > 0 for row in rows)


def test_providers_that_cannot_be_compiled_are_left_out(
    affine: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Tensor) -> Tensors:
        raise RuntimeError("no compiler\nbut much more to say")

    ours = affine.providers[0]
    fails = Provider("couplings", broken, compiled=True)
    case = replace(
        affine, passes=("forward",), providers=[ours, fails, *compiled([ours], backend="eager")]
    )
    rows = run_case(case, Effort(seconds=0, least=1))
    assert [row["compiled"] for row in rows] == [False, True]
    assert rows[1]["compile_s"] is not None
    assert "couplings, compiled is left out: no compiler\n" in capsys.readouterr().err


def test_the_global_generators_stay_as_they_were(affine: Case) -> None:
    before = torch.get_rng_state()
    check(jobs_of(affine, "forward"))
    assert torch.equal(torch.get_rng_state(), before)


def job(forward: object, kind: str = "forward", requires_grad: bool = False) -> Job:
    x = torch.ones(N, requires_grad=requires_grad)
    provider = Provider("test", forward)  # type: ignore[arg-type]
    case = Case("test", "test", (x,), [provider])
    cotangents = (torch.ones(N),) if kind == "forward+backward" else None
    return Job(case, provider, kind, (x,), cotangents)  # type: ignore[arg-type]


def two_at_once(x: Tensor) -> Tensors:
    y = x.exp()
    return (y.sin(),)


MEMORY = {
    "two at once": (job(two_at_once), 2),
    "one after another": (job(lambda x: (x.exp().sin_(),)), 1),
    # Its only memory is what the operator's own kernel allocates for the result.
    "softplus": (job(lambda x: (torch.nn.functional.softplus(x),)), 1),
    # Kept x (the job's own), y, then the gradient beside it.
    "backward": (job(lambda x: (x.exp(),), "forward+backward", True), 2),
}


@pytest.mark.parametrize("what", MEMORY)
def test_peak_memory_is_exact(what: str) -> None:
    measured, tensors = MEMORY[what]
    assert peak_of(measured) == tensors * 4 * N


def test_jobs_take_turns() -> None:
    calls: list[str] = []

    def named(name: str) -> Job:
        def forward(x: Tensor) -> Tensors:
            calls.append(name)
            return (x + 1,)

        return job(forward)

    timings = measure([named("a"), named("b")], Effort(seconds=0, least=4))
    # Memory, warm-up, then rounds that begin with each in turn.
    assert "".join(calls) == "abab" + "abba" * 2
    assert all(0 < t.p20 <= t.median <= t.p80 for t in timings)


def test_fresh_inputs_for_every_call() -> None:
    """AllInOneBlock scales what it is given in place."""
    seen: list[float] = []

    def forward(x: Tensor) -> Tensors:
        seen.append(float(x[0].detach()))
        return (x.mul_(0.1),)

    measure([job(forward, "forward+backward", True)], Effort(seconds=0, least=2))
    assert seen == [1.0] * 4


def test_copies_take_time() -> None:
    assert 1e7 < copy_bandwidth(CPU.device, megabytes=4) < 1e13
