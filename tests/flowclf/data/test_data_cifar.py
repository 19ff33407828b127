"""CIFAR in all its published forms, made small; its pickles are read, and none of them is run."""

import io
import pickle
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from flowclf.config import make_config
from flowclf.data.cifar import (
    CIFAR10_NAMES,
    CIFAR100_NAMES,
    find_cifar10,
    load_cifar10,
    load_cifar100,
)
from flowclf.data.dataset import Dataset
from flowclf.data.outliers import load_outliers
from flowclf.data.pickled import read_pickled_batch
from flowclf.data.source import DataSource
from flowclf.support.errors import UserError
from flowclf.training.setup import splits


def _pixels(rows: int, seed: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (rows, 3072), dtype=np.uint8)


def _records(pixels: npt.NDArray[np.uint8], coarse: bool = False) -> bytes:
    labels = np.arange(len(pixels), dtype=np.uint8)[:, None]
    extra = [np.full_like(labels, 77)] if coarse else []
    return np.hstack([*extra, labels, pixels]).tobytes()


def _binary_files(batches: int) -> dict[str, bytes]:
    files = {f"data_batch_{i + 1}.bin": _records(_pixels(10, seed=i)) for i in range(batches)}
    return files | {"test_batch.bin": _records(_pixels(10, seed=9))}


def _pickled_files(batches: int) -> dict[str, bytes]:
    seeds = {f"data_batch_{i + 1}": i for i in range(batches)} | {"test_batch": 9}
    made = {n: {"data": _pixels(10, s), "labels": list(range(10))} for n, s in seeds.items()}
    return {name: pickle.dumps(batch, protocol=2) for name, batch in made.items()}


def _write(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def _tar(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def _source(root: Path) -> DataSource:
    return DataSource(root, download=False)


def _lay_out(form: str, root: Path, batches: int) -> None:
    binary, pickled = _binary_files(batches), _pickled_files(batches)
    if form == "bin":
        _write(root / "cifar-10-batches-bin", binary)
    elif form == "bin flat":
        _write(root, binary)
    elif form == "py":
        _write(root / "cifar-10-batches-py", pickled)
    elif form == "bin.tar.gz":
        inside = {f"cifar-10-batches-bin/{n}": c for n, c in binary.items()}
        _tar(root / "cifar-10-binary.tar.gz", inside | {"../outside": b"!", "/etc/x": b"!"})
    else:
        inside = {f"./cifar-10-batches-py/{n}": c for n, c in pickled.items()}
        _tar(root / "cifar-10-python.tar.gz", inside)


@pytest.mark.parametrize("form", ["bin", "bin flat", "py", "bin.tar.gz", "py.tar.gz"])
@pytest.mark.usefixtures("_global_rng_untouched")
def test_every_form_holds_the_same(tmp_path: Path, form: str) -> None:
    _lay_out(form, tmp_path, batches=5)
    data = load_cifar10(_source(tmp_path))
    wanted = np.concatenate([_pixels(10, seed=i) for i in range(5)]).reshape(-1, 3, 32, 32)
    assert np.array_equal(data.train.x.numpy(), wanted)
    assert np.array_equal(data.test.x.numpy().reshape(-1, 3072), _pixels(10, seed=9))
    assert data.train.y.tolist() == list(range(10)) * 5
    assert "expected 50,000 training images, found 50" in data.notices
    assert find_cifar10(_source(tmp_path)) is not None


def test_a_part_of_the_batches_is_accepted_with_a_notice(tmp_path: Path) -> None:
    _lay_out("bin", tmp_path, batches=3)
    data = load_cifar10(_source(tmp_path))
    assert data.notices[0] == "3 of 5 training batches found: 30 images"
    assert len(data.train) == 30


@pytest.mark.parametrize("form", ["binary", "python"])
def test_cifar100_uses_the_fine_label(tmp_path: Path, form: str) -> None:
    batch = {"data": _pixels(100, 0), "fine_labels": list(range(100)), "coarse_labels": [0] * 100}
    content, ending = pickle.dumps(batch, protocol=2), ""
    if form == "binary":
        content, ending = _records(_pixels(100, seed=0), coarse=True), ".bin"
    files = {f"{part}{ending}": content for part in ("train", "test")}
    _write(tmp_path / f"cifar-100-{form}", files)
    data = load_cifar100(_source(tmp_path))
    assert data.train.y.tolist() == list(range(100))
    assert data.classes == len(set(CIFAR100_NAMES)) == 100
    assert list(CIFAR100_NAMES) == sorted(CIFAR100_NAMES)
    assert len(CIFAR10_NAMES) == 10


def test_the_test_set_alone_is_there_to_compare_with(tmp_path: Path) -> None:
    test = _records(_pixels(100, seed=0), coarse=True)
    _write(tmp_path / "cifar-100-binary", {"test.bin": test})
    data = load_cifar100(_source(tmp_path))
    assert (len(data.train), len(data.test), data.shape) == (0, 100, (3, 32, 32))
    assert data.notices[-1] == "no training batch found: its test images alone"
    like = Dataset("cifar10", data.test, data.test, ("a", "b"), 256)
    assert torch.equal(load_outliers("cifar100", like, data_dir=tmp_path).x, data.test.x)
    config = make_config("ib-inn", "cifar100", data.shape)
    with pytest.raises(UserError, match="training samples in cifar100, got none; its test"):
        splits(config, data)
    # A folder with training batches goes before one without.
    pixels = pickle.dumps({"data": _pixels(100, 1), "fine_labels": list(range(100))}, protocol=2)
    _write(tmp_path / "cifar-100-python", {"train": pixels, "test": pixels})
    assert len(load_cifar100(_source(tmp_path)).train) == 100


def test_cifar10(real: Path) -> None:
    data = load_cifar10(_source(real))
    assert data.shape == (3, 32, 32)
    assert len(data.train) % 10_000 == 0
    assert torch.bincount(data.test.y).tolist() == [1_000] * 10
    if len(data.train) < 50_000:
        assert "of 5 training batches found" in data.notices[-1]


@pytest.mark.parametrize("file", ["data_batch_3.bin", "test_batch.bin"])
def test_a_flipped_bit_or_another_order_of_cifar10(real: Path, tmp_path: Path, file: str) -> None:
    for path in (real / "cifar-10-batches-bin").glob("*.bin"):
        (tmp_path / path.name).symlink_to(path)
    records = np.fromfile(tmp_path / file, np.uint8).reshape(-1, 3073)
    (tmp_path / file).unlink()
    records[::-1].tofile(tmp_path / file)
    assert load_cifar10(_source(tmp_path)).notices == ()
    for place in (0, 1729):  # a label, a pixel
        records[4321, place] ^= 1
        records.tofile(tmp_path / file)
        which = "test" if file == "test_batch.bin" else "training"
        (notice,) = load_cifar10(_source(tmp_path)).notices
        assert notice.startswith(f"{which} images or labels differ from the published")
        records[4321, place] ^= 1


PIXELS = np.arange(2 * 3072, dtype=np.uint32).astype(np.uint8).reshape(2, 3072)
BATCH: dict[str, Any] = {"data": PIXELS, "labels": [3, 1], "filenames": ["a.png", "b.png"]}
MODERN = pickle.dumps(BATCH, protocol=2)


def _string(text: bytes) -> bytes:
    return b"T" + struct.pack("<i", len(text)) + text


def _python2_batch() -> bytes:
    """As Python 2 and its numpy wrote the official files: byte strings all through."""
    dtype = b"cnumpy\ndtype\n(" + _string(b"u1") + b"K\0K\1tR"
    dtype += b"(K\3" + _string(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85" + _string(b"b")
    array += b"\x87R(K\1K\2M\0\x0c\x86" + dtype + b"\x89" + _string(PIXELS.tobytes()) + b"tb"
    return b"\x80\2}(" + _string(b"data") + array + _string(b"labels") + b"](K\3K\1eu."


FORMS = {
    "today's numpy": MODERN,
    "old numpy": MODERN.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"),
    "Python 2": _python2_batch(),
    "columns first": pickle.dumps(BATCH | {"data": np.asfortranarray(PIXELS)}, protocol=2),
}


@pytest.mark.parametrize("form", FORMS)
def test_reads_what_numpy_wrote(form: str) -> None:
    pixels, labels = read_pickled_batch(FORMS[form], "batch")
    assert np.array_equal(pixels, PIXELS)
    assert labels.tolist() == [3, 1]


def test_the_python_2_form_is_one() -> None:
    """numpy itself understands what we assembled by hand."""
    content = _python2_batch().replace(b"numpy.core.multiarray", b"numpy._core.multiarray")
    loaded = pickle.load(io.BytesIO(content), encoding="latin1")
    assert np.array_equal(loaded["data"], PIXELS)


class _Attack:
    def __init__(self, call: Callable[..., object], argument: object) -> None:
        self.reduced = call, (argument,)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_malicious_pickle_does_not_run(tmp_path: Path, protocol: int) -> None:
    target = tmp_path / "executed"
    for attack, message in (
        (BATCH | {"labels": _Attack(Path.touch, target)}, "asks for .*do not trust this file"),
        (_Attack(eval, "1/0"), r"asks for '(__builtin__|builtins)\.eval'"),
    ):
        with pytest.raises(UserError, match=message):
            read_pickled_batch(pickle.dumps(attack, protocol=protocol), "batch")
    assert not target.exists()


DAMAGED = {
    "text": b"hello",
    "list": pickle.dumps([1, 2]),
    "no labels": pickle.dumps({"data": PIXELS}, protocol=2),
    "floats": pickle.dumps(BATCH | {"data": PIXELS.astype(float)}, protocol=2),
    "wrong width": pickle.dumps(BATCH | {"data": PIXELS[:, :9]}, protocol=2),
    "words as labels": pickle.dumps(BATCH | {"labels": ["a", "b"]}, protocol=2),
    "objects": pickle.dumps(BATCH | {"data": np.array([[None]], dtype=object)}, protocol=2),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_batch_is_one_clear_line(case: str) -> None:
    with pytest.raises(UserError, match="^batch: expected .*; fetch the official") as caught:
        read_pickled_batch(DAMAGED[case], "batch")
    assert "\n" not in str(caught.value)
