"""Images that do not fit into memory: they stay in files that are read a block at a time."""

import math
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Self
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from flowclf.support.errors import UserError

__all__ = ["Reader", "Shard", "Shards", "row_checksums", "shuffled"]

BLOCK = 2**20
"""Bytes that are read at once: enough for a disk to be fast, and one image at least."""
GROUP = 40
"""Blocks among which samples are shuffled."""
KEPT = 2 * GROUP
"""Blocks in memory: where one group ends a batch needs two, and none is to be read twice."""
SMALL = 2**27
"""A part of no more bytes than this is read as a whole."""


@dataclass(frozen=True)
class Shard:
    """File of uint8 images, one after the other, the first at an offset in bytes."""

    path: Path
    rows: int
    offset: int


class Shards(Tensor):
    """Grey levels (N, C, H, W) in uint8 that stand in for a tensor; rows are read on access.

    `x[rows]`, in the order asked for, and the parts of `x.split(n)` are plain tensors; `flatten(1)`
    and `to(device)` change what these will be, `part(rows)` which there are. All else, which would
    need all numbers at once, is refused. Read, not mapped: pages of a mapped file count as resident
    until the system takes them back, while here there are never more than `KEPT` blocks.

    Args:
        reader: of the files.
        rows: which of its rows, int64 (N,); None: all.
        shape: of one row.
        device: where rows go.
    """

    _reader: "Reader"
    _rows: Tensor | None

    def __new__(
        cls,
        reader: "Reader",
        rows: Tensor | None = None,
        shape: tuple[int, ...] | None = None,
        device: torch.device | str = "cpu",
    ) -> Self:
        size = len(reader) if rows is None else len(rows), *(shape or reader.shape)
        where = torch.device(device)
        self = torch.Tensor._make_wrapper_subclass(cls, size, dtype=torch.uint8, device=where)
        self._reader, self._rows = reader, rows
        return self

    @property
    def checksums(self) -> Tensor:
        """Checksums of the rows, int64 (N,), as they were written; (0,): there are none."""
        sums, rows = self._reader.checksums, self._rows
        return sums if rows is None or not len(sums) else sums[rows]

    @property
    def block(self) -> int:
        """Number of rows that are read at once."""
        return self._reader.per_block

    def __getitem__(self, index: Any) -> Tensor:
        """Read rows by number, slice, int64 or bool tensor; of a number one row."""
        if isinstance(index, int):
            return self[torch.tensor([index])][0]
        rows = self._numbers(index)
        return self._reader.read(rows).view(len(rows), *self.shape[1:]).to(self.device)

    def part(self, index: Any) -> Tensor:
        """Return rows as x[index] does; `Shards` again if they are large."""
        rows = self._numbers(index)
        if len(rows) * math.prod(self.shape[1:]) <= SMALL:
            return self._reader.read(rows).view(len(rows), *self.shape[1:]).to(self.device)
        return type(self)(self._reader, rows, tuple(self.shape[1:]), self.device)

    def split(self, split_size: int, dim: int = 0) -> Sequence[Tensor]:  # type: ignore[override]
        """Yield parts of so many rows, each read when it is asked for."""
        assert dim == 0, "the images lie one behind the other"
        return _Parts(self, split_size)

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> Tensor:
        """Return rows as vectors, (N, C·H·W)."""
        assert (start_dim, end_dim) == (1, -1), "the rows remain"
        return type(self)(self._reader, self._rows, (math.prod(self.shape[1:]),), self.device)

    def to(self, device: torch.device | str) -> Tensor:  # type: ignore[override]
        """Return the same images, with rows read to the device."""
        return type(self)(self._reader, self._rows, tuple(self.shape[1:]), device)

    def __iter__(self) -> Iterator[Tensor]:
        return (self[number] for number in range(len(self)))

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Shards({tuple(self.shape)} in {len(self._reader.shards)} files)"

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Refuse every operation that no method above serves.

        Raises:
            UserError: always.
        """
        raise UserError(
            f"expected to read images a batch at a time, as they lie in shards of more than "
            f"{SMALL:,} bytes, got {func}, which needs all of them; take some by data.train_size "
            "and data.test_size, or leave that out"
        )

    def _numbers(self, index: Any) -> Tensor:
        """Return the numbers of the reader's rows, int64."""
        if isinstance(index, slice):
            rows = torch.arange(*index.indices(len(self)))
        else:
            rows = torch.as_tensor(index).cpu()
            rows = rows.nonzero()[:, 0] if rows.dtype == torch.bool else rows
        return rows if self._rows is None else self._rows[rows]


class _Parts(Sequence[Tensor]):
    def __init__(self, whole: Shards, size: int) -> None:
        self._whole, self._size = whole, size

    def __len__(self) -> int:
        return -(-len(self._whole) // self._size)

    def __getitem__(self, number: Any) -> Any:
        if not 0 <= number < len(self):
            raise IndexError(number)
        return self._whole[number * self._size : (number + 1) * self._size]


class Reader:
    """Reader of rows by number, with a cache of the latest blocks.

    The images (C, H, W) in the files, in order, have so many grey levels, and `row_checksums`,
    int64 (N,); (0,): of files that were written without.
    """

    def __init__(
        self, shards: Sequence[Shard], shape: tuple[int, ...], levels: int, checksums: Tensor
    ) -> None:
        self.shards, self.shape, self.levels = tuple(shards), shape, levels
        self.checksums = checksums
        self.row_bytes = math.prod(shape)
        self.per_block = max(1, BLOCK // self.row_bytes)
        self._starts = [0, *accumulate(shard.rows for shard in shards)]
        self._kept: OrderedDict[int, Tensor] = OrderedDict()

    def __len__(self) -> int:
        return self._starts[-1]

    def read(self, rows: Tensor) -> Tensor:
        """Read rows (n,) int64 to (n, bytes), in the order of the disk.

        Raises:
            IndexError: a row that is not there.
            UserError: a file that has changed since, or a number that is no grey level; a row
                whose checksum is not the one it was written with.
        """
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(self):
            raise IndexError(f"expected rows 0..{len(self) - 1}")
        out = torch.empty(len(rows), self.row_bytes, dtype=torch.uint8)
        blocks = rows // self.per_block
        for number in blocks.unique().tolist():
            here = (blocks == number).nonzero()[:, 0]
            out[here] = self._block(number)[rows[here] - number * self.per_block]
        return out

    def _block(self, number: int) -> Tensor:
        if number not in self._kept:
            first = number * self.per_block
            self._kept[number] = self._from_disk(first, min(first + self.per_block, len(self)))
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(number)
        return self._kept[number]

    def _from_disk(self, first: int, end: int) -> Tensor:
        """Read rows first … end-1, over the files that hold them."""
        out = torch.empty(end - first, self.row_bytes, dtype=torch.uint8)
        done = 0
        while first + done < end:
            at = bisect_right(self._starts, first + done) - 1
            count = min(end, self._starts[at + 1]) - first - done
            self._fill(out[done : done + count], self.shards[at], first + done - self._starts[at])
            done += count
        if len(self.checksums):
            wrong = (row_checksums(out) != self.checksums[first:end]).nonzero()
            if len(wrong):
                at = bisect_right(self._starts, first + int(wrong[0])) - 1
                raise UserError(
                    f"{self.shards[at].path} is damaged: the checksum of image "
                    f"{first + int(wrong[0]) - self._starts[at]} is not the one it was written "
                    "with; copy the file again"
                )
        return out

    def _fill(self, out: Tensor, shard: Shard, row: int) -> None:
        place = shard.offset + row * self.row_bytes
        try:
            got = np.fromfile(shard.path, np.uint8, out.numel(), offset=place)
        except OSError as error:
            raise UserError(f"{shard.path}: cannot be read: {error.strerror}") from error
        if got.size != out.numel():
            raise UserError(
                f"{shard.path}: expected {out.numel():,} bytes at {place:,}, got {got.size:,}; it "
                "has changed since the data set was loaded"
            )
        if self.levels < 256 and got.max() >= self.levels:
            raise UserError(
                f"{shard.path}: expected grey levels 0..{self.levels - 1}, got {got.max()}"
            )
        out.copy_(torch.from_numpy(got).view_as(out))


def row_checksums(x: Tensor) -> Tensor:
    """Return the CRC-32 of each row of x (N, ...) uint8, int64 (N,)."""
    return torch.tensor([crc32(row) for row in x.numpy()], dtype=torch.int64)


def shuffled(count: int, generator: torch.Generator, block: int | None = None) -> Tensor:
    """Return the numbers 0..count-1 in random order (count,).

    With a `block` in an order that a disk can follow: blocks of so many rows in random order, and
    rows in random order within each `GROUP` of them.
    """
    if block is None:
        return torch.randperm(count, generator=generator)
    firsts = torch.randperm(-(-count // block), generator=generator) * block
    parts = []
    for group in firsts.split(GROUP):
        rows = (group[:, None] + torch.arange(block)).flatten()
        rows = rows[rows < count]
        parts.append(rows[torch.randperm(len(rows), generator=generator)])
    return torch.cat(parts)
