"""No row without agreement: every provider must give what ours gives, or there is no bench."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from benchmarks.couplings.case import Case, Job, Pass, Provider, Tensors
from benchmarks.couplings.rng import forked

__all__ = ["AgreementError", "check", "jobs_of"]


class AgreementError(AssertionError):
    """A provider computes something else."""


def jobs_of(case: Case, kind: Pass) -> list[Job]:
    """A job for every provider that has this pass, all on the same numbers."""
    ours = case.providers[0]
    given = _inverse_inputs(case) if kind == "inverse" else case.inputs
    cotangents = _cotangents(case) if kind == "forward+backward" else None
    able = [p for p in case.providers if kind != "inverse" or p.inverse is not None]
    if ours not in able:
        return []
    return [Job(case, provider, kind, given, cotangents) for provider in able]


def check(jobs: list[Job]) -> None:
    """Outputs, log-determinants and gradients of every job against those of the first.

    Raises:
        AgreementError: who disagrees, in what, and by how much.
    """
    expected = _results(jobs[0])
    for job in jobs[1:]:
        for what, error in _errors(_results(job), expected):
            if not error <= job.case.tolerance:
                raise AgreementError(
                    f"{job.case.bench}, {job.case.name}, {job.kind}: {job.provider.label} and "
                    f"{jobs[0].provider.label} differ in {what} by {error:.2g} relatively "
                    f"(allowed: {job.case.tolerance:.2g})"
                )


def _results(job: Job) -> dict[str, Tensor]:
    with forked(job.case.device), _no_tf32():
        job.prepare()
        outputs, gradients = job()
        if job.case.heads_only:
            named = _named("head", job.case.heads(*outputs))
        else:
            gradients = job.comparable(gradients) if job.differentiated else ()
            named = _named("output", outputs) | _named("gradient", gradients)
        job.release()
    return named


@contextmanager
def _no_tf32() -> Iterator[None]:
    """Timed is what torch does by default: on a GPU it rounds FrEIA's rotation, a convolution, to
    10 bits and ours, a matrix product, not. That is no other mathematics."""
    allowed = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = allowed


def _named(kind: str, tensors: Tensors) -> dict[str, Tensor]:
    return {f"{kind} {position}": tensor.detach() for position, tensor in enumerate(tensors)}


def _errors(got: dict[str, Tensor], expected: dict[str, Tensor]) -> Iterator[tuple[str, float]]:
    """‖a - b‖ / ‖b‖ of each tensor; infinite where there is none to compare with."""
    for what in expected | got:
        a, b = got.get(what), expected.get(what)
        if a is None or b is None or a.shape != b.shape:
            yield what, float("inf")
            continue
        error, size = (a.double() - b.double()).norm(), b.double().norm()
        yield what, float(error / size) if size > 0 else float(error)


def _outputs(provider: Provider, case: Case) -> Tensors:
    with forked(case.device):
        job = Job(case, provider, "forward", case.inputs)
        job.prepare()
        return job()[0]


def _inverse_inputs(case: Case) -> Tensors:
    return _outputs(case.providers[0], case)[0], *case.inputs[1:]


def _cotangents(case: Case) -> Tensors:
    """Random numbers for every head, and 1 for a loss."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        heads = case.heads(*_outputs(case.providers[0], case))

    def draw(head: Tensor) -> Tensor:
        if head.dim() == 0:
            return torch.ones_like(head)
        return torch.randn(head.shape, generator=generator).to(head)

    return tuple(map(draw, heads))
