"""Walks through the house stay short, and it stays tidy: goals of `tests/house.py`."""

import pytest
from house import GOALS, WALKS, files_entered, static_figures


@pytest.mark.parametrize("name", [name for name in static_figures() if "lines" not in name])
def test_modules_are_few_and_docstrings_say_what_is_done(name: str) -> None:
    assert static_figures()[name] <= GOALS[name]


@pytest.mark.parametrize("walk", WALKS)
def test_a_walk_enters_few_files(walk: str) -> None:
    files = files_entered(walk)
    assert 5 < len(files) <= GOALS[f"files entered by {walk}"], files
