"""Local pool: jobs in parallel processes of one thread each."""

import os
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import active_children, get_context, parent_process
from typing import Any, NoReturn, TypeVar

import torch

from flowclf.support.errors import UserError
from flowclf.training.interrupt import Interrupted, stop_on_signal
from flowclf.training.setup import cpu_threads

__all__ = ["run_jobs"]

Result = TypeVar("Result")
TRIES = 2
# Seconds between two looks at signals.
POLL = 0.2


def _give_up(job: object) -> NoReturn:
    raise UserError(
        "a worker was killed again and again at the same job (out of memory?); start the same "
        "command again, with fewer workers"
    )


def run_jobs(
    jobs: Iterable[Callable[[], Result]],
    workers: int,
    killed: Callable[[Any], Result] = _give_up,
) -> Iterator[Result]:
    """Yield what the jobs return, as they end; an exception ends all, once running jobs have ended.

    A job whose process is killed is tried twice more, alone. A signal to this process is one to the
    jobs', which save what they train.

    Args:
        jobs: can be pickled, as a `functools.partial` of a module's function can.
        workers: how many at a time; a single one at a time runs in this process.
        killed: gives the result of a job whose process is killed each time.

    Raises:
        Interrupted: a signal to stop.
    """
    waiting = iter(jobs)
    if workers == 1:
        with cpu_threads(1):
            for job in waiting:
                yield job()
        return
    while unfinished := (yield from _side_by_side(waiting, workers)):
        for job in unfinished:
            # One by one: of parallel jobs it is unknown which one broke the pool.
            for _ in range(TRIES):
                if not (yield from _side_by_side(iter([job]), 1)):
                    break
            else:
                yield killed(job)


def _side_by_side(
    waiting: Iterator[Callable[[], Result]], workers: int
) -> Generator[Result, None, list[Callable[[], Result]]]:
    """Yield results until all jobs end or a process is killed; return the jobs left unfinished."""
    unfinished, running = list[Callable[[], Result]](), dict[Future[Result], Callable[[], Result]]()
    with (
        stop_on_signal() as stop,
        ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_begin) as pool,
    ):
        while True:
            if stop.raised:
                # Those that train save; others end at once. Leaving the pool waits for all.
                for child in active_children():
                    child.terminate()
                raise Interrupted("stopped")
            if not unfinished:
                # Submitted one by one: a queued job could no longer be called off.
                more = islice(waiting, workers - len(running))
                running |= {_submit(pool, job): job for job in more}
            if not running:
                return unfinished
            for future in wait(running, POLL, FIRST_COMPLETED).done:
                job = running.pop(future)
                if isinstance(future.exception(), BrokenProcessPool):
                    unfinished.append(job)
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
    """Compute with one thread, and end with the parent process."""
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
