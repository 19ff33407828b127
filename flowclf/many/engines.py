"""Engines that run the jobs of a sweep: this machine, a Ray cluster, or Slurm."""

import os
import time
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from stat import S_ISDIR, S_IWGRP, S_IWOTH
from tempfile import mkdtemp
from typing import Any

from flowclf.many.jobs import Job, Outcome
from flowclf.many.run import Engine, run_here
from flowclf.support.errors import UserError

__all__ = ["ENGINES", "find_engine"]

ENGINES = ("local", "ray", "slurm")
RETRIES = 3
SAFE_PATH = {"PYTHONSAFEPATH": "1"}
POLL = 1.0


def find_engine(name: str, folder: Path, address: str | None = None) -> Engine:
    """Return the engine of that name.

    local: processes on this machine. ray: tasks of a cluster at `address`, or of one started here;
    a task whose worker dies is tried again, and goes on from its checkpoint. slurm: a job array
    through submitit. All need the sweep's folder under the same path.

    Raises:
        UserError: an unknown engine, one that is not installed, or an address without ray.
    """
    if name not in ENGINES:
        raise UserError(f"expected --engine out of {', '.join(ENGINES)}, got {name!r}")
    if address is not None and name != "ray":
        raise UserError(f"--address is that of a Ray cluster: expected --engine ray, got {name}")
    if name == "ray":
        return partial(_ray, _import("ray", "ray"), address)
    if name == "slurm":
        return partial(_slurm, _import("submitit", "slurm"), folder)
    return run_here


def _ray(ray: Any, address: str | None, jobs: Iterable[Job], workers: int) -> Iterator[Outcome]:
    """Run at most `workers` tasks of one CPU at a time."""
    if not ray.is_initialized():
        # Its tasks are pickles: they lie where nobody else writes, and no module of the working
        # directory is taken for ours.
        private = {"num_cpus": workers, "include_dashboard": False, "_temp_dir": mkdtemp()}
        safe = {"env_vars": SAFE_PATH}
        own = {} if address else private
        ray.init(address=address, log_to_driver=False, runtime_env=safe, **own)
    task = ray.remote(num_cpus=1, max_retries=RETRIES)(_one_thread)
    waiting, running = iter(jobs), dict[Any, Job]()
    while running := running | {task.remote(j): j for j in islice(waiting, workers - len(running))}:
        (done,), _ = ray.wait(list(running))
        job = running.pop(done)
        try:
            yield ray.get(done)
        except ray.exceptions.WorkerCrashedError:
            yield job.killed()


def _slurm(submitit: Any, folder: Path, jobs: Iterable[Job], workers: int) -> Iterator[Outcome]:
    """Run a job array of one CPU each, `workers` at a time."""
    executor = submitit.AutoExecutor(folder=_private(folder / "slurm"))
    setup = [f"export {name}={value}" for name, value in SAFE_PATH.items()]
    executor.update_parameters(
        cpus_per_task=1, slurm_array_parallelism=workers, timeout_min=24 * 60, slurm_setup=setup
    )
    waiting = executor.map_array(_one_thread, list(jobs))
    while waiting:
        done = [job for job in waiting if job.done()]
        waiting = [job for job in waiting if job not in done]
        yield from (job.result() for job in done)
        time.sleep(POLL if waiting else 0)


def _private(folder: Path) -> Path:
    """Make a folder for pickles, which whoever may write to it could replace by code.

    Raises:
        UserError: others may write to it, or it is another user's.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    own = not hasattr(os, "getuid") or found.st_uid == os.getuid()
    if not S_ISDIR(found.st_mode) or not own or found.st_mode & (S_IWGRP | S_IWOTH):
        raise UserError(
            f"expected a folder of yours that nobody else may write to, got {folder}: chmod 700 it"
        )
    return folder


def _one_thread(job: Job) -> Outcome:
    """Run a job with one thread, in a process of the engine."""
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    import torch

    torch.set_num_threads(1)
    return job()


def _import(package: str, extra: str) -> Any:
    from importlib import import_module

    try:
        return import_module(package)
    except ImportError:
        raise UserError(
            f"--engine {extra} needs {package}: pip install 'flowclf[{extra}]'"
        ) from None
