"""Tables as people have them: columns of numbers, categories and holes, in files and frames."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from flowclf.data import load_dataset
from flowclf.data.inputs import load_inputs
from flowclf.data.table import from_frame
from flowclf.runs import facts_of
from flowclf.support.errors import UserError

RNG = np.random.default_rng(0)
LABELS = ["no", "yes"] * 30
FRAME = pd.DataFrame(
    {
        "age": RNG.integers(18, 90, 60),
        "height": RNG.normal(170, 10, 60),
        "colour": RNG.choice(["red", "green", "blue"], 60),
        "member": RNG.integers(0, 2, 60).astype(bool),
        "bought": LABELS,
    }
)
NAMES = ("age", "height", "colour=blue", "colour=green", "colour=red", "member")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    FRAME.astype({"member": int}).to_csv(tmp_path / "shop.csv", index=False)
    return tmp_path / "shop.csv"


def test_a_file_is_what_its_frame_is(file: Path) -> None:
    data, frame = load_dataset(str(file), target="bought"), from_frame(FRAME, "bought")
    assert (data.feature_names, data.class_names) == (NAMES, ("no", "yes"))
    assert (len(data.train), len(data.test), data.levels) == (48, 12, None)
    assert "12 of 60 samples were drawn for the test" in data.notices[0]
    assert "1 columns of categories became 3" in data.notices[1]
    for split, other in ((data.train, frame.train), (data.test, frame.test)):
        assert torch.equal(split.y, other.y)
        assert torch.equal(split.x, other.x)
        assert (split.x[:, 2:5].sum(1) == 1).all()


def test_labels_are_numbers_sorted_as_such_or_texts(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("a,b\n" + "1,10\n2,9\n3,2\n" * 5)
    assert load_dataset(str(path), target="b").class_names == ("2", "9", "10")
    # Without a header columns have numbers.
    path.write_text("1,10\n2,9\n3,2\n" * 5)
    data = load_dataset(str(path), target="1")
    assert (data.class_names, data.feature_names) == (("2", "9", "10"), ("0",))


def test_what_is_missing_is_refused_with_its_place_or_imputed(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    rows = [
        f"{i % 7},{'' if i == 3 else i % 2},{'?' if i == 5 else 'ab'[i % 2]},{i % 2}"
        for i in range(40)
    ]
    path.write_text("size,flag,kind,label\n" + "\n".join(rows))
    with pytest.raises(
        UserError, match=r"flag: expected a value in every row, got 1 missing \(first in row 3\)"
    ):
        load_dataset(str(path), target="label")
    data = load_dataset(str(path), target="label", missing="impute")
    assert data.feature_names[-1] == "kind=missing" or 5 not in range(40)
    both = torch.cat([data.train.x, data.test.x])
    assert both.isfinite().all()
    assert any("imputed in flag, kind" in line for line in data.notices)
    path.write_text("size,label\n1,a\n2,\n3,b\n")
    with pytest.raises(UserError, match="label: expected a label in every row, got 1 missing"):
        load_dataset(str(path), target="label")


def test_what_the_median_is_of_is_the_training_rows_alone() -> None:
    x = np.arange(50.0)
    frame = pd.DataFrame({"x": x, "label": np.arange(50) % 2})
    data = from_frame(frame, "label")
    hole = data.test.x[0, 0].item()
    imputed = from_frame(frame.assign(x=np.where(x == hole, np.nan, x)), "label", missing="impute")
    assert imputed.test.x[0, 0] == data.train.x.median(dim=0).values[0] + 0.5


def test_columns_are_left_out(file: Path) -> None:
    data = load_dataset(str(file), target="bought", drop=("colour", "member"))
    assert data.feature_names == ("age", "height")
    with pytest.raises(UserError, match="expected data.drop to be a column, got 'hair'"):
        load_dataset(str(file), target="bought", drop=("hair",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,a,label\n1,2,x\n", "a name for each column, got 'a' twice"),
        ("a,label\n", "expected rows of values, got none"),
        ("a,label\n" + "".join(f"1,{i}.5\n" for i in range(150)), "150 different numbers"),
        ("a,label\n" + "".join(f"t{i},{i % 2}\n" for i in range(200)), "got 160 different texts"),
        ("label\n1\n2\n", "columns beside 'label'"),
        ("a,label\n1,x\n,y\n" * 9, "missing"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "x.csv").write_text(content)
    with pytest.raises(UserError, match=message):
        load_dataset(str(tmp_path / "x.csv"), target="label")


def test_numbers_are_no_texts(tmp_path: Path) -> None:
    """A table that was taken for texts, its numbers for words."""
    (tmp_path / "x.csv").write_text("text,label\n" + "1.5,a\n2.5,b\n" * 5)
    with pytest.raises(UserError, match=r"got numbers alone; for a table .* data\.target=label"):
        load_dataset(str(tmp_path / "x.csv"))


def test_new_rows_are_encoded_by_their_names(file: Path) -> None:
    data = load_dataset(str(file), target="bought")
    facts = facts_of(data, None)
    assert facts.feature_names == NAMES
    columns = ["member", "colour", "height", "age"]
    FRAME.astype({"member": int})[columns].to_csv(file.with_name("new.csv"), index=False)
    x = load_inputs([file.with_name("new.csv")], facts).x
    assert {tuple(row) for row in x.tolist()} >= {tuple(row) for row in data.test.x.tolist()}
    file.with_name("new.csv").write_text("age,colour\n1,red\n")
    with pytest.raises(UserError, match="expected a column for 'height', got age, colour"):
        load_inputs([file.with_name("new.csv")], facts)


def test_parquet_is_read_or_what_it_needs_is_named(tmp_path: Path) -> None:
    path = tmp_path / "shop.parquet"
    path.write_bytes(b"PAR1")
    try:
        from pyarrow import Table, parquet
    except ImportError:
        with pytest.raises(UserError, match=r"expected pyarrow .* pip install 'flowclf\[frames\]'"):
            load_dataset(str(path), target="bought")
        return
    with pytest.raises(UserError, match="expected an intact .parquet file"):
        load_dataset(str(path), target="bought")
    parquet.write_table(Table.from_pydict(FRAME.to_dict(orient="list")), path)
    data, frame = load_dataset(str(path), target="bought"), from_frame(FRAME, "bought")
    assert data.feature_names == NAMES
    assert torch.equal(data.train.x, frame.train.x)


def test_frames_of_polars_and_nullable_columns() -> None:
    polars = pytest.importorskip("polars")
    frame = from_frame(polars.from_pandas(FRAME), "bought")
    assert torch.equal(frame.train.x, from_frame(FRAME, "bought").train.x)


def test_columns_that_pandas_calls_nullable() -> None:
    ages = FRAME["age"].astype("Int64").copy()
    ages[7] = pd.NA
    with pytest.raises(UserError, match=r"age: expected a value .* \(first in row 7\)"):
        from_frame(FRAME.assign(age=ages), "bought")
    data = from_frame(FRAME.assign(age=ages), "bought", missing="impute")
    assert data.feature_names == NAMES
