"""Runs side by side, each in a process of its own with one thread."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import get_context, parent_process
from typing import Any, NoReturn, TypeVar

import torch

from flowclf.support.errors import UserError
from flowclf.training.setup import cpu_threads

__all__ = ["run_jobs"]

Result = TypeVar("Result")
TRIES = 2


def _give_up(job: object) -> NoReturn:
    raise UserError(
        "a worker was killed again and again at the same job (out of memory?); start the same "
        "command again, with fewer workers"
    )


def run_jobs(
    jobs: Iterable[Callable[[], Result]],
    workers: int,
    lost: Callable[[Any], Result] = _give_up,
) -> Iterator[Result]:
    """What the jobs return, as they end; what one raises ends it all, once those begun have ended.

    A job whose process is killed is tried twice more, alone.

    Args:
        jobs: can be pickled, as a `functools.partial` of a module's function can.
        workers: how many at a time; a single one at a time runs in this process.
        lost: what a job returns whose process is killed both times.
    """
    waiting = iter(jobs)
    if workers == 1:
        with cpu_threads(1):
            for job in waiting:
                yield job()
        return
    while orphans := (yield from _side_by_side(waiting, workers)):
        for job in orphans:
            # One by one: of those that ran side by side nobody knows which took the others along.
            for _ in range(TRIES):
                if not (yield from _side_by_side(iter([job]), 1)):
                    break
            else:
                yield lost(job)


def _side_by_side(
    waiting: Iterator[Callable[[], Result]], workers: int
) -> Generator[Result, None, list[Callable[[], Result]]]:
    """What they return, until all have or a process is killed; then the jobs it took along."""
    orphans, running = list[Callable[[], Result]](), dict[Future[Result], Callable[[], Result]]()
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_begin) as pool:
        while True:
            if not orphans:
                # Handed out one by one: a job in a queue could no longer be called off.
                more = islice(waiting, workers - len(running))
                running |= {_submit(pool, job): job for job in more}
            if not running:
                return orphans
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job = running.pop(future)
                if isinstance(future.exception(), BrokenProcessPool):
                    orphans.append(job)
                else:
                    yield future.result()


def _submit(pool: ProcessPoolExecutor, job: Callable[[], Result]) -> Future[Result]:
    try:
        return pool.submit(job)
    except BrokenProcessPool as error:
        future = Future[Result]()
        future.set_exception(error)
        return future


def _begin() -> None:
    """One thread; and an end with the parent, without which a worker would train on unseen."""
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
