"""From a case to its rows: start, check, measure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from time import perf_counter

import torch
from torch import Tensor

from benchmarks.couplings.agreement import check, jobs_of
from benchmarks.couplings.case import Case, Job, Pass
from benchmarks.couplings.measure import Effort, Timing, copy_bandwidth, measure
from benchmarks.couplings.peers import notice
from benchmarks.couplings.results import Row
from benchmarks.couplings.rng import forked

__all__ = ["run_case"]

MEGABYTE = 1e6


def run_case(case: Case, effort: Effort) -> list[Row]:
    """A row a pass and provider.

    Raises:
        AgreementError: a provider computes something else than ours.
    """
    # What was compiled for one shape is not to be generalised for the next.
    torch.compiler.reset()
    rows: list[Row] = []
    for kind in case.passes:
        notice(f"{case.name} {case.shape} {case.dtype_name} {kind}")
        started = [start for job in jobs_of(case, kind) if (start := _start(job)) is not None]
        if started:
            jobs = [start.job for start in started]
            check(jobs)
            rows += _rows(case, kind, started, measure(jobs, effort))
    return rows


@dataclass(frozen=True)
class _Started:
    """A job that has run once.

    Attributes:
        seconds: what the first call took, compilation included.
        output_bytes: of all that it returned.
    """

    job: Job
    seconds: float
    output_bytes: int


def _start(job: Job) -> _Started | None:
    try:
        with forked(job.case.device):
            job.prepare()
            start = perf_counter()
            outputs, _ = job()
            seconds = perf_counter() - start
            job.release()
    except Exception as error:
        # A machine without a C++ compiler, or a peer that torch cannot trace: no row, no failure.
        if not job.provider.compiled:
            raise
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        notice(f"{job.provider.label} is left out: {first_line}")
        return None
    return _Started(job, seconds, _bytes(outputs))


def _rows(
    case: Case, kind: Pass, started: Sequence[_Started], timings: Sequence[Timing]
) -> list[Row]:
    ours = timings[0]
    return [
        {
            "bench": case.bench,
            "case": case.name,
            "shape": case.shape,
            "dtype": case.dtype_name,
            "provider": start.job.provider.name,
            "pass": kind,
            "compiled": start.job.provider.compiled,
            "compile_s": _compile_seconds(start, timing),
            "median_ms": timing.median,
            "p20_ms": timing.p20,
            "p80_ms": timing.p80,
            "peak_mb": timing.peak / MEGABYTE,
            "ratio": timing.median / ours.median,
            "memory_ratio": timing.peak / ours.peak if ours.peak else None,
            "roofline": _roofline(start, timing),
        }
        for start, timing in zip(started, timings, strict=True)
    ]


def _compile_seconds(start: _Started, timing: Timing) -> float | None:
    return start.seconds - timing.median / 1000 if start.job.provider.compiled else None


def _roofline(start: _Started, timing: Timing) -> float | None:
    """How near to a pure copy: forward reads inputs and writes outputs; backward reads inputs and
    the outputs' gradients, and writes the inputs'."""
    if not start.job.case.essential:
        return None
    inputs, outputs = _bytes(start.job.given), start.output_bytes
    moved = inputs + outputs
    if start.job.differentiated:
        moved += 2 * inputs + outputs
    return moved / _bandwidth(start.job.case.device) / (timing.median / 1000)


@cache
def _bandwidth(device: torch.device) -> float:
    return copy_bandwidth(device)


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
