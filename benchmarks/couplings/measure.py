"""Time and memory of jobs, measured in turn so that a machine's drift hits all of them alike."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from statistics import median, quantiles
from time import perf_counter

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.couplings.case import Job
from benchmarks.couplings.rng import forked

__all__ = ["Effort", "Timing", "copy_bandwidth", "cpu_peak_bytes", "measure", "peak_bytes"]


@dataclass(frozen=True)
class Effort:
    """How long to measure a case's pass: rounds until `seconds` are over, within bounds."""

    seconds: float = 4.0
    most: int = 200
    least: int | None = None  # default: the case's own


@dataclass(frozen=True)
class Timing:
    """Of one call, in milliseconds, and the bytes it had allocated at its peak."""

    median: float
    p20: float
    p80: float
    peak: int


def measure(jobs: Sequence[Job], effort: Effort) -> list[Timing]:
    """Timings of the jobs, round after round, each round begun by another one."""
    device = jobs[0].case.device
    seconds: list[list[float]] = [[] for _ in jobs]
    with forked(device), _without_garbage_collection():
        peaks = [peak_bytes(job) for job in jobs]
        for job in jobs:
            _timed(job)
        for turn in _rounds(effort, jobs[0].case.rounds):
            for position in range(len(jobs)):
                which = (turn + position) % len(jobs)
                seconds[which].append(_timed(jobs[which]))
    return [_summary(times, peak) for times, peak in zip(seconds, peaks, strict=True)]


def peak_bytes(job: Job) -> int:
    """Bytes of live tensors at the peak of one call, above those before it. Exact."""
    job.prepare()
    peak = _cuda_peak(job) if job.case.device.type == "cuda" else cpu_peak_bytes(job)
    job.release()
    return peak


def copy_bandwidth(device: torch.device, megabytes: int = 256) -> float:
    """Bytes a second that a plain copy reads and writes."""
    source = torch.empty(megabytes << 20, dtype=torch.uint8, device=device).fill_(1)
    target = torch.empty_like(source)
    times = []
    for _ in range(8):
        with _Clock(device) as clock:
            target.copy_(source)
        times.append(clock.seconds)
    return 2 * source.numel() / median(times[1:])


class _Clock:
    """Seconds of what runs inside: the CPU's clock, or the GPU's own events."""

    seconds: float

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"

    def __enter__(self) -> _Clock:
        if self.cuda:
            self.begin = torch.cuda.Event(enable_timing=True)
            self.end = torch.cuda.Event(enable_timing=True)
            torch.cuda.synchronize()
            # Empties the cache, as in a network where other layers ran in between; and while it is
            # being written the first launches are already under way.
            _cache_filler().zero_()
            self.begin.record()
        else:
            self.start = perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        if self.cuda:
            self.end.record()
            torch.cuda.synchronize()
            self.seconds = self.begin.elapsed_time(self.end) / 1000
        else:
            self.seconds = perf_counter() - self.start


@cache
def _cache_filler() -> torch.Tensor:
    return torch.empty(256 << 20, dtype=torch.uint8, device="cuda")


def _timed(job: Job) -> float:
    job.prepare()
    with _Clock(job.case.device) as clock:
        result = job()
    del result
    job.release()
    return clock.seconds


def _rounds(effort: Effort, least: int) -> Iterator[int]:
    least = least if effort.least is None else effort.least
    start, turn = perf_counter(), 0
    while turn < least or (turn < effort.most and perf_counter() - start < effort.seconds):
        yield turn
        turn += 1


def _summary(seconds: Sequence[float], peak: int) -> Timing:
    fifths = quantiles(seconds, n=5, method="inclusive") if len(seconds) > 1 else 4 * [seconds[0]]
    return Timing(1e3 * median(seconds), 1e3 * fifths[0], 1e3 * fifths[3], peak)


def _cuda_peak(job: Job) -> int:
    _cache_filler()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    job()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def cpu_peak_bytes(job: Callable[[], object]) -> int:
    """Bytes of live tensors at the peak of a call on the CPU, above those before it."""
    # The allocator reports every allocation and release to the profiler, temporaries within an
    # operator included, which no hook on operators would see.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it tells of every start and stop
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        job()
    recorded = profiler.profiler.kineto_results.events()
    events = [event for event in recorded if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
