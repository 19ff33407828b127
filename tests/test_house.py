"""Walks through the house stay short, and it stays tidy: goals of `tests/house.py`."""

from house import GOALS, WALKS, files_entered, static_figures


def test_modules_are_few_and_docstrings_say_what_is_done() -> None:
    found = {name: figure for name, figure in static_figures().items() if "lines" not in name}
    assert len(found) == 2
    assert all(figure <= GOALS[name] for name, figure in found.items()), found


def test_walks_enter_few_files() -> None:
    found = files_entered()
    assert found.keys() == WALKS.keys()
    for walk, files in found.items():
        assert 5 < len(files) <= GOALS[f"files entered by {walk}"], (walk, files)
