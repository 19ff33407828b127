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
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flowclf.data import Dataset
from flowclf.data.corruptions import OFFICIAL_ROWS, load_official
from flowclf.data.outliers import load_outliers
from flowclf.support.errors import UserError

Lay, Read = Callable[[str], Path], Callable[[str], Dataset]
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


def arrays(changes: dict[str, Any]) -> Damage:
    """x.npz with other arrays; without those that are None."""

    def damage(root: Path) -> None:
        with np.load(root / "x.npz") as found:
            new = dict(found) | changes
        np.savez(root / "x.npz", **{name: a for name, a in new.items() if a is not None})

    return damage


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def table(value: float, x_test: float = 0.0) -> dict[str, Any]:
    return {"x_train": np.full((6, 2), value), "x_test": np.full((2, 2), x_test)}


def labelled(labels: list[Any]) -> Edit:
    """A pickled batch with other labels."""
    return lambda content: pickle.dumps(pickle.loads(content) | {"labels": labels}, protocol=2)


def no_class_zero(root: Path) -> None:
    for batch in (root / "cifar-10-batches-bin").iterdir():
        batch.write_bytes(at(0, b"\1")(batch.read_bytes()))


def loop(path: Path) -> None:
    path.symlink_to(path.name)


dangling = partial(os.symlink, "nothing")


def absent(path: Path) -> None:
    pass


def itself(damage: Damage) -> Damage:
    return damage


IMAGES, LABELS = "mnist/train-images-idx3-ubyte.gz", "mnist/train-labels-idx1-ubyte"
BIN, TEST_BIN = "cifar-10-batches-bin/data_batch_2.bin", "cifar-10-batches-bin/test_batch.bin"
BATCH, TAR = "cifar-10-batches-py/data_batch_2", "cifar-10-binary.tar.gz"
ZIP, NPZ, CSV = "omniglot/images_background.zip", "x.npz", "x.csv"
DRAWING = "images_background/A00/character01/0001_{}.png"
PNG, JPG, NEW = "png/train/cat/1.png", "jpg/train/cat/1.png.jpg", "png/train/cat/2.png"
WEIRD = "png/train/cat/a\nb\x1b[2J.png"
Y = np.array([0, 1, 0, 1, 0, 1])
CAT_ALONE = "same classes in train and test, got 'cat' in test alone"

# By what is loaded, what is done to which file of it, and what the message begins with: each way to
# do it, and what the message says then.
Way = Any  # what the function before it takes: an edit, a change of members, or a damage
CASES: list[tuple[str, Callable[[Way], Damage], str, dict[str, tuple[Way, str]]]] = [
    ("mnist", partial(edited, LABELS), "train-labels.*", {
        "zero length": (cut(0), "got magic nothing"),
        "a zip's magic": (only(b"PK\3\4" + bytes(99)), "got magic 504b0304"),
        "cut in its magic": (cut(3), "got magic 000008;"),
        "cut in its header": (cut(7), "expected 1 dim.*, got the end of file"),
        "cut in its content": (cut(-9), "20 bytes.*got a file too short"),
        "trailing bytes": (more(b"!"), "expected 20 bytes after the header, got more"),
        "claims more": (at(7, b"\x1b"), "27 bytes"),
        "claims fewer": (at(7, b"\x13"), "got more"),
        "claims 2³²-1": (at(4, b"\xff" * 4), "4,294,967,295"),
        "claims none": (at(4, bytes(4)), "empty array"),
        "floats": (at(2, b"\x0d"), "unsigned bytes.*magic 00000d01"),
        "label 200": (at(9, b"\xc8"), r"0\.\.9, got 200"),
        "lacks a label": (lambda b: cut(-1)(at(7, b"\x13")(b)), "20 images and 19 labels"),
    }),
    ("mnist", partial(replaced, LABELS), "train-labels.*no such file", {
        "folder": (Path.mkdir, ""),
        "loop of links": (loop, ""),
    }),
    ("mnist", partial(edited, IMAGES), "train-images.*", {
        "labels": (only(gzip.compress(b"\0\0\x08\1\0\0\0\1!")), "3 dimensions.*magic 00000801"),
        "cut in half": (cut(60), "intact gzip.*EOFError"),
        "zero length": (cut(0), "got"),
        "bad checksum": (at(-8, b"!!"), "BadGzipFile"),
        "trailing bytes": (more(b"!"), "BadGzipFile"),
        "another behind it": (more(gzip.compress(b"!")), "got more"),
        "no gzip": (gzip.decompress, "BadGzipFile"),
        "rubbish inside": (lambda b: b[:10] + b"\xff" * 20, r"got a damaged one \(error"),
    }),
    ("mnist", partial(repacked, IMAGES), "train-images.*", {
        "other sides": (at(8, struct.pack(">2I", 14, 56)), "28×28.*14×56"),
        "too few": (cut(-1), "expected 15,680 bytes.*got 15,?679"),
        "trailing bytes": (more(b"!"), "got more"),
        "absurd size": (only(b"\0\0\x08\3" + struct.pack(">3I", *[2**31] * 3)), "too short"),
    }),
    ("x.npz", partial(edited, NPZ), "x.npz: ", {
        "zero length": (cut(0), "expected an intact .npz"),
        "rubbish": (only(b"rubbish"), "expected an"),
        "rubbish behind its magic": (only(b"PK\3\4rubbish"), "expected an"),
        "array alone": (only(npy(np.ones(3))), "expected an intact .npz"),
        "cut in half": (cut(700), "expected an intact .npz"),
        "lost its end": (cut(-5), "expected an intact .npz, got BadZipFile"),
        "flipped bit": (at(200, b"\xee"), ".*got BadZipFile"),
    }),
    ("x.npz", partial(rezipped, NPZ), "x.npz: ", {
        "claims more rows": (first(shaped("(7, 4, 3)")), "x_train: .*84 .*72;"),
        "claims fewer rows": (first(shaped("(5, 4, 3)")), "x_train: .*60 .*72;"),
        "claims 2⁶⁴ rows": (first(shaped("(2**64, 4)")), "x_train.*got"),
        "overflows": (first(shaped(f"({2**62}, 4, 4)")), "x_train.*got 72"),
        "negative rows": (first(shaped("(-6, -4, 3)")), ".*got ValueError"),
        "deep header": (first(shaped("(" * 60)), "x_train: .*numpy's format"),
        "torn array": (first(cut(-1)), "x_train: .*72 bytes.*got 71"),
        "trailing bytes": (first(more(b"!")), "x_train: .*72 .*got 73"),
        "no array": (first(only(b"!")), "x_train: .*numpy's format"),
        "array twice": (lambda old: [*old, old[0]], ".*x_train twice"),
    }),
    ("x.npz", arrays, "x.npz: ", {
        "objects": ({"x_train": [[None]] * 6}, "x_train: expected an array of numbers, got Python"),
        "complex": ({"x_train": np.ones((6, 2), "c8")}, "train.*table of numbers, got complex64"),
        "records": ({"x_train": np.ones(6, "u1,u1")}, r"train.*got \[\('f0', 'u1'\)"),
        "dates": ({"y_train": Y.astype("M8[s]")}, r"train.*got datetime64\[s\]"),
        "NaN": (table(np.nan), "train: .*finite numbers, got 12"),
        "infinity": (table(1.0, np.inf), "test: .*finite numbers, got 4"),
        "lacks a label": ({"y_train": Y[:5]}, "train: .*6 rows and 5 labels"),
        "lacks an array": ({"y_test": None}, ".*the arrays.*'y_train', 'x_test'; rename"),
        "label 7": ({"y_test": [0, 7]}, ".*got also 7"),
        "no rows": (
            {"x_test": np.ones((0, 4, 3), "u1"), "y_test": Y[:0]},
            "test: expected at least one row",
        ),
    }),
    ("x.npz", partial(replaced, NPZ), "x.npz", {
        "folder": (Path.mkdir, "/CLASS, got none"),
        "loop of links": (loop, ".*neither"),
        "pipe": (os.mkfifo, ".*neither"),
    }),
    ("cifar10", partial(edited, BIN), "data_batch_2.bin", {
        "zero length": (cut(0), ": .*got 0 bytes"),
        "cut in a record": (cut(-7), r".*30,723 bytes \(3066 left over\)"),
        "trailing byte": (more(b"!"), r": .*\(1 left over\)"),
        "label 10": (at(0, b"\n"), r": .*0\.\.9, got 10"),
    }),
    ("cifar10", partial(edited, TEST_BIN), "test_batch.bin: ", {
        "label 255": (at(0, b"\xff"), r".*0\.\.9, got 255"),
    }),
    ("cifar10", partial(replaced, TEST_BIN), "cifar-10.*found no such file", {
        "no test batch": (absent, ""),
        "folder": (Path.mkdir, ""),
    }),
    ("cifar10", itself, "cifar-10-batches-bin: ", {
        "lacks a class": (no_class_zero, r".*train labels 0\.\.9.*got 1, 2"),
    }),
    ("cifar10 py", partial(edited, BATCH), "data_batch_2: ", {
        "zero length": (cut(0), ".*got a damaged.*EOFError"),
        "cut in half": (cut(15_000), ".*got a damaged"),
        "label 99": (labelled([99] * 10), r".*0\.\.9, got 99"),
        "fractions": (labelled([1.5] * 10), ".*got a damaged"),
        "lacks a label": (labelled([1] * 9), r".*N labels, got .*\(9,"),
    }),
    ("cifar10 tar", partial(edited, TAR), "binary.tar.gz: ", {
        "zero length": (cut(0), ".*damaged"),
        "cut in half": (cut(400), ".*intact .tar.gz, got a damaged one"),
        "bad checksum": (at(-8, b"!!"), ".*damaged.*BadGzipFile"),
    }),
    ("cifar10 tar", partial(repacked, TAR), "binary.tar.gz: ", {
        "damaged header": (at(150, b"!!"), ".*damaged"),
        "damaged second header": (at(31_894, b"!!"), ".*damaged"),
        "cut in a member": (cut(40_000), ".*damaged"),
        "cut at a member": (cut(31_744), r"expected test_batch\.bin and .*got data_batch_1\.bin"),
    }),
    ("png", partial(edited, PNG), "cat/1.png: .*a readable PNG.*got", {
        "zero length": (cut(0), ""),
        "cut in its header": (cut(20), ""),
        "cut in its pixels": (cut(50), ""),
        "lost its end": (cut(-12), ""),
        "flipped bit": (at(45, b"\xaa"), ""),
        "garbage": (only(b"no picture"), " UnidentifiedImageError"),
        "garbage behind its magic": (only(b"\x89PNG garbage" * 9), ""),
        "GIF": (only(picture((6, 4), form="GIF")), ""),
    }),
    ("png", partial(edited, PNG), "1.png: expected ", {
        "60,000²": (only(header_alone(60_000, 60_000)), "at most 16,777,216 pixels, got many more"),
        "5,000²": (only(header_alone(5_000, 5_000)), "at most 16,777,216 pixels, got 5000×5000"),
    }),
    ("png", partial(replaced, PNG), "", {
        "picture as a folder": (Path.mkdir, "train/cat: expected at least one .png.* got none"),
        "class without pictures": (absent, "train/cat: expected at least one .png.* got none"),
    }),
    ("png", partial(replaced, NEW), "cat/2.png: expected a picture file", {
        "loop of links": (loop, ""),
        "broken link": (dangling, ""),
        "pipe": (os.mkfifo, ""),
    }),
    ("png", lambda pairs: both(*(renamed(*pair) for pair in pairs)), "", {
        "class in test alone": ([("png/train/cat", "png/train/.cat")], CAT_ALONE),
        "class as a file": ([("png/train/cat", "cat"), ("cat/1.png", "png/train/cat")], CAT_ALONE),
        "no train": ([("png/train", "train")], "expected train/CLASS/ beside test/, got none"),
        "test as a file": (
            [("png/test", "test"), ("test/cat/1.png", "png/test")],
            "more samples than classes, .*got 2 of 2 classes",
        ),
        "class name with a line break": (
            [(f"png/{part}/cat", f"png/{part}/c\nt") for part in ("train", "test")],
            r"png: .*class name.*got 'c\\nt'",
        ),
        "class name that is not UTF-8": (
            [(f"png/{part}/cat", f"png/{part}/\udcff") for part in ("train", "test")],
            r"png: .*class name.*got '\\udcff'",
        ),
    }),
    ("png", itself, r"cat/a\\nb\\x1b\[2J.png: .*readable", {
        "weird name": (both(renamed(PNG, WEIRD), edited(WEIRD, cut(9))), ""),
    }),
    ("jpg", partial(edited, JPG), "cat/1.png.jpg: .*readable.*got", {
        "cut in half": (cut(300), ""),
        "garbage": (at(40, b"?" * 300), ""),
    }),
    ("omniglot", partial(edited, ZIP), "images_background.zip: ", {
        "zero length": (cut(0), ".*BadZipFile"),
        "cut in half": (cut(9_000), ".*intact zip, got a damaged.*BadZipFile"),
        "flipped bit": (at(110, b"\xee\xee"), ".*intact zip, got a damaged one"),
    }),
    ("omniglot", partial(rezipped, ZIP), "", {
        "cut picture": (first(cut(60)), "A00/.*_01.png': .*readable PNG.*got"),
        "no picture": (first(only(b"no png")), "zip.*readable PNG.*UnidentifiedImageError"),
        "huge picture": (
            first(only(picture((500, 500)))),
            "zip.*at most 11,025 pixels, got 500×500",
        ),
        "small picture": (first(only(picture((28, 28)))), "expected 105×105 pixels, got 28×28"),
        "60,000²": (first(only(header_alone(60_000, 60_000))), "many more"),
        "picture twice": (lambda old: [*old, old[0]], "images_background.zip: .*_01.png' twice"),
        "drawer 99": (
            lambda old: [*old, (DRAWING.format(99), old[0][1])],
            "_99.png': expected a drawer from 1 to 20, got 99",
        ),
        "lacks an alphabet": (lambda old: old[2:], "50 alphabets in the two zip files, got 49"),
    }),
    ("x.csv", partial(edited, CSV), "x.csv: ", {
        "zero length": (cut(0), ".*column 'text', got an empty file"),
        "cut in a quote": (more(b'a,"blue'), "line 12: .*got unexpected end"),
        "short row": (more(b"a\n"), "line 12: .*2 fields.*got 1"),
        "UTF-16": (lambda b: b.decode().encode("utf-16"), ".*UTF-8 text, got byte 0xff; save"),
        "cut in a letter": (more(b"a,caf\xc3"), ".*UTF-8.*0xc3"),
        "NUL": (more(b"a,bl\0ue\n"), "line 12: .*got a NUL"),
        "one class": (lambda b: b.replace(b"b,", b"a,"), ".*2 classes in .*'label', got only 'a'"),
        "no such column": (lambda b: b[1:], ".*column 'label', got 'abel', 'text'"),
        "label of two lines": (more(b'"c\nd",x y\n' * 5), r".*name.*'c\\nd'"),
    }),
    ("x.csv", partial(replaced, CSV), "class folders .*got none", {"folder": (Path.mkdir, "")}),
]  # fmt: skip
DAMAGES = [
    pytest.param(source, damage(way), begin + message, id=f"{source}: {case}")
    for source, damage, begin, cases in CASES
    for case, (way, message) in cases.items()
]


def assert_refused(load: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load()
    assert str(caught.value).isprintable()
    assert re.search("expected .*(got|found) ", str(caught.value))


@pytest.mark.parametrize(("source", "damage", "message"), DAMAGES)
def test_damage_is_refused_in_one_line(
    lay: Lay, read: Read, source: str, damage: Damage, message: str
) -> None:
    damage(lay(source))
    assert_refused(lambda: read(source), message)


def test_whole_files_are_read(lay: Lay, read: Read, valid: dict[str, dict[str, bytes]]) -> None:
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
    "text in a class": (
        "png",
        lambda r: (r / PNG).with_name("x").write_text(""),
        "1 .*are ignored",
    ),
}


@pytest.mark.parametrize("case", NOTED)
def test_what_is_left_out_is_said(lay: Lay, read: Read, case: str) -> None:
    source, damage, message = NOTED[case]
    root = lay(source)
    (root / "png/train/cat").mkdir(parents=True, exist_ok=True)
    (root / NEW).write_bytes(picture((6, 4)))
    damage(root)
    assert re.search(message, " ".join(read(source).notices))


@pytest.mark.parametrize("make", [Path.mkdir, loop, dangling, os.mkfifo])
def test_outliers_are_files(lay: Lay, read: Any, make: Damage) -> None:
    root = lay("png")
    data = read("png")
    if make is Path.mkdir:
        (root / PNG).write_bytes(b"")
    else:
        make(root / NEW)
    assert_refused(lambda: load_outliers(str(root / "png"), data), r"cat/\d.png: expected a ")


LEFT: dict[str, tuple[bytes, str]] = {
    "garbage": (b"garbage", "expected an intact .npy"),
    "zip": (b"PK\5\6" + bytes(18), "intact .npy"),
    "cut": (b"\x93NUMPY\1\0v\0{", "intact .npy"),
    "objects": (npy(np.array([None])), "intact .npy"),
    "wide": (npy(np.zeros((1, 32, 32, 3), np.int64)), "uint8 .*got int64"),
    "few": (
        npy(np.zeros((1, 32, 32, 3), np.uint8)),
        r"expected uint8 of shape \(50000, 32, 32, 3\), got uint8 of shape \(1, ",
    ),
}


@pytest.mark.parametrize("case", LEFT)
def test_official_corruptions(tmp_path: Path, case: str) -> None:
    content, message = LEFT[case]
    (tmp_path / "contrast.npy").write_bytes(content)
    assert_refused(lambda: load_official(tmp_path, "contrast", 1), f"contrast.npy: .*{message}")


def test_official_labels_are_those_of_the_images(tmp_path: Path) -> None:
    rows = 5 * OFFICIAL_ROWS
    np.lib.format.open_memmap(tmp_path / "contrast.npy", "w+", np.uint8, (rows, 32, 32, 3))
    np.save(tmp_path / "labels.npy", np.full(rows, -3))
    assert_refused(lambda: load_official(tmp_path, "contrast", 1), r"labels.npy: .*0\.\.99, got -3")
