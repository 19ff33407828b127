"""The user's texts: columns, labels, splits, averaged words, and one clear line for mistakes."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from flowclf.config import make_config
from flowclf.data import Dataset
from flowclf.data.text import TextOptions, load_text, word_frequencies
from flowclf.runs import Run, load_data
from flowclf.support.errors import UserError
from flowclf.training import train

Load = Callable[..., Dataset]
BODY = "b,red red green,lion\na,blue,tiger\n" * 5
WORDS = (("cats", "cat"), ("dogs", "dog"))
NAMED = "label,text,title\n" + BODY


@pytest.fixture
def loaded(tmp_path: Path) -> Load:
    """Load what is written into x.csv, with options."""

    def load(content: str, *arguments: Any, **options: Any) -> Dataset:
        (tmp_path / "x.csv").write_text(content, encoding="utf-8")
        return load_text(tmp_path / "x.csv", TextOptions(*arguments, **options))

    return load


@pytest.mark.usefixtures("_global_rng_untouched")
def test_texts_become_averaged_words(loaded: Load) -> None:
    data = loaded(NAMED)
    assert (data.name, data.class_names, data.levels) == ("x.csv", ("a", "b"), None)
    assert (len(data.train), len(data.test), data.shape) == (8, 2, (3,))
    assert (data.train.x.dtype, data.train.y.dtype) == (torch.float32, torch.int64)
    assert data.train.y.tolist() == [1, 0] * 4
    blue_green_red = torch.tensor([[0, 1 / 3, 2 / 3], [1, 0, 0]])
    assert torch.allclose(data.train.x, blue_green_red.repeat(4, 1))


def test_columns_by_number_need_no_header_and_named_ones_are_joined(loaded: Load) -> None:
    joined = loaded(NAMED, "title,text").train.x[0]
    assert joined.sort().values.tolist() == [0, 0, 0.25, 0.25, 0.5]
    data = loaded(BODY, "1, 2", "0")
    assert len(data.train) + len(data.test) == 10
    assert data.train.x[0].count_nonzero() == 3
    assert data.shape == (5,)


def test_the_vocabulary_is_that_of_train_without_stop_words(loaded: Load) -> None:
    """Two rows of three are drawn, and the words of the third are unknown."""
    content = "text,label\nthe Lion and LION,a\nthe tiger,b\nof puma,a\nthe okapi,\n"
    data = loaded(content, train_size=2)
    assert sorted(data.train.x.tolist()) == torch.eye(3).flip(0).tolist()
    assert data.test.x.tolist() == [[0.0] * 3]


def test_the_most_frequent_words_are_kept_and_ties_go_by_the_alphabet(loaded: Load) -> None:
    content = "text,label\n" + "delta echo echo,a\nbravo charlie bravo,b\n" * 5
    data = loaded(content, vocabulary=3)
    assert data.train.x[:2].tolist() == [[0, 0, 1], [pytest.approx(2 / 3), pytest.approx(1 / 3), 0]]


def test_numbers_as_labels_are_sorted_as_numbers(loaded: Load) -> None:
    content = "text,label\n" + "lion,10\ntiger, 9\nzebra,-1\n" * 3
    assert loaded(content).class_names == ("-1", "9", "10")
    assert loaded(content.replace("-1", "x")).class_names == ("10", "9", "x")


def test_an_empty_label_is_an_unlabelled_row_in_train(loaded: Load) -> None:
    content = "text,label\n" + "lion,a\ntiger,b\nokapi,\nwhale, \n" * 5
    data = loaded(content, train_size=4)
    assert torch.bincount(data.train.y + 1).tolist() == [10, 2, 2]
    assert (len(data.test), data.shape) == (6, (4,))
    assert data.class_names == ("a", "b")


def test_what_a_csv_may_hold(loaded: Load) -> None:
    """A mark of byte order, blank lines, quoted commas, quotes and line breaks."""
    row = '"lion, ""king""\nof beasts",a\r\n\r\ntiger,b\n'
    data = loaded("\ufefftext,label\n" + row * 3)
    assert (len(data.train) + len(data.test), data.shape) == (6, (4,))


def test_equal_seeds_give_equal_splits(loaded: Load) -> None:
    content = "text,label\n" + "".join(f"word{i},{i * i % 7 % 2}\n" for i in range(40))
    first, same, other = (loaded(content, train_size=20, seed=seed).train.y for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


BAD_FILES: dict[str, tuple[str, tuple[str, ...], dict[str, int], str]] = {
    "no such number": (BODY, ("3", "0"), {}, "column '3', got '0', '1', '2'; name"),
    "name and number": (BODY, ("1",), {}, "column '1', got 'b', 'red red green'.*numbers"),
    "one column for both": (BODY, ("1,0", "0"), {}, "column of its own, got '0'"),
    "ragged": ("text,label\nx,a\n\nx,y,b\n", (), {}, "line 4: expected 2 fields .*got 3"),
    "huge field": (f"text,label\n{'x' * 2**20}x,a\n", (), {}, "line 2: .*larger than"),
    "no labels": ("text,label\nx,\n", (), {}, "2 classes in .*'label', got none"),
    "stop words": ("text,label\nthe,a\nof,b\nthe,a\n", (), {}, "got none but stop words"),
    "small train": (BODY, ("1", "0"), {"train_size": 1}, "at least 2 .*got 1 of 10"),
    "no test": (BODY, ("1", "0"), {"train_size": 10}, "to test on one, got 10 of 10"),
    "a row a class": ("text,label\nx,a\ny,b\n", (), {}, "got 2 of 2 .*or add rows"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_one_clear_line(loaded: Load, case: str) -> None:
    content, arguments, sizes, message = BAD_FILES[case]
    before = csv.field_size_limit()
    with pytest.raises(UserError, match=rf"x\.csv: .*{message}") as caught:
        loaded(content, *arguments, **sizes)
    assert "\n" not in str(caught.value)
    assert csv.field_size_limit() == before


def test_no_file_and_no_vocabulary_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"x\.csv: expected a readable .*No such file"):
        load_text(tmp_path / "x.csv", TextOptions())
    with pytest.raises(UserError, match="vocabulary of at least 1 word, got 0"):
        TextOptions(vocabulary=0)


def test_ag_news(real: Path) -> None:
    path = real / "ag_news" / "test.csv"
    if not path.is_file():
        pytest.skip("ag_news is not among the real data")
    first, same, other = (
        load_text(path, TextOptions("1,2", "0", train_size=50, seed=seed)) for seed in (0, 0, 1)
    )
    assert (len(first.train), len(first.test), first.classes) == (50, 7_550, 4)
    assert torch.bincount(first.train.y).tolist() == [13, 13, 12, 12]
    assert torch.equal(first.train.x, same.train.x)
    assert torch.equal(first.test.x, same.test.x)
    assert first.shape != other.shape or not torch.equal(first.train.x, other.train.x)


def test_a_run_keeps_the_words_so_that_new_texts_can_be_classified(tmp_path: Path) -> None:
    path = tmp_path / "animals.csv"
    rows = [f"{label},the {word} {word} runs {i}" for label, word in WORDS for i in range(20)]
    path.write_text("label,text\n" + "\n".join([*rows, ",a cat without a label"]))
    overrides = [{"train": {"epochs": 20}}]
    config = make_config("ib-inn", str(path), (1,), overrides=overrides)
    data = load_data(config)
    assert int(data.train.unlabelled.sum()) == 1
    run = Run(tmp_path / "run")
    model = train(config, data, run, device="cpu").model
    words = run.read_vocabulary()
    assert words == data.vocabulary
    assert {"cat", "dog"} <= set(words)
    x = word_frequencies(["two cats and a dog, dog", "the cat"], words)
    assert_close(x[:, [words.index("cat"), words.index("dog")]], torch.tensor([[0.0, 1], [1, 0]]))
    assert model.predict(x).tolist() == [1, 0]
