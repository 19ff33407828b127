"""From a case to its rows: start, check, measure.

No row without agreement: every provider must give what ours gives. Jobs are measured in turn, so
that a machine's drift hits all of them alike.
"""

import gc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import median, quantiles
from time import perf_counter

import torch
from torch import Tensor

from benchmarks.couplings.case import Case, Job, Pass, notice
from benchmarks.measure import copy_bandwidth, forked_rng, peak_bytes, seconds_of
from benchmarks.results import Row

bandwidth = cache(copy_bandwidth)


class AgreementError(AssertionError):
    """A provider computes something else."""


@dataclass(frozen=True)
class Effort:
    """Time to spend on a case's pass: rounds until `seconds` are over, within bounds."""

    seconds: float = 4.0
    most: int = 200
    least: int | None = None  # default: the case's own


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one call, and the bytes it had allocated at its peak."""

    median: float
    p20: float
    p80: float
    peak: int


def run_case(case: Case, effort: Effort) -> list[Row]:
    """Return a row for each pass and provider.

    Raises:
        AgreementError: a provider computes something else than ours.
    """
    # A program compiled for one shape is not to be generalised for the next.
    torch.compiler.reset()
    rows: list[Row] = []
    for kind in case.passes:
        notice(f"{case.name} {case.shape} {case.dtype_name} {kind}")
        if jobs := [job for job in jobs_of(case, kind) if _start(job)]:
            check(jobs)
            timings = measure(jobs, effort)
            rows += [_row(*pair, timings[0]) for pair in zip(jobs, timings, strict=True)]
    return rows


def jobs_of(case: Case, kind: Pass) -> list[Job]:
    """Make a job for every provider that has this pass, all on the same numbers."""
    ours = case.providers[0]
    able = [p for p in case.providers if kind != "inverse" or p.inverse is not None]
    if ours not in able:
        return []
    given, cotangents = case.inputs, None
    if kind != "forward":
        with forked_rng(case.device), torch.no_grad():
            job = Job(case, ours, "forward", case.inputs)
            job.prepare()
            outputs = job()[0]
            heads = case.heads(*outputs)
        if kind == "inverse":
            given = outputs[0], *case.inputs[1:]
        else:  # random numbers flow into every head; into a loss 1
            generator = torch.Generator().manual_seed(1)
            cotangents = tuple(
                torch.randn(h.shape, generator=generator).to(h) if h.dim() else h.new_ones(())
                for h in heads
            )
    return [Job(case, provider, kind, given, cotangents) for provider in able]


def check(jobs: Sequence[Job]) -> None:
    """Compare outputs, log-determinants and gradients of every job with those of the first.

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


def measure(jobs: Sequence[Job], effort: Effort) -> list[Timing]:
    """Return the timings of the jobs, round after round, each round begun by another one."""
    seconds: list[list[float]] = [[] for _ in jobs]
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        with forked_rng(jobs[0].case.device):
            peaks = [peak_of(job) for job in jobs]
            for job in jobs:
                _timed(job)
            least = jobs[0].case.rounds if effort.least is None else effort.least
            start, turn = perf_counter(), 0
            while turn < least or (turn < effort.most and perf_counter() - start < effort.seconds):
                for position in range(len(jobs)):
                    which = (turn + position) % len(jobs)
                    seconds[which].append(_timed(jobs[which]))
                turn += 1
    finally:
        if enabled:
            gc.enable()
    timings = []
    for times, peak in zip(seconds, peaks, strict=True):
        fifths = quantiles(times, n=5, method="inclusive") if len(times) > 1 else 4 * times
        timings.append(Timing(1e3 * median(times), 1e3 * fifths[0], 1e3 * fifths[3], peak))
    return timings


def peak_of(job: Job) -> int:
    """Return the peak of one call in bytes, the copies of its inputs apart."""
    job.prepare()
    peak = peak_bytes(job, job.case.device)
    job.release()
    return peak


def _results(job: Job) -> dict[str, Tensor]:
    # Without TF32, although torch's default is timed: on a GPU it rounds FrEIA's rotation, a
    # convolution, to 10 bits and ours, a matrix product, not. That is no other mathematics.
    exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    with forked_rng(job.case.device), exact:
        job.prepare()
        outputs, gradients = job()
        if job.case.heads_only:
            named = {"head": job.case.heads(*outputs)}
        else:
            gradients = job.comparable(gradients) if job.differentiated else ()
            named = {"output": outputs, "gradient": gradients}
        job.release()
    return {f"{kind} {i}": t.detach() for kind, each in named.items() for i, t in enumerate(each)}


def _errors(got: dict[str, Tensor], expected: dict[str, Tensor]) -> Iterator[tuple[str, float]]:
    """Yield ‖a - b‖ / ‖b‖ of each tensor; infinite where there is none to compare with."""
    for what in expected | got:
        a, b = got.get(what), expected.get(what)
        if a is None or b is None or a.shape != b.shape:
            yield what, float("inf")
            continue
        error, size = (a.double() - b.double()).norm(), b.double().norm()
        yield what, float(error / size) if size > 0 else float(error)


def _start(job: Job) -> bool:
    """Run a job for the first time; tell whether it can run."""
    try:
        with forked_rng(job.case.device):
            job.prepare()
            start = perf_counter()
            outputs, _ = job()
            job.first_seconds = perf_counter() - start
            job.release()
    except Exception as error:
        # A machine without a C++ compiler, or a peer that torch cannot trace: no row, no failure.
        if not job.provider.compiled:
            raise
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        notice(f"{job.provider.label} is left out: {first_line}")
        return False
    job.output_bytes = _bytes(outputs)
    return True


def _timed(job: Job) -> float:
    job.prepare()
    seconds = seconds_of(job, job.case.device)
    job.release()
    return seconds


def _row(job: Job, timing: Timing, ours: Timing) -> Row:
    case, provider = job.case, job.provider
    seconds = timing.median / 1000
    # Forward reads inputs and writes outputs; backward reads inputs and the outputs' gradients, and
    # writes the inputs' gradients.
    inputs, outputs = _bytes(job.given), job.output_bytes
    moved = inputs + outputs + (2 * inputs + outputs) * job.differentiated
    return {
        "bench": case.bench,
        "case": case.name,
        "shape": case.shape,
        "dtype": case.dtype_name,
        "provider": provider.name,
        "pass": job.kind,
        "compiled": provider.compiled,
        # Less where torch's cache on disk knows the program.
        "compile_s": job.first_seconds - seconds if provider.compiled else None,
        "median_ms": timing.median,
        "p20_ms": timing.p20,
        "p80_ms": timing.p80,
        "peak_mb": timing.peak / 1e6,
        # Of the median to ours, not compiled: 2 is twice as long.
        "ratio": timing.median / ours.median,
        "memory_ratio": timing.peak / ours.peak if ours.peak else None,
        # Time to move inputs and outputs once at the speed of a copy / median.
        "roofline": moved / bandwidth(case.device) / seconds if case.essential else None,
    }


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
