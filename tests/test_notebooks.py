"""Each notebook is what its source gives: same cells, all run, nothing failed (`make notebooks`).

That the sources still run is seen by `make test-notebooks`.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
SOURCES = sorted(FOLDER.glob("[0-9]*.py"))
# Of the whole file: pictures are in it.
MOST_BYTES = 600_000

pytestmark = pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)


def notebook(source: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(source.with_suffix(".ipynb").read_text("utf-8"))
    return document


def outputs(source: Path) -> list[dict[str, Any]]:
    return [out for cell in notebook(source)["cells"] for out in cell.get("outputs", ())]


def source_cells(source: Path) -> list[tuple[str, str]]:
    """Kind and text of each cell of a source in jupytext's percent format."""
    _, *parts = re.split(r"^# %%", source.read_text("utf-8"), flags=re.MULTILINE)
    cells = []
    for part in parts:
        head, _, body = part.partition("\n")
        if "[markdown]" in head:
            cells.append(("markdown", re.sub(r"^# ?", "", body, flags=re.MULTILINE).strip()))
        else:
            cells.append(("code", re.sub(r"^# %", "%", body, flags=re.MULTILINE).strip()))
    return cells


def test_it_is_in_step_with_its_source(source: Path) -> None:
    cells = notebook(source)["cells"]
    found = [(cell["cell_type"], "".join(cell["source"]).strip()) for cell in cells]
    assert found == source_cells(source), f"make notebooks: {source.name} has changed"


def test_every_cell_ran_once_and_in_order(source: Path) -> None:
    code = [cell for cell in notebook(source)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))


def test_nothing_failed_or_warned(source: Path) -> None:
    found = outputs(source)
    assert found
    assert not [out for out in found if out["output_type"] == "error"]
    assert not [out for out in found if out.get("name") == "stderr"]


def test_it_has_pictures_and_is_small(source: Path) -> None:
    assert any("image/png" in out.get("data", ()) for out in outputs(source))
    assert source.with_suffix(".ipynb").stat().st_size < MOST_BYTES


def test_it_says_nothing_of_the_machine(source: Path) -> None:
    document = notebook(source)
    assert document["metadata"] == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}
    }
    assert not any(cell["metadata"] for cell in document["cells"])
    texts = [
        "".join(out.get("text", out.get("data", {}).get("text/plain", "")))
        for out in outputs(source)
    ]
    assert not re.search(r"(^|[\s'\"(])(/[a-z]|[A-Z]:\\)", "\n".join(texts))


def test_each_step_has_its_reason(source: Path) -> None:
    """No more than two cells of code without a paragraph before them."""
    kinds = "".join(kind[0] for kind, _ in source_cells(source))
    assert kinds.startswith("mc")
    assert "ccc" not in kinds


def test_it_defines_nothing_but_what_is_the_readers_own(source: Path) -> None:
    code = "\n".join(text for kind, text in source_cells(source) if kind == "code")
    defines = re.search(r"^\s*(def|class|async def) |\blambda\b", code, flags=re.MULTILINE)
    assert bool(defines) == (source.stem == "05-your-own")
