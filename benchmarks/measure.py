"""Time and memory of a call, on the CPU and on a GPU."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from time import perf_counter

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.benchmark import Timer

CPU = torch.device("cpu")


def seconds_of(call: Callable[[], object], device: torch.device) -> float:
    """Return the seconds that a call takes: by the CPU's clock, or by the GPU's own events."""
    if device.type != "cuda":
        start = perf_counter()
        call()
        return perf_counter() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    # Empties the cache, as in a network where other layers ran in between; and while it is being
    # written the first launches are already under way.
    _cache_filler().zero_()
    begin.record()
    call()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1000


def peak_bytes(call: Callable[[], object], device: torch.device = CPU) -> int:
    """Return the bytes of live tensors at the peak of a call, above those before it. Exact."""
    if device.type == "cuda":
        _cache_filler()
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    # The allocator reports every allocation and release to the profiler, temporaries within an
    # operator included, which no hook on operators would see.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it logs every start and stop
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    recorded = profiler.profiler.kineto_results.events()
    events = [event for event in recorded if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def copy_bandwidth(device: torch.device, megabytes: int = 256) -> float:
    """Return the bytes a second that a plain copy reads and writes."""
    source = torch.empty(megabytes << 20, dtype=torch.uint8, device=device).fill_(1)
    tensors = {"source": source, "target": torch.empty_like(source)}
    timer = Timer("target.copy_(source)", globals=tensors, num_threads=torch.get_num_threads())
    return 2 * source.numel() / timer.timeit(7).median


@contextmanager
def forked_rng(device: torch.device = CPU) -> Iterator[None]:
    """Put torch's and numpy's global generators, which peers draw from, back as they were."""
    state = np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        np.random.set_state(state)  # noqa: NPY002


@cache
def _cache_filler() -> torch.Tensor:
    return torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
