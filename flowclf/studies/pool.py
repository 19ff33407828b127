"""Runs side by side, each in a process of its own with one thread."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import islice
from multiprocessing import get_context, parent_process
from typing import TypeVar

import torch

from flowclf.training.setup import cpu_threads

__all__ = ["run_jobs"]

Result = TypeVar("Result")


def run_jobs(jobs: Iterable[Callable[[], Result]], workers: int) -> Iterator[Result]:
    """What the jobs return, as they end; what one raises ends it all, once those begun have ended.

    Args:
        jobs: can be pickled, as a `functools.partial` of a module's function can.
        workers: how many at a time; a single one at a time runs in this process.
    """
    if workers == 1:
        with cpu_threads(1):
            for job in jobs:
                yield job()
        return
    waiting, running = iter(jobs), set[Future[Result]]()
    context = get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_begin) as pool:
        # Handed out one by one: a job in a queue could no longer be called off.
        while running := running | {
            pool.submit(j) for j in islice(waiting, workers - len(running))
        }:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (job.result() for job in done)


def _begin() -> None:
    """One thread; and an end with the parent, without which a worker would train on unseen."""
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
