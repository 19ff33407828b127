"""Python batches are read as their writers meant, and no pickle gets to run anything."""

import io
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowclf.data.pickled import read_pickled_batch
from flowclf.support.errors import UserError

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
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


class _Evaluate:
    def __reduce__(self) -> tuple[Any, ...]:
        return (eval, ("1/0",))


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_malicious_pickle_does_not_run(tmp_path: Path, protocol: int) -> None:
    target = tmp_path / "executed"
    content = pickle.dumps(BATCH | {"labels": _Attack(target)}, protocol=protocol)
    with pytest.raises(UserError, match="asks for .*do not trust this file"):
        read_pickled_batch(content, "batch")
    assert not target.exists()


def test_builtins_are_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"asks for 'builtins\.eval'"):
        read_pickled_batch(pickle.dumps(_Evaluate(), protocol=4), "batch")


DAMAGED = {
    "empty": b"",
    "truncated": MODERN[:-100],
    "text": b"hello",
    "list": pickle.dumps([1, 2]),
    "no labels": pickle.dumps({"data": PIXELS}, protocol=2),
    "floats": pickle.dumps(BATCH | {"data": PIXELS.astype(float)}, protocol=2),
    "wrong width": pickle.dumps(BATCH | {"data": PIXELS[:, :9]}, protocol=2),
    "too few labels": pickle.dumps(BATCH | {"labels": [1]}, protocol=2),
    "words as labels": pickle.dumps(BATCH | {"labels": ["a", "b"]}, protocol=2),
    "objects": pickle.dumps(BATCH | {"data": np.array([[None]], dtype=object)}, protocol=2),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_batch_is_one_clear_line(case: str) -> None:
    with pytest.raises(UserError, match="^batch: expected .*; fetch the official") as caught:
        read_pickled_batch(DAMAGED[case], "batch")
    assert "\n" not in str(caught.value)
