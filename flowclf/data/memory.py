"""Whether what a file claims to hold can be held."""

import os

from flowclf.support.errors import UserError

__all__ = ["check_fits", "machine_memory"]


def machine_memory() -> int | None:
    """Bytes of memory that the machine has, or None where it does not say."""
    if not hasattr(os, "sysconf"):
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_fits(size: int, where: str) -> None:
    """Do nothing while `size` bytes are no more than the machine's memory.

    To be asked before anything is unpacked: a few compressed bytes can stand for any number.

    Raises:
        UserError: they are more.
    """
    memory = machine_memory()
    if memory is not None and size > memory:
        raise UserError(
            f"{where}: expected data that fit into the {memory:,} bytes of memory, got "
            f"{size:,} bytes unpacked; if you trust the file, read a part of it"
        )
