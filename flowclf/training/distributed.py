"""Several processes that train one model: how they start, and what they must agree on."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch import distributed as dist

from flowclf.settings import Precision
from flowclf.support.collectives import as_rank
from flowclf.support.devices import pick_device
from flowclf.support.errors import UserError, first_line

if TYPE_CHECKING:
    from lightning.fabric import Fabric

__all__ = [
    "Elsewhere",
    "ProcessLost",
    "Processes",
    "as_started",
    "fail_together",
    "first_process",
    "launch_fabric",
    "lost_processes",
    "quiet",
    "told_by_first",
]

# The longest that one process may do something alone, as the first does when it evaluates.
TIMEOUT = timedelta(minutes=30)
# What says how many processes there are, in all and on each node.
SIZES = {
    "torchrun": ("WORLD_SIZE", "LOCAL_WORLD_SIZE"),
    "srun": ("SLURM_NTASKS", "SLURM_NTASKS_PER_NODE"),
}


class ProcessLost(ConnectionError):
    """Another process of the training has ended, or cannot be reached."""


class Elsewhere(UserError):
    """Another process failed, or this one did: of that the first process tells."""


def as_started(devices: int | None, nodes: int | None) -> tuple[int, int]:
    """Processes on each node, and nodes; None: as torchrun or SLURM have started them, or one.

    Raises:
        UserError: numbers that are not those of torchrun or SLURM; `Elsewhere` in all but one.
    """
    launcher = _launcher()
    there = _sizes(*SIZES[launcher]) if launcher else (1, 1)
    asked = devices or there[0], nodes or there[1]
    if launcher and asked != there:
        raise (UserError if first_process() else Elsewhere)(
            f"expected --devices {there[0]} --nodes {there[1]}, as {launcher} has started them, "
            f"got {asked[0]} and {asked[1]}; leave them out, or have it start as many"
        )
    return asked


def _launcher() -> str | None:
    """Who started the processes, if that was neither the user nor Fabric."""
    if dist.is_torchelastic_launched():
        return "torchrun"
    if "SLURM_NTASKS" not in os.environ:
        return None
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

    return "srun" if SLURMEnvironment.detect() else None


def _sizes(of_all: str, of_node: str) -> tuple[int, int]:
    """Processes on each node, and nodes, by these variables."""
    world = int(os.environ[of_all])
    local = int(os.environ.get(of_node, "0" if world > 1 else "1"))
    if not local or world % local:
        raise (UserError if first_process() else Elsewhere)(
            f"expected {of_all}={world} to be a multiple of {of_node}, got {local or 'none'}; "
            "give sbatch or srun --ntasks-per-node"
        )
    return local, world // local


def launch_fabric(
    device: str, devices: int, nodes: int, precision: Precision = "32-true"
) -> Fabric:
    """Fabric on the device asked for, with all its processes.

    Raises:
        UserError: more of them than there are GPUs.
    """
    from lightning.fabric import Fabric
    from lightning.fabric.strategies.ddp import DDPStrategy
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    # Buffers stay the same everywhere by themselves.
    ddp = DDPStrategy(timeout=TIMEOUT, broadcast_buffers=False)
    with quiet():
        try:
            fabric = Fabric(
                accelerator=pick_device(device),
                strategy=ddp if devices * nodes > 1 else "auto",
                devices=devices,
                num_nodes=nodes,
                precision=precision,
            )
        except MisconfigurationException as error:
            raise UserError(first_line(error)) from None
        fabric.launch()
    return fabric


@contextmanager
def quiet() -> Iterator[None]:
    """Without Fabric's advice on hardware that was deliberately not chosen, nor its greetings."""
    before = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning, module="lightning")
            # Its successor is not in all versions of torch that will do.
            warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")
            yield
    finally:
        logging.disable(before)


def first_process() -> bool:
    """Whether this is the process that speaks for all, also before they have met."""
    if dist.is_initialized():
        return dist.get_rank() == 0
    name = {"torchrun": "RANK", "srun": "SLURM_PROCID", None: "LOCAL_RANK"}[_launcher()]
    return os.environ.get(name, "0") == "0"


def told_by_first(error: Exception) -> bool:
    """Whether the first process tells of an error that ended all."""
    return isinstance(error, Elsewhere) or (dist.is_initialized() and dist.get_rank() > 0)


class Processes:
    """This process among all that train together; alone it has nothing to agree on."""

    def __init__(self, fabric: Fabric) -> None:
        self.rank, self.world = fabric.global_rank, fabric.world_size
        self._device = fabric.device

    @property
    def first(self) -> bool:
        """Whether it is the one that writes, evaluates and speaks."""
        return self.rank == 0

    def highest(self, *values: float) -> tuple[float, ...]:
        """The highest of what each process has."""
        if self.world == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64, device=self._device)
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return tuple(tensor.tolist())

    def means(self, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        """Loss terms of the whole batch, of 0-dim ones of the shares."""
        if self.world == 1:
            return terms
        values = torch.stack([value.double() for value in terms.values()])
        dist.all_reduce(values)
        return dict(zip(terms, values / self.world, strict=True))

    def same(self, number: int) -> bool:
        """Whether all processes have it."""
        highest, minus_lowest = self.highest(number, -number)
        return highest == -minus_lowest

    def sharing(self) -> AbstractContextManager[None]:
        """Within it the rows of a batch are this process's share."""
        return as_rank(self.rank, self.world)

    @contextmanager
    def agreed(self) -> Iterator[None]:
        """An error within is one of all processes, instead of leaving the others to wait.

        Nothing within may communicate. The first process raises it; the others `Elsewhere`.
        """
        error: Exception | None = None
        try:
            yield
        except Exception as caught:
            if self.world == 1:
                raise
            error = caught
        if self.world > 1:
            self._compare(error)

    def _compare(self, error: Exception | None) -> None:
        mine = None if error is None else (isinstance(error, UserError), first_line(error))
        found: list[tuple[bool, str] | None] = [None] * self.world
        dist.all_gather_object(found, mine)
        failed = [(rank, *each) for rank, each in enumerate(found) if each is not None]
        if not failed:
            return
        if error is not None and (self.first or not isinstance(error, UserError | OSError)):
            raise error
        rank, mistake, line = failed[0]
        if not self.first:
            raise Elsewhere(line) from error
        raise (UserError if mistake else ProcessLost)(f"process {rank}: {line}")


def fail_together(error: UserError, device: str, devices: int | None, nodes: int | None) -> None:
    """Raise it in the first process and `Elsewhere` in others, which may have failed or be waiting.

    Raises:
        UserError: this, or that of the process that failed first.
    """
    # Who has not been started by others has not started others yet.
    if _launcher() is None and "LOCAL_RANK" not in os.environ:
        raise error
    with lost_processes():
        processes = Processes(launch_fabric(device, *as_started(devices, nodes)))
        with processes.agreed():
            raise error


@contextmanager
def lost_processes() -> Iterator[None]:
    """Within it a connection that breaks says what that means.

    Raises:
        ProcessLost: another process has ended.
    """
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if not (isinstance(error, dist.DistError) or "gloo" in text or "NCCL" in text):
            raise
        # Without gloo's line of source before it, and its advice behind.
        reason = first_line(error).split(". ")[0].split("] ")[-1]
        raise ProcessLost(f"another process of the training has ended: {reason}") from None
