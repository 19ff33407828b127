"""The examples of the README and the guides run as they stand."""

import contextlib
import doctest
import importlib.util
import io
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

import flowclf
from flowclf.cli.app import run

README = Path(__file__).parents[1] / "README.md"
GUIDE = README.parent / "docs" / "family.md"


def python_blocks(page: Path = README) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), flags=re.DOTALL)


def test_a_network_of_ones_own_becomes_a_backbone() -> None:
    (code,) = python_blocks(GUIDE)
    names = {"flowclf": flowclf, "my_network": torch.nn.Flatten()}
    exec(code, names)
    x = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    assert names["model"].log_posterior(x).shape == (2, 10)  # type: ignore[attr-defined]


def test_the_transformer_of_the_docstring_runs() -> None:
    test = doctest.DocTestFinder().find(flowclf.build, "build", globs={"torch": torch})[0]
    test.globs["build"] = flowclf.build
    assert doctest.DocTestRunner().run(test) == (0, 3)


def test_the_python_example_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    code = python_blocks()[0]
    assert len(re.findall(r"^\S", code, flags=re.MULTILINE)) <= 10
    make_config = flowclf.make_config

    def quick(*arguments: Any, **options: Any) -> Any:
        return make_config(*arguments, overrides=[{"train": {"epochs": 2}}], **options)

    monkeypatch.setattr(flowclf, "make_config", quick, raising=False)
    names: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, names)
    assert printed.getvalue().count("tensor") == 3
    assert names["images"].shape == (10, 1, 8, 8)
    assert isinstance(names["model"].log_posterior(names["x"][:2]), torch.Tensor)


def test_the_estimator_runs() -> None:
    code = python_blocks()[1].replace("epochs=10", "epochs=2")
    names: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, names)
    assert "'beta':" in printed.getvalue()
    assert names["images"].shape == (10, 64)


def test_every_option_of_the_commands_exists(capsys: pytest.CaptureFixture[str]) -> None:
    block = README.read_text("utf-8").split("## The command line")[1].split("Your own data")[0]
    lines = [line.split("#")[0] for line in block.splitlines() if line.startswith("    flowclf")]
    commands = [command for line in lines for command in re.split(r"\s{4,}", line.strip())]
    assert len(commands) >= 8
    for command in commands:
        _, verb, *words = shlex.split(command)
        assert run([verb, *words[: verb == "study"], "--help"]) == 0
        help_text = capsys.readouterr().out
        assert all(word in help_text for word in words if word.startswith("--")), command


def test_links_lead_somewhere() -> None:
    for page in (README, *GUIDE.parent.glob("*.md")):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_an_index_gets_absolute_addresses() -> None:
    pytest.importorskip("hatchling")
    spec = importlib.util.spec_from_file_location("hatch_build", README.parent / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    text = README.read_text("utf-8")
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)
    assert pictures
    found = hooks.with_addresses(text, "https://example.org/own/flowclf")
    for picture in pictures:
        assert f"](https://example.org/own/flowclf/raw/HEAD/{picture})" in found
    without = hooks.with_addresses(text, None)
    assert not re.search(r"\]\((?!https?:|#)", without)
    assert without.count("*(picture: ") == len(pictures)
