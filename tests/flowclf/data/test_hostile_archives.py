"""Archives that would write elsewhere, and files that unpack to more than they say or than fits."""

import gzip
import io
import pickle
import struct
import tarfile
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from flowclf.data import Dataset, load_dataset, pickled
from flowclf.data.archive import read_members
from flowclf.data.idx import read_idx
from flowclf.data.omniglot import read_drawings
from flowclf.data.pickled import read_pickled_batch
from flowclf.support.errors import UserError

LITTLE = 2**22
BOMB = 8 * LITTLE


@contextmanager
def little_memory() -> Iterator[None]:
    """Fails where more than 4 MiB are held at any time; the bombs unpack to 32 MiB."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < LITTLE
    finally:
        tracemalloc.stop()


def refused(load: Callable[[], object], message: str) -> None:
    with little_memory(), pytest.raises(UserError, match=message) as caught:
        load()
    assert str(caught.value).isprintable()


# Tar archives: a member and what it holds.


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def tar(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def read(path: Path) -> dict[str, bytes]:
    return dict(read_members(path, {"wanted", "other"}))


def test_nothing_is_written_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    for folder in (inside, outside):
        folder.mkdir()
    monkeypatch.chdir(inside)
    path = tar(
        inside / "x.tar.gz",
        (member("../out/evil"), b"!"),
        (member(str(outside / "evil")), b"!"),
        (member("link", tarfile.SYMTYPE, str(outside)), b""),
        (member("link/evil"), b"!"),
        (member("hard", tarfile.LNKTYPE, "../out/evil"), b""),
        (member("device", tarfile.CHRTYPE), b""),
        (member("pipe", tarfile.FIFOTYPE), b""),
        (member("wanted"), b"here"),
    )
    assert read(path) == {"wanted": b"here"}
    assert {*tmp_path.rglob("*")} == {inside, outside, path}


LINKS = [(tarfile.SYMTYPE, "/etc/passwd"), (tarfile.LNKTYPE, "other")]
OTHERS = [(tarfile.CHRTYPE, ""), (tarfile.FIFOTYPE, ""), (tarfile.DIRTYPE, "")]


@pytest.mark.parametrize("kind", [*LINKS, *OTHERS])
def test_only_plain_files_are_read(tmp_path: Path, kind: tuple[bytes, str]) -> None:
    members = (member("other"), b"x"), (member("wanted", *kind), b"")
    path = tar(tmp_path / "x.tar.gz", *members)
    refused(lambda: read(path), "x.tar.gz: expected a plain file, got a link, .* 'wanted'")


def summed(block: bytearray) -> bytes:
    """Set the checksum of a header."""
    block[148:156] = b"%06o\0 " % (sum(block[:148] + block[156:]) + 8 * 32)
    return bytes(block)


def test_a_sparse_file_is_refused(tmp_path: Path) -> None:
    """Its map says nothing of its first byte, for which tarfile would look forever."""
    info = member("wanted", tarfile.GNUTYPE_SPARSE)
    info.size = 512
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[386:410] = b"%011o\0%011o\0" % (100, 512)
    block[483:495] = b"%011o\0" % 512
    path = tmp_path / "x.tar.gz"
    path.write_bytes(gzip.compress(summed(block) + bytes(512) + bytes(1024)))
    refused(lambda: read(path), "expected a plain file, got .*sparse file 'wanted'")


def test_a_file_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = tar(tmp_path / "x.tar.gz", (member("wanted"), b"1"), (member("./wanted"), b"2"))
    refused(lambda: read(path), "expected each file once, got 'wanted' twice")


@pytest.mark.parametrize("size", [b"\xff" * 12, b"\x80" + b"\xff" * 11])
def test_impossible_sizes_are_refused(tmp_path: Path, size: bytes) -> None:
    """-1, which would send tarfile back to where it was, and more than a disk holds."""
    block = bytearray(member("wanted").tobuf())
    block[124:136] = size
    path = tmp_path / "x.tar.gz"
    path.write_bytes(gzip.compress(summed(block) + bytes(1024)))
    refused(lambda: read(path), "expected fewer than 1000 files of at most 268,435,456 bytes")


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_a_name_of_megabytes_is_refused(tmp_path: Path, kind: bytes) -> None:
    path = tar(tmp_path / "x.tar.gz", (member("x", kind), bytes(BOMB)), (member("wanted"), b"x"))
    refused(lambda: read(path), "expected headers of at most 65,536 bytes")


def test_names_without_end_are_refused(tmp_path: Path) -> None:
    members = [(member("x", tarfile.GNUTYPE_LONGNAME), b"name")] * 2000
    path = tar(tmp_path / "x.tar.gz", *members)
    refused(lambda: read(path), "x.tar.gz: expected an intact .tar.gz, got .*RecursionError")


def test_files_together_may_not_be_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tar(tmp_path / "x.tar.gz", (member("x"), bytes(BOMB)), (member("wanted"), b"x"))
    assert read(path) == {"wanted": b"x"}
    monkeypatch.setattr("flowclf.data.archive._MOST_IN_ALL", BOMB // 2)
    refused(lambda: read(path), "files of at most 16,777,216 in all, got more")


def test_an_archive_that_goes_on_behind_its_end_is_refused(tmp_path: Path) -> None:
    path = tar(tmp_path / "x.tar.gz", (member("wanted"), b"x"))
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + b"more"))
    refused(lambda: read(path), "x.tar.gz: expected an intact .tar.gz")


# What unpacks to more than was declared: stopped there.


def lying_zip(path: Path, name: str, content: bytes, claim: int) -> Path:
    """A zip whose only member says that it is shorter, in both places, as any reader would see."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    old, new = (struct.pack("<I", size) for size in (len(content), claim))
    path.write_bytes(path.read_bytes().replace(old, new))
    return path


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def test_an_idx_file_is_read_as_far_as_it_says(tmp_path: Path) -> None:
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(b"\0\0\x08\1\0\0\0\1" + bytes(BOMB)))
    refused(lambda: read_idx(path, ndim=1), "x.gz: expected 1 bytes after the header, got more")


def test_a_drawing_is_read_as_far_as_it_says(tmp_path: Path) -> None:
    name = "images_background/Greek/character01/0001_01.png"
    lying = lying_zip(tmp_path / "x.zip", name, bytes(BOMB), 100)
    refused(lambda: list(read_drawings(lying)), "x.zip: .*BadZipFile")
    honest = lying_zip(tmp_path / "y.zip", name, bytes(BOMB), BOMB)
    refused(lambda: list(read_drawings(honest)), "y.zip: .*files of at most 65,536 bytes")


def test_an_array_is_read_as_far_as_it_says(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez_compressed(path, y_train=[0, 1], x_test=[[0]], y_test=[0])
    content = npy(np.zeros((1, 1), np.uint8)) + bytes(BOMB)
    lying = lying_zip(tmp_path / "lying.zip", "x_train.npy", content, 129)
    with zipfile.ZipFile(path, "a") as archive, zipfile.ZipFile(lying) as other:
        info, raw = other.infolist()[0], lying.read_bytes()
        start = info.header_offset + 30 + len(info.filename)
        assert archive.fp
        info.header_offset = archive.start_dir
        archive.fp.seek(archive.start_dir)
        archive.fp.write(info.FileHeader() + raw[start : start + info.compress_size])
        archive.start_dir = archive.fp.tell()
        archive.filelist.append(info)
        archive._didModify = True  # type: ignore[attr-defined]
    refused(lambda: load_dataset(str(path)), "x.npz: x_train: expected an .*BadZipFile")


# What says honestly that it is more than fits into memory.


@pytest.fixture
def small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowclf.support.devices.machine_memory", lambda: 1000)


@pytest.mark.usefixtures("small_machine")
@pytest.mark.parametrize("packed", [False, True])
def test_data_larger_than_memory_are_refused(tmp_path: Path, packed: bool) -> None:
    path = tmp_path / f"x{'.gz' if packed else ''}"
    content = b"\0\0\x08\1" + struct.pack(">I", BOMB) + bytes(BOMB)
    path.write_bytes(gzip.compress(content) if packed else content)
    refused(lambda: read_idx(path, ndim=1), "fit into the 1,000 bytes of memory, got 33,554,432")


@pytest.mark.usefixtures("small_machine")
def test_arrays_larger_than_memory_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez_compressed(
        path, x_train=np.zeros((2, BOMB // 2), np.uint8), y_train=[0, 1], x_test=[0], y_test=[0]
    )
    refused(lambda: load_dataset(str(path)), "x.npz: expected data that fit .*got 33,55")


@pytest.mark.usefixtures("small_machine")
@pytest.mark.parametrize(("source", "size"), [("png", "2,400,000"), ("x.csv", "2,520")])
def test_folders_and_texts_larger_than_memory_are_refused(
    lay: Callable[[str], Path], source: str, size: str
) -> None:
    root = lay(source)
    if source == "png":
        for path in root.glob("png/*/*/1.png"):
            Image.new("1", (1000, 600)).save(path)
    else:
        with (root / source).open("a") as file:
            file.writelines(f"a,word{i}\n" for i in range(20))
    with pytest.raises(UserError, match=f"{source}: expected data that fit .*got {size} bytes"):
        load_dataset(str(root / source))


def test_this_machine_has_memory(
    lay: Callable[[str], Path], read: Callable[[str], Dataset]
) -> None:
    lay("x.npz")
    assert len(read("x.npz").train) == 6


# Pictures.


def test_text_beside_the_pixels_is_bounded(lay: Callable[[str], Path]) -> None:
    root, info = lay("png"), PngImagePlugin.PngInfo()
    info.add_text("comment", "x" * BOMB, zip=True)
    Image.new("L", (6, 4)).save(root / "png/test/cat/1.png", pnginfo=info)
    refused(lambda: load_dataset(str(root / "png")), "cat/1.png: expected a readable PNG")


def test_a_picture_is_refused_by_its_header(lay: Callable[[str], Path]) -> None:
    """Neither its 3.6 thousand million pixels nor a row of them is unpacked."""
    root = lay("png")
    chunks = (
        (b"IHDR", struct.pack(">II5B", 60_000, 60_000, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(BOMB))),
        (b"IEND", b""),
    )
    content = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    (root / "png/test/cat/1.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    refused(lambda: load_dataset(str(root / "png")), "cat/1.png: expected at most 16,777,216 pix")


# Pickles of CIFAR's Python batches.


def nested(levels: int) -> list[object]:
    """10 ** levels numbers, in a few hundred bytes."""
    found: list[object] = [1] * 10
    for _ in range(levels - 1):
        found = [found] * 10
    return found


PIXELS = np.zeros((1, 3072), np.uint8)
PICKLES = {
    "place in the memo": b"\x80\2]r" + struct.pack("<I", BOMB) + b".",
    "bytes": b"\x80\5\x96" + struct.pack("<Q", BOMB) + b"1.",
    "lists of lists": pickle.dumps({"data": PIXELS, "labels": nested(7)}, protocol=2),
    "digits": b"L" + b"9" * 10_000 + b"L\n.",
}


@pytest.mark.parametrize("case", PICKLES)
def test_a_small_pickle_takes_little_memory(case: str) -> None:
    refused(lambda: read_pickled_batch(PICKLES[case], "x"), "x: expected a CIFAR batch, got")


def test_a_pickle_cannot_change_the_reader() -> None:
    """BUILD sets attributes of whatever it is given: here of each name that is allowed."""
    names = b"_codecs\nencode numpy\ndtype numpy\nndarray numpy.core.multiarray\n_reconstruct"
    states = b"}Vmark\nI1\ns", b"N}Vmark\nI1\ns\x86"
    for name, state in product(names.split(b" "), states):
        content = b"\x80\2c" + name + b"\n" + state + b"b."
        refused(lambda content=content: read_pickled_batch(content, "x"), "x: expected a CIFAR")
    assert not any(hasattr(allowed, "mark") for allowed in pickled._ALLOWED.values())
