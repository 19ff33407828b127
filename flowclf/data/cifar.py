"""CIFAR-10 and CIFAR-100: binary or Python batches, unpacked or in the official archives."""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch

from flowclf.data.archive import MOST_BYTES, read_members
from flowclf.data.catalog import FILES, OfficialFile
from flowclf.data.dataset import Dataset, Split, check_labels, validate
from flowclf.data.pickled import read_pickled_batch
from flowclf.data.source import DataSource, find_in
from flowclf.support.errors import UserError

__all__ = [
    "content_checksum",
    "find_cifar10",
    "find_cifar100",
    "load_cifar10",
    "load_cifar100",
    "read_records",
]

_PIXELS = 3 * 32 * 32
# Class names in the order of their labels.
CIFAR10_NAMES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
CIFAR100_NAMES = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle",
    "bottle", "bowl", "boy", "bridge", "bus", "butterfly", "camel", "can", "castle",
    "caterpillar", "cattle", "chair", "chimpanzee", "clock", "cloud", "cockroach", "couch",
    "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish", "forest", "fox",
    "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion",
    "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom",
    "oak_tree", "orange", "orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree",
    "plain", "plate", "poppy", "porcupine", "possum", "rabbit", "raccoon", "ray", "road",
    "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper", "snail", "snake",
    "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank",
    "telephone", "television", "tiger", "tractor", "train", "trout", "tulip", "turtle",
    "wardrobe", "whale", "willow_tree", "wolf", "woman", "worm",
)  # fmt: skip


@dataclass(frozen=True)
class _Form:
    """One published form of the data; `label_bytes` is None for pickles."""

    folder: str
    train: tuple[str, ...]
    test: str
    label_bytes: int | None
    classes: int

    @property
    def archive(self) -> OfficialFile:
        return FILES[self.folder][0]

    def parse(self, content: bytes, where: str) -> Split:
        if self.label_bytes is None:
            split = _to_split(*read_pickled_batch(content, where))
        else:
            split = read_records(content, self.label_bytes, where)
        check_labels(split.y, self.classes, where)
        return split


_BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
_BIN = tuple(f"{name}.bin" for name in _BATCHES)
_CIFAR10 = (
    _Form("cifar-10-batches-bin", _BIN, "test_batch.bin", label_bytes=1, classes=10),
    _Form("cifar-10-batches-py", _BATCHES, "test_batch", label_bytes=None, classes=10),
)
_CIFAR100 = (
    _Form("cifar-100-binary", ("train.bin",), "test.bin", label_bytes=2, classes=100),
    _Form("cifar-100-python", ("train",), "test", label_bytes=None, classes=100),
)
# Of the published splits, see `content_checksum`, by data set and size.
_PUBLISHED = {
    ("cifar10", 50_000): "e5ff232bf34b19e4",
    ("cifar10", 10_000): "cbedc5f1f3a8dd44",
    ("cifar100", 10_000): "ba09dde9fd5d9853",
}


def load_cifar10(source: DataSource) -> Dataset:
    """Load CIFAR-10: 50,000 and 10,000 images (3, 32, 32); some train batches may be missing."""
    return _load("cifar10", _CIFAR10, CIFAR10_NAMES, source)


def load_cifar100(source: DataSource) -> Dataset:
    """Load CIFAR-100 with its 100 fine labels: 50,000 and 10,000 images (3, 32, 32).

    A folder with the test batch alone gives an empty training set: images to compare with.
    """
    return _load("cifar100", _CIFAR100, CIFAR100_NAMES, source)


def find_cifar10(source: DataSource) -> Path | None:
    """Return the folder or archive that `load_cifar10` would read, or None."""
    place = _find(_CIFAR10, source)
    return place.path if place else None


def find_cifar100(source: DataSource) -> Path | None:
    """Return the folder or archive that `load_cifar100` would read, or None."""
    place = _find(_CIFAR100, source)
    return place.path if place else None


@dataclass(frozen=True)
class _Place:
    """Location of one form: a folder of batches, or an archive."""

    form: _Form
    path: Path
    notices: tuple[str, ...] = ()

    def batches(self) -> Iterator[tuple[str, bytes]]:
        form = self.form
        if self.path.is_dir():
            return _read_folder(self.path, form)
        members = {f"{form.folder}/{name}": name for name in (*form.train, form.test)}
        return ((members[name], data) for name, data in read_members(self.path, members))


def _find(forms: tuple[_Form, ...], source: DataSource) -> _Place | None:
    for root in source.roots():
        tests = [
            _Place(form, folder)
            for form in forms
            for folder in (root / form.folder, root)
            if (folder / form.test).is_file()
        ]
        for place in tests:
            if any((place.path / name).is_file() for name in place.form.train):
                return place
        for form in forms:
            if found := find_in(root, form.folder, form.archive):
                return _Place(form, found.path, found.notices)
        if tests:
            return tests[0]
    return None


def _load(
    name: str, forms: tuple[_Form, ...], class_names: tuple[str, ...], source: DataSource
) -> Dataset:
    place = _find(forms, source)
    if place is None:
        found = source.fetch(forms[0].folder, forms[0].archive)
        place = _Place(forms[0], found.path, found.notices)
    form, notices = place.form, place.notices
    parts = {batch: form.parse(data, f"{place.path}: {batch}") for batch, data in place.batches()}
    batches = [parts[batch] for batch in form.train if batch in parts]
    if form.test in parts and not batches:
        test = parts[form.test]
        notices += ("no training batch found: its test images alone", *_changed(name, test, "test"))
        return Dataset(name, test.take(slice(0)), test, class_names, 256, notices)
    if form.test not in parts:
        raise UserError(
            f"{place.path}: expected {form.test} and {form.train[0]} in it, got "
            f"{', '.join(parts) or 'neither'}; fetch the official archive"
        )
    train = Split(torch.cat([part.x for part in batches]), torch.cat([part.y for part in batches]))
    test, count, total = parts[form.test], len(batches), len(form.train)
    if count < total:
        notices += (f"{count} of {total} training batches found: {len(train):,} images",)
    elif len(train) != 50_000:
        notices += (f"expected 50,000 training images, found {len(train):,}",)
    if len(test) != 10_000:
        notices += (f"expected 10,000 test images, found {len(test):,}",)
    notices += (*_changed(name, train, "training"), *_changed(name, test, "test"))
    return validate(Dataset(name, train, test, class_names, 256, notices), place.path)


def content_checksum(split: Split) -> str:
    """Compute a checksum of images and labels that is the same in every form and order.

    It is the sum, modulo 2⁶⁴, of the first eight bytes of each record's sha256; a record is the
    label, one byte, and the RGB planes.
    """
    pixels = split.x.numpy().reshape(len(split), -1)
    records = np.hstack([split.y.numpy().astype(np.uint8)[:, None], pixels])
    digests = b"".join(sha256(record.data).digest()[:8] for record in records)
    return f"{np.frombuffer(digests, '<u8').sum(dtype=np.uint64):016x}"


def _changed(name: str, split: Split, which: str) -> Iterator[str]:
    """Yield a notice if a split of the published size has not the published content."""
    published = _PUBLISHED.get((name, len(split)))
    if published and content_checksum(split) != published:
        what = f"{which} images or labels"
        yield f"{what} differ from the published ones (checksum), read as they are"


def _read_folder(folder: Path, form: _Form) -> Iterator[tuple[str, bytes]]:
    for name in (*form.train, form.test):
        path = folder / name
        if path.is_file():
            size = path.stat().st_size
            if size > MOST_BYTES:
                raise UserError(
                    f"{path}: expected a CIFAR batch of at most {MOST_BYTES:,} bytes, got {size:,};"
                    " fetch the official file"
                )
            yield name, path.read_bytes()


def read_records(content: bytes, label_bytes: int, where: str) -> Split:
    """Read records of `label_bytes` labels (the last counts) and 3072 bytes of RGB planes.

    Raises:
        UserError: the content is not a whole, positive number of records.
    """
    record = label_bytes + _PIXELS
    if not content or len(content) % record:
        raise UserError(
            f"{where}: expected a whole number of {record}-byte records, got {len(content):,} "
            f"bytes ({len(content) % record} left over); fetch it again"
        )
    table = np.frombuffer(content, dtype=np.uint8).reshape(-1, record)
    return _to_split(table[:, label_bytes:], table[:, label_bytes - 1].astype(np.int64))


def _to_split(pixels: np.ndarray, labels: np.ndarray) -> Split:
    images = torch.from_numpy(pixels.reshape(-1, 3, 32, 32).copy())
    return Split(images, torch.from_numpy(labels))
