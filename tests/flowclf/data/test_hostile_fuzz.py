"""Valid files with random damage: read, or refused in one line; never anything else.

FLOWCLF_FUZZ=2000 makes as many cases of each, other ones each time; -s prints their counts.
"""

import gzip
import io
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowclf.data import Dataset
from flowclf.data.omniglot import read_drawings
from flowclf.support.errors import UserError

CASES = int(os.environ.get("FLOWCLF_FUZZ", "50"))
Edit = Callable[[bytes], bytes]
Lay, Read = Callable[[str], Path], Callable[[str], Dataset]

# Headers are at the beginning or the end, and decide most.
PLACES = st.integers(0, 200) | st.integers(-200, -1) | st.integers(0, 2**16)
PIECES = st.sampled_from([b"\0", b"\xff", b"\0" * 4, b"\xff" * 4, b"\x80\0\0\0", b"\0\0\0\x80"])
PIECES |= st.binary(min_size=1, max_size=4)
EDITS = st.lists(
    st.tuples(st.sampled_from(["set", "insert", "delete", "cut", "repeat"]), PLACES, PIECES),
    min_size=1,
    max_size=5,
)


def edited(content: bytes, edits: list[tuple[str, int, bytes]]) -> bytes:
    for kind, place, piece in edits:
        at = place % (len(content) + 1)
        match kind:
            case "set":
                content = content[:at] + piece + content[at + len(piece) :]
            case "insert":
                content = content[:at] + piece + content[at:]
            case "delete":
                content = content[:at] + content[at + piece[0] :]
            case "cut":
                content = content[:at]
            case "repeat":
                content = content[:at] + content[max(0, at - 4 * piece[0]) :]
    return content


# Damage within a container that is itself intact, so that more than its checksum is tried.


def plain(content: bytes, edit: Edit) -> bytes:
    return edit(content)


def in_gzip(content: bytes, edit: Edit) -> bytes:
    return gzip.compress(edit(gzip.decompress(content)), 1)


def in_zip(content: bytes, edit: Edit) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(stream, "w") as new:
        for number, name in enumerate(old.namelist()):
            new.writestr(name, old.read(name) if number else edit(old.read(name)))
    return stream.getvalue()


def in_tar(content: bytes, edit: Edit) -> bytes:
    """The first header has a right checksum."""
    tar = bytearray(edit(gzip.decompress(content)))
    if len(tar) >= 512:
        tar[148:156] = b"%06o\0 " % (sum(tar[:148] + tar[156:512]) + 8 * 32)
    return gzip.compress(bytes(tar), 1)


def in_png(content: bytes, edit: Edit) -> bytes:
    """Each chunk has a right checksum."""
    content, chunks = edit(content[8:]), [content[:8]]
    while len(content) >= 12:
        size = min(struct.unpack(">I", content[:4])[0], len(content) - 12)
        body, content = content[4 : 8 + size], content[12 + size :]
        chunks.append(struct.pack(">I", size) + body + struct.pack(">I", zlib.crc32(body)))
    return b"".join([*chunks, content])


IMAGES, LABELS = "mnist/train-images-idx3-ubyte.gz", "mnist/train-labels-idx1-ubyte"
TAR, ZIP = "cifar-10-binary.tar.gz", "omniglot/images_background.zip"
PICTURE = "{}/train/cat/1.png{}"
TARGETS = {
    "idx": ("mnist", LABELS, plain),
    "idx in gz": ("mnist", IMAGES, in_gzip),
    "idx.gz": ("mnist", IMAGES, plain),
    "npz": ("x.npz", "x.npz", plain),
    "packed npz": ("packed.npz", "packed.npz", plain),
    "array in npz": ("x.npz", "x.npz", in_zip),
    "cifar bin": ("cifar10", "cifar-10-batches-bin/data_batch_1.bin", plain),
    "cifar batch": ("cifar10 py", "cifar-10-batches-py/data_batch_1", plain),
    "archive": ("cifar10 tar", TAR, plain),
    "tar in gz": ("cifar10 tar", TAR, in_tar),
    "text": ("x.csv", "x.csv", plain),
    "png": ("png", PICTURE.format("png", ""), plain),
    "chunks in png": ("png", PICTURE.format("png", ""), in_png),
    "jpg": ("jpg", PICTURE.format("jpg", ".jpg"), plain),
    "bmp": ("bmp", PICTURE.format("bmp", ".bmp"), plain),
    "omniglot": ("omniglot", ZIP, plain),
    "picture in omniglot": ("omniglot", ZIP, in_zip),
}


@pytest.mark.parametrize("target", TARGETS)
def test_damage_is_read_or_refused(lay: Lay, read: Read, target: str) -> None:
    source, name, within = TARGETS[target]
    path = lay(source) / name
    whole, messages, found = path.read_bytes(), list[str](), 0

    @settings(max_examples=CASES, deadline=None, database=None, derandomize=CASES < 1000)
    @given(EDITS)
    def tried(edits: list[tuple[str, int, bytes]]) -> None:
        nonlocal found
        path.write_bytes(within(whole, lambda content: edited(content, edits)))
        try:
            # All of Omniglot takes a while.
            list(read_drawings(path)) if source == "omniglot" else read(source)
            found += 1
        except UserError as error:
            messages.append(str(error))

    tried()
    assert messages
    assert all(message.isprintable() for message in messages)
    print(f"{target}: {found} read, {len(messages)} refused")
