"""The machine: its devices and its memory."""

import os

import torch

from flowclf.support.errors import UserError

__all__ = ["check_fits", "machine_memory", "pick_device"]


def pick_device(name: str) -> str:
    """Return the torch device "cpu" or "cuda" for the setting auto, cpu or cuda.

    Raises:
        UserError: another name, or cuda where there is none.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"expected device auto, cpu or cuda, got {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("expected a CUDA device for device cuda, found none; use cpu or auto")
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name


def machine_memory() -> int | None:
    """Return the bytes of physical memory, or None where the system does not report them."""
    if not hasattr(os, "sysconf"):
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_fits(size: int, where: str) -> None:
    """Raise UserError unless `size` bytes, still to be unpacked, fit into memory."""
    memory = machine_memory()
    if memory is not None and size > memory:
        raise UserError(
            f"{where}: expected data that fit into the {memory:,} bytes of memory, got "
            f"{size:,} bytes unpacked; if you trust the file, read a part of it"
        )
