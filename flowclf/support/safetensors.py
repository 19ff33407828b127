"""Named tensors in a safetensors file, with a sha256 over all of it that is checked at reading.

Written here and not by safetensors, whose save_file makes a file of its own beside the one it is
asked for, readable for its owner alone, which stays there when the process is killed; and whose
save needs twice the memory. It reads them all.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor

from flowclf.support.atomic_files import write_whole
from flowclf.support.errors import UserError, first_line

__all__ = ["DamagedFile", "read_tensors", "write_tensors"]

# The entry of the metadata: MARK, sha256, space, note.
KEY, MARK = "flowclf", "sha256:"
TYPES = {
    torch.complex64: "C64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class DamagedFile(UserError):
    """A file that is not what was written."""


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], note: str = "", previous: Path | None = None
) -> None:
    """Tensors and a note, written whole, with their digest:

        sha256(note, then of each tensor in order of names: NUL name NUL dtype NUL shape NUL bytes)

    Args:
        path: the file.
        tensors: on any device; those that share memory are written each.
        note: text that goes with them.
        previous: where the file that is replaced goes; None: it is gone.

    Raises:
        OSError: it could not be written; what was there before is intact.
    """
    state = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}

    def write(part: Path) -> None:
        with part.open("wb") as file:
            file.writelines(_safetensors(state, f"{MARK}{_digest(state, note)} {note}"))

    write_whole(path, write, previous)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], str | None]:
    """Tensors, on the CPU, and their note; None where others wrote the file, without a digest.

    Raises:
        DamagedFile: no safetensors, or not what was written.
        UserError: a file that cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except (SafetensorError, RuntimeError, TypeError, ValueError) as error:
        raise DamagedFile(f"{path} is damaged: {first_line(error)}") from None
    # By its value, too: damage to the key must not pass for a file of others.
    if KEY not in metadata and not any(MARK in value for value in metadata.values()):
        return tensors, None
    stated, _, note = metadata.get(KEY, "").partition(" ")
    if stated != MARK + _digest(tensors, note):
        raise DamagedFile(f"{path} is damaged: it has not the sha256 that it was written with")
    return tensors, note


def _safetensors(state: Mapping[str, Tensor], entry: str) -> Iterator[bytes | memoryview]:
    """The parts of the file: length of the header, header, and the tensors, widest types first."""
    header: dict[str, object] = {"__metadata__": {KEY: entry}}
    names = sorted(state, key=lambda name: (-state[name].itemsize, name))
    end = 0
    for name in names:
        value, start = state[name], end
        end += value.nbytes
        kind, shape = TYPES[value.dtype], list(value.shape)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    yield from (_bytes(state[name]) for name in names)


def _digest(state: Mapping[str, Tensor], note: str) -> str:
    found = sha256(note.encode())
    for name in sorted(state):
        value = state[name]
        found.update(f"\0{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        found.update(_bytes(value))
    return found.hexdigest()


def _bytes(value: Tensor) -> memoryview:
    return value.reshape(-1).view(torch.uint8).numpy().data
