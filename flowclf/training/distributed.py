"""Several processes that train one model: who started them, and how they end together."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from torch import distributed as dist

from flowclf.support.atomic_files import tell
from flowclf.support.collectives import Processes, ProcessLost, ReportedElsewhere
from flowclf.support.errors import UserError, first_line
from flowclf.training.setup import launch_fabric

__all__ = [
    "ReportedElsewhere",
    "as_started",
    "first_process",
    "lost_processes",
    "raise_in_first",
    "reported_by_first",
]

# Environment variables with the number of processes, in all and on each node.
SIZES = {
    "torchrun": ("WORLD_SIZE", "LOCAL_WORLD_SIZE"),
    "srun": ("SLURM_NTASKS", "SLURM_NTASKS_PER_NODE"),
}


def as_started(devices: int | None, nodes: int | None) -> tuple[int, int]:
    """Return the processes on each node and the nodes; None: as torchrun or SLURM started them.

    Raises:
        UserError: numbers other than those of torchrun or SLURM; `ReportedElsewhere` in all
            processes but the first.
    """
    launcher = _launcher()
    started = _sizes(*SIZES[launcher]) if launcher else (1, 1)
    asked = devices or started[0], nodes or started[1]
    if launcher and asked != started:
        raise (UserError if first_process() else ReportedElsewhere)(
            f"expected --devices {started[0]} --nodes {started[1]}, as {launcher} has started "
            f"them, got {asked[0]} and {asked[1]}; leave them out, or start as many processes"
        )
    return asked


def _launcher() -> str | None:
    """Return the program that started the processes, None for the user or Fabric."""
    if dist.is_torchelastic_launched():
        return "torchrun"
    if "SLURM_NTASKS" not in os.environ:
        return None
    if "SLURM_PROCID" not in os.environ:
        # Left over from salloc: srun, which starts processes, numbers them. Fabric would wait.
        tell(
            f"note: SLURM_NTASKS={os.environ.pop('SLURM_NTASKS')} is ignored: srun started nothing"
        )
        return None
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

    return "srun" if SLURMEnvironment.detect() else None


def _sizes(total: str, per_node: str) -> tuple[int, int]:
    """Return processes on each node, and nodes, from these environment variables."""
    world = int(os.environ[total])
    local = int(os.environ.get(per_node, "0" if world > 1 else "1"))
    if not local or world % local:
        raise (UserError if first_process() else ReportedElsewhere)(
            f"expected {total}={world} to be a multiple of {per_node}, got {local or 'none'}; "
            "give sbatch or srun --ntasks-per-node"
        )
    return local, world // local


def first_process() -> bool:
    """Return True in the process that reports for all, also before they are connected."""
    if dist.is_initialized():
        return dist.get_rank() == 0
    name = {"torchrun": "RANK", "srun": "SLURM_PROCID", None: "LOCAL_RANK"}[_launcher()]
    return os.environ.get(name, "0") == "0"


def reported_by_first(error: Exception) -> bool:
    """Return True if the first process, not this one, reports an error that ended all."""
    return isinstance(error, ReportedElsewhere) or (dist.is_initialized() and dist.get_rank() > 0)


def raise_in_first(error: UserError, device: str, devices: int | None, nodes: int | None) -> None:
    """Raise the error in the first process, and `ReportedElsewhere` in those that wait for it.

    Raises:
        UserError: this error, or that of the process that failed first.
    """
    # A process that was not started by others has not started others yet.
    if _launcher() is None and "LOCAL_RANK" not in os.environ:
        raise error
    with lost_processes():
        fabric = launch_fabric(device, *as_started(devices, nodes))
        processes = Processes(fabric.global_rank, fabric.world_size, fabric.device)
        with processes.fail_together():
            raise error


@contextmanager
def lost_processes() -> Iterator[None]:
    """Turn a broken connection within the block into `ProcessLost`.

    Raises:
        ProcessLost: another process has ended.
    """
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if not (isinstance(error, dist.DistError) or "gloo" in text or "NCCL" in text):
            raise
        # Without gloo's source line in front and its advice at the end.
        reason = first_line(error).split(". ")[0].split("] ")[-1]
        raise ProcessLost(f"another process of the training has ended: {reason}") from None
