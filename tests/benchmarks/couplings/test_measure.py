"""Memory is counted to the byte, and time in turn."""

import pytest
import torch
from torch import Tensor

from benchmarks.couplings.case import Case, Job, Provider, Tensors
from benchmarks.couplings.run import Effort, measure, peak_of
from benchmarks.measure import copy_bandwidth

N = 1000  # float32 numbers
CPU = torch.device("cpu")


def job(forward: object, kind: str = "forward", requires_grad: bool = False) -> Job:
    x = torch.ones(N, requires_grad=requires_grad)
    provider = Provider("test", forward)  # type: ignore[arg-type]
    case = Case("test", "test", (x,), [provider])
    cotangents = (torch.ones(N),) if kind == "forward+backward" else None
    return Job(case, provider, kind, (x,), cotangents)  # type: ignore[arg-type]


def two_at_once(x: Tensor) -> Tensors:
    y = x.exp()
    return (y.sin(),)


def one_after_another(x: Tensor) -> Tensors:
    return (x.exp().sin_(),)


def softplus(x: Tensor) -> Tensors:
    # Its only memory is what the operator's own kernel allocates for the result.
    return (torch.nn.functional.softplus(x),)


@pytest.mark.parametrize(
    ("forward", "tensors"), [(two_at_once, 2), (one_after_another, 1), (softplus, 1)]
)
def test_peak_memory_is_exact(forward: object, tensors: int) -> None:
    assert peak_of(job(forward)) == tensors * 4 * N


def test_the_backward_counts() -> None:
    # Kept x (the job's own), y, then the gradient beside it.
    assert peak_of(job(lambda x: (x.exp(),), "forward+backward", True)) == 2 * 4 * N


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
    assert 1e7 < copy_bandwidth(CPU, megabytes=4) < 1e13
