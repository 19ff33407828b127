"""A folder of images in shards: plain .npy files and an index."""

from collections.abc import Iterable, Sequence
from functools import partial
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, ValidationError
from torch import Tensor

from flowclf.data.dataset import Dataset, Split, validate
from flowclf.data.npz import read_header
from flowclf.data.streamed import Reader, Shard, Shards, row_checksums
from flowclf.settings import Positive, Section
from flowclf.support.atomic_files import check_new, write_json, write_whole
from flowclf.support.errors import UserError
from flowclf.support.parse import read_json
from flowclf.support.safetensors import digest

__all__ = ["is_sharded", "load_shards", "write_shards"]

INDEX = "shards.json"
REMEDY = "write the folder again with flowclf.data.write_shards"

Array = Tensor | npt.NDArray[Any]
Chunks = Iterable[tuple[Array, Array]]


class Index(Section):
    """Content of shards.json: the names of the files follow from their number."""

    version: Literal[1] = 1
    shape: tuple[Positive, Positive, Positive]
    levels: Annotated[int, Field(ge=2, le=256)] = 256
    class_names: tuple[str, ...]
    train: Annotated[tuple[Positive, ...], Field(min_length=1)]  # rows of each shard
    test: Annotated[tuple[Positive, ...], Field(min_length=1)]
    # Of checksums and labels: sha256 by part; None: of a folder that was written without.
    sha256: dict[str, str] | None = None


def write_shards(
    folder: Path | str,
    train: Chunks,
    test: Chunks,
    class_names: Sequence[str] | None = None,
    levels: int = 256,
) -> Path:
    """Write images that need never be in memory together; `--data FOLDER` reads them.

        FOLDER/shards.json, FOLDER/train/x_00000.npy, y_00000.npy, x_00001.npy …, FOLDER/test/…

    The files are numpy's; the index is written last, so that what was interrupted is no data set.
    c_00000.npy holds the CRC-32 of each image, which is compared when the image is read.
    Training shuffles within 40 MiB of blocks from all over the set: samples of one class that lie
    together by more than that come together, so write them in random order.

    Args:
        folder: new or empty.
        train, test: chunks of x (n, C, H, W) uint8 and labels y (n,), integers 0..K-1 and in train
            -1 for none; each becomes a shard: some hundred megabytes are good.
        class_names: K names; None: the numbers of the classes in train.
        levels: grey levels.

    Raises:
        UserError: a folder that holds something, or a chunk of another kind or shape.
    """
    folder = Path(folder)
    check_new(folder)
    shapes: set[tuple[int, ...]] = set()
    counts: dict[str, list[int]] = {}
    largest, digests = 0, dict[str, str]()
    for name, chunks in (("train", train), ("test", test)):
        counts[name] = []
        written: dict[str, Tensor] = {}
        for number, (x, y) in enumerate(chunks):
            pixels, labels = _checked(torch.as_tensor(x), torch.as_tensor(y), shapes)
            sums = row_checksums(pixels)
            arrays = zip(_files(folder / name, number), (pixels, labels, sums), strict=True)
            for path, array in arrays:
                write_whole(path, partial(np.save, arr=array.numpy(), allow_pickle=False))
            written |= {f"{number}.y": labels, f"{number}.c": sums}
            counts[name].append(len(pixels))
            largest = max(largest, int(labels.max()))
        digests[name] = digest(written)
    names = class_names or [str(k) for k in range(largest + 1)]
    own: dict[str, Any] = {"class_names": tuple(names), "sha256": digests}
    try:
        index = Index(shape=shapes.pop(), levels=levels, **own, **counts)  # type: ignore[arg-type]
    except (KeyError, ValidationError):
        raise UserError(
            "expected at least one chunk of images in train and in test, and 2 to 256 levels"
        ) from None
    write_json(folder / INDEX, index.model_dump(mode="json"))
    return folder


def is_sharded(folder: Path) -> bool:
    """Return True if `write_shards` wrote the folder to its end."""
    return (folder / INDEX).is_file()


def load_shards(folder: Path) -> Dataset:
    """Load a data set whose images stay in their files if there are many, see `Shards`.

    Raises:
        UserError: an index that is damaged, a file that is missing or not as the index says, or
            labels as in `validate`.
    """
    where = folder / INDEX
    try:
        index = Index.model_validate(read_json(where))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UserError(f"{where}: {place}: {first['msg'].lower()}; {REMEDY}") from None
    train, test = (_split(folder / name, index) for name in ("train", "test"))
    return validate(Dataset(folder.name, train, test, index.class_names, index.levels), folder)


def _split(folder: Path, index: Index) -> Split:
    shards, read = [], dict[str, Tensor]()
    for number, rows in enumerate(getattr(index, folder.name)):
        x, y, c = _files(folder, number)
        shards.append(Shard(x, rows, _offset(x, (rows, *index.shape), np.dtype(np.uint8))))
        for path in (y, c) if index.sha256 else (y,):
            offset = _offset(path, (rows,), np.dtype("<i8"))
            numbers = np.fromfile(path, "<i8", rows, offset=offset)
            read[f"{number}.{path.name[0]}"] = torch.from_numpy(numbers)
    if index.sha256 and digest(read) != index.sha256.get(folder.name):
        raise UserError(
            f"{folder}: labels or checksums are damaged: their sha256 is not the one in {INDEX}; "
            f"copy the folder again, or {REMEDY}"
        )
    labels = torch.cat([read[f"{number}.y"] for number in range(len(shards))])
    sums = [read[f"{number}.c"] for number in range(len(shards)) if index.sha256]
    checksums = torch.cat(sums) if sums else torch.empty(0, dtype=torch.int64)
    images = Shards(Reader(shards, index.shape, index.levels, checksums))
    return Split(images.part(slice(None)), labels)


def _files(folder: Path, number: int) -> tuple[Path, Path, Path]:
    """Return the files of images, labels and checksums."""
    x, y, c = (folder / f"{kind}_{number:05}.npy" for kind in "xyc")
    return x, y, c


def _offset(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """Return the offset of the numbers in an intact file of that shape and type."""
    if not path.is_file():
        raise UserError(f"{path}: expected a file, as {INDEX} says, got none; {REMEDY}")
    with path.open("rb") as stream:
        got = read_header(stream, str(path), REMEDY)
        offset = stream.tell()
    if got != (shape, False, dtype):
        raise UserError(
            f"{path}: expected {dtype} of shape {shape} in C order, as {INDEX} says, got "
            f"{got[2]} of shape {got[0]}{' in Fortran order' * got[1]}; {REMEDY}"
        )
    expected, size = offset + prod(shape) * dtype.itemsize, path.stat().st_size
    if size != expected:
        raise UserError(f"{path}: expected {expected:,} bytes, got {size:,}; {REMEDY}")
    return offset


def _checked(x: Tensor, y: Tensor, shapes: set[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
    """Return contiguous pixels and int64 labels; the first shape binds the others."""
    shapes.add(tuple(x.shape[1:]))
    if x.dtype != torch.uint8 or x.ndim != 4 or len(shapes) > 1 or x.numel() == 0:
        raise UserError(
            f"expected chunks of uint8 images (n, C, H, W) of one size, got {x.dtype} "
            f"{tuple(x.shape)}"
        )
    if y.shape != x.shape[:1] or y.is_floating_point() or y.is_complex():
        raise UserError(
            f"expected {len(x)} whole numbers as labels, got {y.dtype} {tuple(y.shape)}"
        )
    return x.contiguous(), y.long()
