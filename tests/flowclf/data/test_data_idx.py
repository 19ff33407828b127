"""The idx parser on whole and damaged files, and MNIST and Fashion-MNIST themselves."""

import gzip
import struct
from pathlib import Path

import pytest
import torch

from flowclf.data.idx import load_fashion_mnist, load_mnist, load_rotated_mnist, read_idx
from flowclf.data.rotate import random_angles, rotated
from flowclf.data.source import DataSource
from flowclf.support.errors import UserError


def idx(*shape: int, content: bytes, kind: int = 8) -> bytes:
    head = bytes((0, 0, kind, len(shape)))
    return head + struct.pack(f">{len(shape)}I", *shape) + content


WHOLE = idx(2, 2, 3, content=bytes(range(12)))
SQUASHED = gzip.compress(WHOLE, mtime=0)


@pytest.mark.parametrize(
    ("name", "content"), [("x", WHOLE), ("x.gz", SQUASHED)], ids=["plain", "gzipped"]
)
def test_reads_plain_and_gzipped(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert read_idx(path, ndim=3).tolist() == torch.arange(12).reshape(2, 2, 3).tolist()


def _small_mnist(root: Path) -> DataSource:
    """20 images of a bar and their labels, twice over."""
    bar = bytes(
        255 if row in (9, 10) and column < 20 else 0 for row in range(28) for column in range(28)
    )
    for which in ("train", "t10k"):
        images = idx(20, 28, 28, content=bar * 20)
        (root / f"{which}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
        labels = idx(20, content=bytes(range(10)) * 2)
        (root / f"{which}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    return DataSource(root, download=False)


@pytest.mark.usefixtures("_global_rng_untouched")
def test_rotated_mnist_is_always_the_same(tmp_path: Path) -> None:
    source = _small_mnist(tmp_path)
    plain, data = load_mnist(source), load_rotated_mnist(source)
    assert (data.name, data.levels, data.class_names) == ("rotated-mnist", 256, plain.class_names)
    assert (data.train.x.dtype, data.shape, len(data.notices)) == (torch.uint8, (1, 28, 28), 4)
    assert torch.equal(data.train.y, plain.train.y)
    again = load_rotated_mnist(source)
    assert torch.equal(data.train.x, again.train.x)
    assert torch.equal(data.test.x, again.test.x)
    # The same bar each time, so that what differs is the angle alone.
    images = torch.cat([data.train.x, data.test.x]).flatten(1)
    assert len({tuple(image.tolist()) for image in images}) == 40


@pytest.mark.usefixtures("_global_rng_untouched")
def test_rotated_mnist(real: Path) -> None:
    source = DataSource(real, download=False)
    plain, data = load_mnist(source), load_rotated_mnist(source)
    assert (data.train.x.shape, data.test.x.shape) == (plain.train.x.shape, plain.test.x.shape)
    assert torch.equal(data.test.y, plain.test.y)
    for split, seed in ((plain.train, 360), (plain.test, 361)):
        angles = random_angles(len(split), torch.Generator().manual_seed(seed))
        there = data.train.x if seed == 360 else data.test.x
        assert torch.equal(there[-50:], rotated(split.x[-50:], angles[-50:]).to(torch.uint8))
        back = rotated(there[:50], -angles[:50])
        assert (back - split.x[:50].float()).abs().mean() < 10


@pytest.mark.usefixtures("_global_rng_untouched")
def test_mnist(real: Path) -> None:
    data = load_mnist(DataSource(real, download=False))
    assert tuple(data.train.x.shape) == (60_000, 1, 28, 28)
    assert tuple(data.test.x.shape) == (10_000, 1, 28, 28)
    assert data.train.y[:5].tolist() == [5, 0, 4, 1, 9]
    assert data.test.y[:5].tolist() == [7, 2, 1, 0, 4]
    assert (data.train.x.dtype, data.levels, data.notices) == (torch.uint8, 256, ())


def test_fashion_mnist_from_a_root_of_its_own(real: Path) -> None:
    data = load_fashion_mnist(DataSource(real / "fashion-mnist", download=False))
    assert (len(data.train), len(data.test), data.class_names[9]) == (60_000, 10_000, "Ankle boot")
    assert data.train.y[:3].tolist() == [9, 0, 0]
    assert torch.bincount(data.train.y).tolist() == [6_000] * 10


def test_mnist_does_not_take_fashion_mnist_for_its_own(real: Path) -> None:
    with pytest.raises(UserError, match="found no such file"):
        load_mnist(DataSource(real / "fashion-mnist", download=False))
