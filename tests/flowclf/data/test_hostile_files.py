"""Damaged and lying files of every kind: each is refused in one line, and none is read in part."""

import gzip
import io
import os
import pickle
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flowclf.data import Dataset
from flowclf.data.corruptions import OFFICIAL_ROWS, load_official
from flowclf.data.outliers import load_outliers
from flowclf.support.errors import UserError

Damage = Callable[[Path], object]
Edit = Callable[[bytes], bytes]
Members = list[tuple[str, bytes]]


def edited(name: str, edit: Edit) -> Damage:
    """Other content of a file."""
    return lambda root: (root / name).write_bytes(edit((root / name).read_bytes()))


def repacked(name: str, edit: Edit) -> Damage:
    """Other content inside of a gzip file that is itself intact."""
    return edited(name, lambda squashed: gzip.compress(edit(gzip.decompress(squashed)), mtime=0))


def rezipped(name: str, change: Callable[[Members], Members]) -> Damage:
    """Other members of a zip that is itself intact."""

    def damage(root: Path) -> None:
        with zipfile.ZipFile(root / name) as archive:
            old = [(info.filename, archive.read(info)) for info in archive.infolist()]
        with warnings.catch_warnings(), zipfile.ZipFile(root / name, "w") as archive:
            warnings.simplefilter("ignore")  # of a name that is there twice
            for each, content in change(old):
                archive.writestr(each, content)

    return damage


def first(edit: Edit) -> Callable[[Members], Members]:
    """Other content of the first member."""
    return lambda members: [(members[0][0], edit(members[0][1])), *members[1:]]


def replaced(name: str, make: Damage) -> Damage:
    """A file's place taken by what `make` puts there."""

    def damage(root: Path) -> None:
        (root / name).unlink(missing_ok=True)
        make(root / name)

    return damage


def both(*damages: Damage) -> Damage:
    return lambda root: [damage(root) for damage in damages]


def renamed(old: str, new: str) -> Damage:
    return lambda root: os.rename(root / old, os.path.join(root, new))


def cut(end: int) -> Edit:
    return lambda content: content[:end]


def more(tail: bytes) -> Edit:
    return lambda content: content + tail


def at(position: int, new: bytes) -> Edit:
    """Other bytes from a position, which may be counted from the end."""

    def edit(old: bytes) -> bytes:
        start = position % len(old)
        return old[:start] + new + old[start + len(new) :]

    return edit


def only(content: bytes) -> Edit:
    return lambda _: content


def shaped(shape: str) -> Edit:
    """An .npy file that claims another shape."""

    def edit(content: bytes) -> bytes:
        head = content[10:128].replace(b"(6, 4, 3)", shape.encode()).rstrip()
        return content[:10] + head.ljust(117) + b"\n" + content[128:]

    return edit


def header_alone(width: int, height: int) -> bytes:
    """A PNG file that claims its size, and has no pixels."""
    chunks = ((b"IHDR", struct.pack(">II5B", width, height, 8, 2, 0, 0, 0)), (b"IDAT", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def picture(size: tuple[int, int], mode: str = "L", form: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size).save(stream, form)
    return stream.getvalue()


def arrays(**changes: Any) -> Damage:
    """x.npz with other arrays; without those that are None."""

    def damage(root: Path) -> None:
        with np.load(root / "x.npz") as found:
            new = dict(found) | changes
        np.savez(root / "x.npz", **{name: a for name, a in new.items() if a is not None})

    return damage


def table(value: float, x_test: float = 0.0) -> Damage:
    return arrays(x_train=np.full((6, 2), value), x_test=np.full((2, 2), x_test))


def labelled(labels: list[Any]) -> Edit:
    """A pickled batch with other labels."""
    return lambda content: pickle.dumps(pickle.loads(content) | {"labels": labels}, protocol=2)


def no_class_zero(root: Path) -> None:
    for batch in (root / "cifar-10-batches-bin").iterdir():
        batch.write_bytes(at(0, b"\1")(batch.read_bytes()))


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def dangling(path: Path) -> None:
    path.symlink_to("nothing")


def absent(path: Path) -> None:
    pass


IMAGES, LABELS = "mnist/train-images-idx3-ubyte.gz", "mnist/train-labels-idx1-ubyte"
BIN, TEST_BIN = "cifar-10-batches-bin/data_batch_2.bin", "cifar-10-batches-bin/test_batch.bin"
BATCH, TAR = "cifar-10-batches-py/data_batch_2", "cifar-10-binary.tar.gz"
ZIP, NPZ, CSV = "omniglot/images_background.zip", "x.npz", "x.csv"
DRAWING = "images_background/A00/character01/0001_{}.png"
PNG, JPG, NEW = "png/train/cat/1.png", "jpg/train/cat/1.png.jpg", "png/train/cat/2.png"
WEIRD = "png/train/cat/a\nb\x1b[2J.png"
Y = np.array([0, 1, 0, 1, 0, 1])

# By what is loaded: what was done to it before, and what the message must say.
CASES: dict[str, dict[str, tuple[Damage, str]]] = {
    "mnist": {
        "zero length": (edited(LABELS, cut(0)), "train-labels.*got magic nothing"),
        "cut in its magic": (edited(LABELS, cut(3)), "train-labels.*got magic 000008;"),
        "cut in its header": (
            edited(LABELS, cut(7)),
            "train-labels.*expected 1 dim.*, got the end of file",
        ),
        "cut in its content": (
            edited(LABELS, cut(-9)),
            "train-labels.*20 bytes.*got a file too short",
        ),
        "trailing bytes": (
            edited(LABELS, more(b"!")),
            "labels.*expected 20 bytes after the header, got more",
        ),
        "claims more": (edited(LABELS, at(7, b"\x1b")), "train-labels.*27 bytes"),
        "claims fewer": (edited(LABELS, at(7, b"\x13")), "train-labels.*got more"),
        "claims 2³²-1": (edited(LABELS, at(4, b"\xff" * 4)), "train-labels.*4,294,967,295"),
        "claims none": (edited(LABELS, at(4, bytes(4))), "train-labels.*empty array"),
        "floats": (edited(LABELS, at(2, b"\x0d")), "labels.*unsigned bytes.*magic 00000d01"),
        "label 200": (edited(LABELS, at(9, b"\xc8")), r"train-labels.*0\.\.9, got 200"),
        "lacks a label": (
            both(edited(LABELS, at(7, b"\x13")), edited(LABELS, cut(-1))),
            "train-labels.*20 images and 19 labels",
        ),
        "labels as images": (
            edited(IMAGES, only(gzip.compress(b"\0\0\x08\1\0\0\0\1!"))),
            "train-images.*3 dimensions.*magic 00000801",
        ),
        "other sides": (
            repacked(IMAGES, at(8, struct.pack(">2I", 14, 56))),
            "train-images.*28×28.*14×56",
        ),
        "gz cut in half": (edited(IMAGES, cut(60)), "train-images.*intact gzip.*EOFError"),
        "gz of zero length": (edited(IMAGES, cut(0)), "train-images.*got"),
        "gz with a bad checksum": (edited(IMAGES, at(-8, b"!!")), "train-images.*BadGzipFile"),
        "gz with trailing bytes": (edited(IMAGES, more(b"!")), "train-images.*BadGzipFile"),
        "gz with another behind it": (
            edited(IMAGES, more(gzip.compress(b"!"))),
            "train-images.*got more",
        ),
        "gz that is none": (edited(IMAGES, gzip.decompress), "train-images.*BadGzipFile"),
        "folder": (replaced(LABELS, Path.mkdir), "train-labels.*no such file"),
        "loop of links": (replaced(LABELS, loop), "train-labels.*no such file"),
    },
    "x.npz": {
        "zero length": (edited(NPZ, cut(0)), "x.npz: expected an intact .npz"),
        "cut in half": (edited(NPZ, cut(700)), "x.npz: expected an intact .npz"),
        "lost its end": (edited(NPZ, cut(-5)), "x.npz: expected an intact .npz, got BadZipFile"),
        "flipped bit": (edited(NPZ, at(200, b"\xee")), "x.npz: .*got BadZipFile"),
        "claims more rows": (rezipped(NPZ, first(shaped("(7, 4, 3)"))), "x_train: .*84 .*72;"),
        "claims fewer rows": (rezipped(NPZ, first(shaped("(5, 4, 3)"))), "x_train: .*60 .*72;"),
        "claims 2⁶⁴ rows": (rezipped(NPZ, first(shaped("(2**64, 4)"))), "x.npz: x_train.*got"),
        "overflows": (rezipped(NPZ, first(shaped(f"({2**62}, 4, 4)"))), "x.npz: x_train.*got 72"),
        "negative rows": (rezipped(NPZ, first(shaped("(-6, -4, 3)"))), "x.npz: .*got ValueError"),
        "deep header": (rezipped(NPZ, first(shaped("(" * 60))), "x.npz: x_train: .*numpy's format"),
        "torn array": (rezipped(NPZ, first(cut(-1))), "x.npz: x_train: .*72 bytes.*got 71"),
        "trailing bytes": (rezipped(NPZ, first(more(b"!"))), "x.npz: x_train: .*72 .*got 73"),
        "no array": (rezipped(NPZ, first(only(b"!"))), "x.npz: x_train: .*numpy's format"),
        "array twice": (rezipped(NPZ, lambda old: [*old, old[0]]), "x.npz: .*x_train twice"),
        "objects": (
            arrays(x_train=np.array([[None]] * 6)),
            "x_train: expected an array of numbers, got Python obj",
        ),
        "complex numbers": (
            arrays(x_train=np.ones((6, 2), "c8")),
            "x.npz: train.*table of numbers, got complex64",
        ),
        "records": (arrays(x_train=np.ones(6, "u1,u1")), r"x.npz: train.*got \[\('f0', 'u1'\)"),
        "dates": (arrays(y_train=Y.astype("M8[s]")), r"x.npz: train.*got datetime64\[s\]"),
        "NaN": (table(np.nan), "x.npz: train: .*finite numbers, got 12"),
        "infinity": (table(1.0, np.inf), "x.npz: test: .*finite numbers, got 4"),
        "lacks a label": (arrays(y_train=Y[:5]), "x.npz: train: .*6 rows and 5 labels"),
        "lacks an array": (arrays(y_test=None), "the arrays.*'y_train', 'x_test'; rename"),
        "label 7": (arrays(y_test=np.array([0, 7])), "x.npz: .*got also 7"),
        "no rows": (
            arrays(x_test=np.ones((0, 4, 3), "u1"), y_test=Y[:0]),
            "x.npz: test: expected at least one row",
        ),
        "folder": (replaced(NPZ, Path.mkdir), "x.npz/train.*got none"),
        "loop of links": (replaced(NPZ, loop), "x.npz.*neither"),
        "pipe": (replaced(NPZ, os.mkfifo), "x.npz.*neither"),
    },
    "cifar10": {
        "zero length": (edited(BIN, cut(0)), "data_batch_2.bin: .*got 0 bytes"),
        "cut in a record": (
            edited(BIN, cut(-7)),
            r"data_batch_2.bin.*30,723 bytes \(3066 left over\)",
        ),
        "trailing byte": (edited(BIN, more(b"!")), r"data_batch_2.bin: .*\(1 left over\)"),
        "label 10": (edited(BIN, at(0, b"\n")), r"data_batch_2.bin: .*0\.\.9, got 10"),
        "label 255": (edited(TEST_BIN, at(0, b"\xff")), r"test_batch.bin: .*0\.\.9, got 255"),
        "lacks a class": (no_class_zero, r"cifar-10-batches-bin: .*train labels 0\.\.9.*got 1, 2"),
        "no test batch": (replaced(TEST_BIN, absent), "cifar-10.*found no such file"),
        "test batch as a folder": (replaced(TEST_BIN, Path.mkdir), "cifar-10.*found no such file"),
    },
    "cifar10 py": {
        "zero length": (edited(BATCH, cut(0)), "data_batch_2: .*got a damaged.*EOFError"),
        "cut in half": (edited(BATCH, cut(15_000)), "data_batch_2: .*got a damaged"),
        "label 99": (edited(BATCH, labelled([99] * 10)), r"data_batch_2: .*0\.\.9, got 99"),
        "fractions": (edited(BATCH, labelled([1.5] * 10)), "data_batch_2: .*got a damaged"),
        "lacks a label": (
            edited(BATCH, labelled([1] * 9)),
            r"data_batch_2: .*N labels, got .*\(9,",
        ),
    },
    "cifar10 tar": {
        "zero length": (edited(TAR, cut(0)), "binary.tar.gz: .*damaged"),
        "cut in half": (
            edited(TAR, cut(400)),
            "binary.tar.gz: .*intact .tar.gz, got a damaged one",
        ),
        "bad checksum": (edited(TAR, at(-8, b"!!")), "binary.tar.gz: .*damaged.*BadGzipFile"),
        "damaged header": (repacked(TAR, at(150, b"!!")), "binary.tar.gz: .*damaged"),
        "damaged second header": (repacked(TAR, at(31_894, b"!!")), "binary.tar.gz: .*damaged"),
        "cut in a member": (repacked(TAR, cut(40_000)), "binary.tar.gz: .*damaged"),
        "cut at a member": (
            repacked(TAR, cut(31_744)),
            r"binary.tar.gz: expected test_batch\.bin and .*got data_batch_1\.bin",
        ),
    },
    "png": {
        "zero length": (edited(PNG, cut(0)), "cat/1.png: .*a readable PNG.*got"),
        "cut in its header": (edited(PNG, cut(20)), "cat/1.png: .*a readable PNG.*got"),
        "cut in its pixels": (edited(PNG, cut(50)), "cat/1.png: .*a readable PNG.*got"),
        "lost its end": (edited(PNG, cut(-12)), "cat/1.png: .*a readable PNG.*got"),
        "flipped bit": (edited(PNG, at(45, b"\xaa")), "cat/1.png: .*a readable PNG.*got"),
        "garbage": (
            edited(PNG, only(b"no picture")),
            r"cat/1\.png: expected a readable PNG.*got UnidentifiedImageError",
        ),
        "garbage behind its magic": (
            edited(PNG, only(b"\x89PNG garbage" * 9)),
            "cat/1.png: .*a readable PNG.*got",
        ),
        "GIF": (edited(PNG, only(picture((6, 4), form="GIF"))), "cat/1.png: .*a readable PNG.*got"),
        "60,000×60,000": (
            edited(PNG, only(header_alone(60_000, 60_000))),
            r"1\.png: expected at most 16,777,216 pixels, got many more",
        ),
        "5,000×5,000": (
            edited(PNG, only(header_alone(5_000, 5_000))),
            r"1\.png: expected at most 16,777,216 pixels, got 5000×5000",
        ),
        "another size": (
            edited(PNG, only(picture((4, 6)))),
            "1.png: expected 6×4 grey as 1.png has, got 4×6 grey",
        ),
        "another mode": (
            edited(PNG, only(picture((6, 4), "RGB"))),
            "6×4 grey as 1.png has, got 6×4 RGB",
        ),
        "picture as a folder": (replaced(PNG, Path.mkdir), "cat/1.png: expected a picture file"),
        "loop of links": (replaced(NEW, loop), "cat/2.png: expected a picture file"),
        "broken link": (replaced(NEW, dangling), "cat/2.png: expected a picture file"),
        "pipe": (replaced(NEW, os.mkfifo), "cat/2.png: expected a picture file"),
        "class without pictures": (
            replaced(PNG, absent),
            "train/cat: expected at least one .png.* got none",
        ),
        "class in test alone": (
            renamed("png/train/cat", "png/train/.cat"),
            "same classes in train and test, got 'cat' in test alone",
        ),
        "class as a file": (
            both(renamed("png/train/cat", "cat"), renamed("cat/1.png", "png/train/cat")),
            "same classes in train and test, got 'cat' in test alone",
        ),
        "test as a file": (
            both(renamed("png/test", "test"), renamed("test/cat/1.png", "png/test")),
            "png/test/CLASS, got none",
        ),
        "weird name": (
            both(renamed(PNG, WEIRD), edited(WEIRD, cut(9))),
            r"cat/a\\nb\\x1b\[2J.png: .*readable",
        ),
        "class name with a line break": (
            both(*(renamed(f"png/{part}/cat", f"png/{part}/c\nt") for part in ("train", "test"))),
            r"png: .*class name.*got 'c\\nt'",
        ),
        "class name that is not UTF-8": (
            both(*(renamed(f"png/{part}/cat", f"png/{part}/\udcff") for part in ("train", "test"))),
            r"png: .*class name.*got '\\udcff'",
        ),
    },
    "jpg": {
        "cut in half": (edited(JPG, cut(300)), "cat/1.png.jpg: .*readable.*got"),
        "garbage": (edited(JPG, at(40, b"?" * 300)), "cat/1.png.jpg: .*readable.*got"),
    },
    "omniglot": {
        "zero length": (edited(ZIP, cut(0)), "images_background.zip: .*BadZipFile"),
        "cut in half": (
            edited(ZIP, cut(9_000)),
            "background.zip.*intact zip, got a damaged.*BadZipFile",
        ),
        "flipped bit": (edited(ZIP, at(110, b"\xee\xee")), "zip: .*intact zip, got a damaged one"),
        "cut picture": (rezipped(ZIP, first(cut(60))), "A00/.*_01.png': .*readable PNG.*got"),
        "small picture": (
            rezipped(ZIP, first(only(picture((28, 28))))),
            "expected 105×105 pixels, got 28×28",
        ),
        "60,000×60,000": (rezipped(ZIP, first(only(header_alone(60_000, 60_000)))), "many more"),
        "picture twice": (
            rezipped(ZIP, lambda old: [*old, old[0]]),
            "images_background.zip: .*_01.png' twice",
        ),
        "drawer 99": (
            rezipped(ZIP, lambda old: [*old, (DRAWING.format(99), old[0][1])]),
            "_99.png': expected a drawer from 1 to 20, got 99",
        ),
        "lacks an alphabet": (
            rezipped(ZIP, lambda old: old[2:]),
            "expected 50 alphabets in the two zip files, got 49",
        ),
    },
    "x.csv": {
        "zero length": (edited(CSV, cut(0)), "x.csv: .*an empty file"),
        "cut in a quote": (edited(CSV, more(b'a,"blue')), "x.csv: line 12: .*got unexpected end"),
        "short row": (edited(CSV, more(b"a\n")), "x.csv: line 12: .*2 fields.*got 1"),
        "UTF-16": (edited(CSV, lambda b: b.decode().encode("utf-16")), "x.csv: .*UTF-8.*0xff"),
        "cut in a letter": (edited(CSV, more(b"a,caf\xc3")), "x.csv: .*UTF-8.*0xc3"),
        "NUL": (edited(CSV, more(b"a,bl\0ue\n")), "x.csv: line 12: .*got a NUL"),
        "one class": (edited(CSV, lambda b: b.replace(b"b,", b"a,")), "x.csv: .*got only 'a'"),
        "no such column": (edited(CSV, lambda b: b[1:]), "x.csv: .*'label', got 'abel'"),
        "label of two lines": (edited(CSV, more(b'"c\nd",x y\n' * 5)), r"x.csv: .*name.*'c\\nd'"),
        "folder": (replaced(CSV, Path.mkdir), "x.csv/train.*got none"),
    },
}
NAMES = [(source, case) for source, cases in CASES.items() for case in cases]


def assert_refused(load: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load()
    assert str(caught.value).isprintable()
    assert re.search("expected .*(got|found) ", str(caught.value))


@pytest.mark.parametrize(("source", "case"), NAMES)
def test_damage_is_refused_in_one_line(
    lay: Callable[[str], Path], read: Callable[[str], Dataset], source: str, case: str
) -> None:
    damage, message = CASES[source][case]
    damage(lay(source))
    assert_refused(lambda: read(source), message)


def test_whole_files_are_read(
    lay: Callable[[str], Path], read: Callable[[str], Dataset], valid: dict[str, dict[str, bytes]]
) -> None:
    for source, files in valid.items():
        root = lay(source)
        assert len(read(source).test) >= 2
        for name in files:
            (root / name).unlink()


# What is read nevertheless, with a word about it.
NOTED: dict[str, tuple[str, Damage, str]] = {
    "cut at a record": ("cifar10", edited(BIN, cut(-3073)), "50,000 training images, found 49"),
    "batch as a folder": ("cifar10", replaced(BIN, Path.mkdir), "4 of 5 training batches"),
    "class as a picture": ("png", renamed(PNG, "png/test/dog.png"), "1 .*are ignored"),
    "folder in a class": ("png", lambda r: (r / PNG).with_name("x").mkdir(), "1 .*are ignored"),
}


@pytest.mark.parametrize("case", NOTED)
def test_what_is_left_out_is_said(
    lay: Callable[[str], Path], read: Callable[[str], Dataset], case: str
) -> None:
    source, damage, message = NOTED[case]
    root = lay(source)
    (root / "png/train/cat").mkdir(parents=True, exist_ok=True)
    (root / NEW).write_bytes(picture((6, 4)))
    damage(root)
    assert re.search(message, " ".join(read(source).notices))


@pytest.mark.parametrize("make", [Path.mkdir, loop, dangling, os.mkfifo])
def test_outliers_are_files(lay: Callable[[str], Path], read: Any, make: Damage) -> None:
    root = lay("png")
    data = read("png")
    if make is Path.mkdir:
        (root / PNG).write_bytes(b"")
    else:
        make(root / NEW)
    assert_refused(lambda: load_outliers(str(root / "png"), data), r"cat/\d.png: expected a ")


LEFT: dict[str, tuple[np.ndarray | bytes, str]] = {
    "garbage": (b"garbage", "expected an intact .npy"),
    "zip": (b"PK\5\6" + bytes(18), "intact .npy"),
    "cut": (b"\x93NUMPY\1\0v\0{", "intact .npy"),
    "objects": (np.array([None]), "intact .npy"),
    "wide": (np.zeros((1, 32, 32, 3), np.int64), "uint8 .*got int64"),
    "few": (
        np.zeros((1, 32, 32, 3), np.uint8),
        r"expected uint8 of shape \(50000, 32, 32, 3\), got uint8 of shape \(1, ",
    ),
}


@pytest.mark.parametrize("case", LEFT)
def test_official_corruptions(tmp_path: Path, case: str) -> None:
    content, message = LEFT[case]
    path = tmp_path / "contrast.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content)
    assert_refused(lambda: load_official(tmp_path, "contrast", 1), f"contrast.npy: .*{message}")


def test_official_labels_are_those_of_the_images(tmp_path: Path) -> None:
    rows = 5 * OFFICIAL_ROWS
    np.lib.format.open_memmap(tmp_path / "contrast.npy", "w+", np.uint8, (rows, 32, 32, 3))
    np.save(tmp_path / "labels.npy", np.full(rows, -3))
    assert_refused(lambda: load_official(tmp_path, "contrast", 1), r"labels.npy: .*0\.\.99, got -3")
