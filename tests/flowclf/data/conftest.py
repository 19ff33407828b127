"""No test here reads the user's cache or the network; real data come from $FLOWCLF_DATA."""

import gzip
import io
import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flowclf.data import DATASETS, Dataset, load_dataset

_REAL = os.environ.get("FLOWCLF_DATA")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "user-cache"
    monkeypatch.delenv("FLOWCLF_DATA", raising=False)
    monkeypatch.setattr("flowclf.data.source.user_cache", lambda: folder)
    return folder


@pytest.fixture
def real() -> Path:
    if not _REAL:
        pytest.skip("FLOWCLF_DATA is not set: no real data")
    return Path(_REAL)


@pytest.fixture
def _global_rng_untouched() -> Iterator[None]:
    before = torch.get_rng_state()
    yield
    assert torch.equal(torch.get_rng_state(), before)


Files = dict[str, bytes]


@pytest.fixture(scope="session")
def valid() -> dict[str, Files]:
    """Of each source of data small files that load: places below a data root to contents."""
    archive = {f"cifar-10-batches-bin/{name}": batch for name, batch in _batches(_records).items()}
    pickles = {f"cifar-10-batches-py/{n}": b for n, b in _batches(_pickled, ending="").items()}
    return {
        "mnist": _idx_files(),
        "cifar10": archive,
        "cifar10 py": pickles,
        "cifar10 tar": {"cifar-10-binary.tar.gz": _tar_gz(archive)},
        "omniglot": _omniglot_files(),
        "x.npz": {"x.npz": _saved(np.savez)},
        "packed.npz": {"packed.npz": _saved(np.savez_compressed)},
        "x.csv": {"x.csv": b"label,text\n" + b"b,red red green\na,blue\n" * 5},
        "png": {f"png/{name}": _picture(name, "PNG") for name in _TREE},
        "jpg": {f"jpg/{name}.jpg": _picture(name, "JPEG") for name in _TREE},
        "bmp": {f"bmp/{name}.bmp": _picture(name, "BMP") for name in _TREE},
    }


@pytest.fixture
def read(tmp_path: Path) -> Callable[[str], Dataset]:
    """What is in `tmp_path`, by a name of `valid`, as a user would load it."""

    def load(source: str) -> Dataset:
        name = source.partition(" ")[0]
        known = name in DATASETS
        return load_dataset(name if known else str(tmp_path / name), tmp_path, download=False)

    return load


@pytest.fixture
def lay(tmp_path: Path, valid: dict[str, Files]) -> Callable[[str], Path]:
    """Write the files of a name of `valid` into `tmp_path`."""

    def write(source: str) -> Path:
        for name, content in valid[source].items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(content)
        return tmp_path

    return write


def _idx_files() -> Files:
    images = b"\0\0\x08\3" + struct.pack(">3I", 20, 28, 28) + bytes(range(98)) * 160
    labels = b"\0\0\x08\1" + struct.pack(">I", 20) + bytes(range(10)) * 2
    parts = {"images-idx3": gzip.compress(images, mtime=0), "labels-idx1": labels}
    return {
        f"mnist/{part}-{kind}-ubyte{'.gz' if 'images' in kind else ''}": content
        for part in ("train", "t10k")
        for kind, content in parts.items()
    }


def _batches(make: Callable[[], bytes], ending: str = ".bin") -> Files:
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    return {name + ending: make() for name in names}


def _records() -> bytes:
    return b"".join(bytes([label]) * (1 + 3072) for label in range(10))


def _pickled() -> bytes:
    pixels = np.frombuffer(_records(), np.uint8).reshape(10, -1)[:, 1:]
    return pickle.dumps({"data": pixels.copy(), "labels": list(range(10))}, protocol=2)


def _tar_gz(files: Files) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def _omniglot_files() -> Files:
    found = {}
    for part, alphabets in (("background", range(30)), ("evaluation", range(30, 50))):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            for a, drawer in product(alphabets, (1, 16)):
                name = f"images_{part}/A{a:02d}/character01/0001_{drawer:02d}.png"
                archive.writestr(name, _picture("", "PNG", (105, 105)))
        found[f"omniglot/images_{part}.zip"] = stream.getvalue()
    return found


def _saved(save: Callable[..., None]) -> bytes:
    stream, y = io.BytesIO(), np.arange(6) % 2
    x = np.arange(6 * 12, dtype=np.uint8).reshape(6, 4, 3)
    save(stream, x_train=x, y_train=y, x_test=x[:2], y_test=y[:2])
    return stream.getvalue()


_TREE = [f"{part}/{name}/1.png" for part in ("train", "test") for name in ("ant", "cat")]


def _picture(name: str, form: str, size: tuple[int, int] = (6, 4)) -> bytes:
    stream = io.BytesIO()
    Image.new("L", size, len(name)).save(stream, form)
    return stream.getvalue()
