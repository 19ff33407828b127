"""The machine: its devices and its memory; and torch's modes."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

from flowclf.support.errors import UserError

__all__ = ["check_fits", "check_room", "float64_told", "machine_memory", "own_modes", "pick_device"]


def pick_device(name: str) -> str:
    """Return the torch device for the setting auto, cpu, cuda or mps; auto is never mps.

    Raises:
        UserError: another name, or cuda or mps where there is none.
    """
    if name not in ("auto", "cpu", "cuda", "mps"):
        raise UserError(f"expected device auto, cpu, cuda or mps, got {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("expected a CUDA device for device cuda, found none; use cpu or auto")
    if name == "mps" and not torch.backends.mps.is_available():
        raise UserError("expected Apple's GPU for device mps, found none; use cpu or auto")
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name


@contextmanager
def float64_told(device: str) -> Iterator[None]:
    """Say of what fails within the block for want of float64 that mps has none.

    Raises:
        UserError: torch refused a tensor of float64 on mps.
    """
    try:
        yield
    except (TypeError, RuntimeError) as error:
        if device != "mps" or "float64" not in str(error):
            raise
        raise UserError(
            "expected a device with float64, which densities and evaluation are computed in, got "
            "mps, which has none; use --device cpu"
        ) from error


def machine_memory() -> int | None:
    """Return the bytes of memory that this process may have at most; None: unknown.

    The least of the machine's, of the limit of its control group, and of `ulimit -v`.
    """
    if not hasattr(os, "sysconf"):
        return None
    import resource

    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    limits += [] if limit == resource.RLIM_INFINITY else [limit]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            limits.append(int(Path("/sys/fs/cgroup", name).read_text()))
        except (OSError, ValueError):  # no such group, or "max"
            continue
    return min(limits)


def check_room(count: int, dims: int, what: str) -> None:
    """Raise UserError unless `count` samples of so many float32 numbers fit into memory."""
    memory, size = machine_memory(), count * dims * torch.float32.itemsize
    if memory is not None and size > memory:
        raise UserError(
            f"expected {what} that fit into the {memory:,} bytes of memory, got {count:,}, of "
            f"{size:,} bytes; ask for fewer at a time"
        )


@contextmanager
def own_modes() -> Iterator[None]:
    """Compute within the block as outside of torch's inference_mode, no_grad and default devices.

    Parameters made, or trained, in them could not be learned.
    """
    with ExitStack() as modes:
        if torch.is_inference_mode_enabled():
            modes.enter_context(torch.inference_mode(False))
        if not torch.is_grad_enabled():
            modes.enter_context(torch.enable_grad())
        # A context of it slows every call down.
        if torch.get_default_device().type != "cpu":
            modes.enter_context(torch.device("cpu"))
        yield


def check_fits(size: int, where: str) -> None:
    """Raise UserError unless `size` bytes, still to be unpacked, fit into memory."""
    memory = machine_memory()
    if memory is not None and size > memory:
        raise UserError(
            f"{where}: expected data that fit into the {memory:,} bytes of memory, got "
            f"{size:,} bytes unpacked; if you trust the file, read a part of it"
        )
