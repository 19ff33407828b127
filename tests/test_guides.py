"""Every Python block of the guides runs as it stands, in the order of its page.

On digits their models are smaller than they would be. A block below a comment `<!-- not run: WHY
-->` is left out. The README and `family.md`, whose examples are shortened, are those of
`test_readme.py`.
"""

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest

from flowclf.config import make_config

SMALL = {"network": {"kind": "mlp", "blocks": 1, "hidden": [8]}, "data.train_size": 200}
GUIDES = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"(<!-- not run.*? -->\n)?```python\n(.*?)```", re.DOTALL)
OTHERS = {"family.md"}


def blocks(page: Path) -> list[str]:
    return [code for skipped, code in BLOCK.findall(page.read_text("utf-8")) if not skipped]


PAGES = [page.name for page in sorted(GUIDES.glob("*.md")) if page.name not in OTHERS]
WITH_CODE = [name for name in PAGES if blocks(GUIDES / name)]


def test_there_are_pages_with_code() -> None:
    assert {"first_steps.md", "your_data.md"} <= set(WITH_CODE)


@pytest.mark.parametrize("name", WITH_CODE)
def test_the_code_of_a_page_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def quick(system: str, dataset: str, *arguments: Any, overrides: Any = (), **own: Any) -> Any:
        layers = [*overrides, SMALL] if dataset == "digits" else overrides
        return make_config(system, dataset, *arguments, overrides=layers, **own)

    monkeypatch.setattr("flowclf.training.start.make_config", quick)
    names: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        for number, code in enumerate(blocks(GUIDES / name)):
            exec(compile(code, f"{name}, block {number}", "exec"), names)
