"""Named tensors in a safetensors file, with a sha256 of its contents that reading verifies.

The safetensors library reads the files. Writing stays here, as its save_file first writes a
temporary file of its own name, readable by its owner alone, that a killed process leaves behind,
and its save holds the whole file in memory a second time.
"""

import json
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor

from flowclf.support.atomic_files import write_whole
from flowclf.support.errors import UserError, first_line

__all__ = ["DamagedFile", "digest", "read_tensors", "write_tensors"]

# Metadata entry: KEY → MARK, sha256, space, note.
KEY, MARK = "flowclf", "sha256:"
# In a row, each of which made a reader fail.
REPLACEMENTS = 100
TYPES = {
    torch.complex64: "C64", torch.float64: "F64", torch.float32: "F32", torch.float16: "F16",
    torch.bfloat16: "BF16", torch.int64: "I64", torch.int32: "I32", torch.int16: "I16",
    torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


class DamagedFile(UserError):
    """Error of `read_tensors`: the file is not what was written."""


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], note: str = "", previous: Path | None = None
) -> None:
    """Write tensors and a note atomically, with their digest:

        sha256(note, then of each tensor in order of names: NUL name NUL dtype NUL shape NUL bytes)

    Tensors may be on any device; those that share memory are written separately. `previous` is the
    new name of the file that is replaced; None: it is deleted.

    Raises:
        OSError: it could not be written; the file of before is intact.
    """
    state = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}

    def write(part: Path) -> None:
        with part.open("wb") as file:
            file.writelines(_safetensors(state, f"{MARK}{_digest(state, note)} {note}"))

    write_whole(path, write, previous)


def read_tensors(path: Path, unverified: bool = False) -> tuple[dict[str, Tensor], str]:
    """Return tensors on the CPU and their note, of the file as it is before or after a replacement.

    With `unverified` files that others wrote without a digest are taken, too; their note is empty.

    Raises:
        DamagedFile: not a safetensors file, or not the contents that were written.
        UserError: the file cannot be read, or has no digest.
    """
    for _ in range(REPLACEMENTS):
        before = _stamp(path)
        try:
            return _read(path, unverified)
        except UserError:
            # The library opens a file twice, and another process may have replaced it in between.
            if _stamp(path) == before:
                raise
    raise UserError(f"{path} is replaced all the time; stop what writes it")


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _read(path: Path, unverified: bool) -> tuple[dict[str, Tensor], str]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except (SafetensorError, RuntimeError, TypeError, ValueError) as error:
        raise DamagedFile(f"{path} is damaged: {first_line(error)}") from None
    # Search the values as well: a damaged key must not pass for a foreign file.
    if KEY not in metadata and not any(MARK in value for value in metadata.values()):
        if unverified:
            return tensors, ""
        raise UserError(
            f"{path} has no digest to verify it by, as flowclf writes it; if you trust the file, "
            "read it in Python with unverified=True"
        )
    stated, _, note = metadata.get(KEY, "").partition(" ")
    if stated != MARK + _digest(tensors, note):
        raise DamagedFile(f"{path} is damaged: its sha256 is not the one it was written with")
    return tensors, note


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the sha256 of tensors on any device, by their names, dtypes, shapes and bytes."""
    return _digest({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, "")


def _safetensors(state: Mapping[str, Tensor], entry: str) -> Iterator[bytes | memoryview]:
    """Return the parts of the file: header length, header, and tensors, widest types first."""
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
