"""Inputs of a trained model: rows of numbers, texts, arrays and pictures."""

from pathlib import Path

import numpy as np
import pytest
import torch

from flowclf.data.inputs import load_inputs
from flowclf.data.text import TextOptions
from flowclf.settings import DataFacts
from flowclf.support.errors import UserError

TABLE = DataFacts(shape=(2,), class_names=("a", "b"))
IMAGES = DataFacts(shape=(1, 4, 4), levels=256, class_names=("a", "b"))


def written(file: Path, text: str) -> list[Path]:
    file.write_text(text, encoding="utf-8")
    return [file]


def test_rows_of_numbers_with_a_header_or_without(tmp_path: Path) -> None:
    expected = torch.tensor([[1.0, 2.5], [-3.0, 1e3]])
    for text in ("1,2.5\n-3,1e3\n", "width,height\n1,2.5\n\n-3,1e3\n"):
        found = load_inputs(written(tmp_path / "rows.csv", text), TABLE)
        assert torch.equal(found.x, expected)
        assert [name.rpartition("/")[2] for name in found.names] == ["rows.csv:0", "rows.csv:1"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2\n3,x\n", "expected 2 numbers in row 1, got 'x'"),
        ("1,2,3\n", "expected 2 numbers in row 0, got 3 cells"),
        ("1,2\n3\n", "expected 2 fields as in the first row, got 1"),
    ],
)
def test_other_rows_are_refused_with_their_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_inputs(written(tmp_path / "rows.csv", text), TABLE)


def test_texts_are_counted_by_the_vocabulary(tmp_path: Path) -> None:
    files = written(tmp_path / "texts.csv", 'text,label\n"apple pear apple",x\nnothing,y\n')
    found = load_inputs(files, TABLE, ("apple", "pear"), TextOptions())
    torch.testing.assert_close(found.x, torch.tensor([[2 / 3, 1 / 3], [0.0, 0.0]]))


def test_arrays_are_made_to_fit_with_a_notice(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.full((3, 8, 8, 3), 200, np.uint8))
    found = load_inputs([tmp_path / "x.npz"], IMAGES)
    assert (found.x.shape, found.x.dtype, int(found.x.max())) == ((3, 1, 4, 4), torch.uint8, 200)
    assert "made 4×4 grey from 8×8 RGB" in found.notices[0]
    np.savez(tmp_path / "y.npz", other=np.zeros((3, 2)))
    with pytest.raises(UserError, match="expected the arrays x, got 'other'"):
        load_inputs([tmp_path / "y.npz"], IMAGES)
    np.savez(tmp_path / "z.npz", x=np.zeros((3, 5)))
    with pytest.raises(UserError, match="expected samples of 2 numbers, got 5"):
        load_inputs([tmp_path / "z.npz"], TABLE)


def test_a_table_takes_no_pictures(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected a .csv or .npz file of rows of 2 numbers"):
        load_inputs([tmp_path], TABLE)
    with pytest.raises(UserError, match="at least one file of inputs"):
        load_inputs([], TABLE)
