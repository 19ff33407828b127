"""Figures of the house: lines, modules, files entered on four walks, docstrings, the wheel.

    python tests/house.py            # all of them, beside their goals (make house)

A walk counts the files of both packages in which a function runs, imports apart: one training step,
`log_prob`, `flowclf train` up to its first step, and a sweep of one point. `tests/test_house.py`
holds all goals but those of lines, which grow with what the house can do.
"""

import ast
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = tuple(f"{ROOT / name}{os.sep}" for name in ("couplings", "flowclf"))
# A docstring says what to expect in the imperative; these words open a riddle instead.
OPENERS = re.compile(r"(What|Of|Whether|Where|How|Those)\b")

GOALS = {
    "lines in couplings/ and flowclf/": 27_500,
    "lines in benchmarks/": 2_800,
    "lines in tests/": 23_500,
    "modules directly in flowclf/": 10,
    "docstrings that open with What, Of, Whether, Where, How, Those": 0,
    "files entered by a training step": 19,  # 18 without Muon
    "files entered by log_prob": 11,
    "files entered by train, up to its first step": 40,
    "files entered by a sweep of one point": 56,
}


def static_figures() -> dict[str, int]:
    """Return the figures that the sources alone give."""
    packages = [*_sources("couplings"), *_sources("flowclf")]
    counts = [
        sum(map(_lines, packages)),
        sum(map(_lines, _sources("benchmarks"))),
        sum(map(_lines, _sources("tests"))),
        len(list((ROOT / "flowclf").glob("*.py"))),
        sum(1 for path in packages for _ in riddles(path)),
    ]
    return dict(zip(GOALS, counts, strict=False))


def riddles(path: Path) -> Iterator[str]:
    """Yield the docstrings of a file that open with one of the words."""
    documented = ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, documented) and OPENERS.match(text := ast.get_docstring(node) or ""):
            yield text.splitlines()[0]


def files_entered() -> dict[str, list[str]]:
    """Return the files that each walk enters, relative to the repository.

    Walks are forks of one process that has imported the libraries, which takes longer than they do.
    """
    command = [sys.executable, __file__, "--walks"]
    paths = {"PYTHONPATH": os.pathsep.join((str(ROOT), *sys.path[1:]))}
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | paths)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return dict(json.loads(line) for line in done.stdout.splitlines() if line.startswith("["))


class Walk:
    """Record of the files whose functions run meanwhile, in all threads."""

    def __init__(self) -> None:
        self.entered: set[str] = set()
        self._imports: dict[int, int] = {}

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        """Serve as the profile function."""
        thread, code = threading.get_ident(), frame.f_code
        if code.co_name == "<module>" and event in ("call", "return"):
            step = 1 if event == "call" else -1
            self._imports[thread] = self._imports.get(thread, 0) + step
        elif event == "call" and not self._imports.get(thread):
            self.entered.add(code.co_filename)

    @property
    def files(self) -> list[str]:
        """Those of the packages, relative to the repository."""
        ours = (file for file in self.entered if file.startswith(PACKAGES))
        return sorted(os.path.relpath(file, ROOT) for file in ours)

    def __enter__(self) -> Self:
        threading.setprofile(self)
        sys.setprofile(self)
        return self

    def __exit__(self, *error: object) -> None:
        sys.setprofile(None)
        threading.setprofile(None)


class _EnoughError(BaseException):
    """End a training that has been walked."""


def _training_step(walk: Walk) -> None:
    import flowclf
    from flowclf.training.loop import Loop

    step = Loop._step
    data = flowclf.load_dataset("digits")

    def watched(self: Loop, number: int, *arguments: Any) -> None:
        if number == 0:
            return step(self, number, *arguments)
        with walk:
            step(self, number, *arguments)
        raise _EnoughError

    Loop._step = watched  # type: ignore[method-assign]
    with suppress(_EnoughError):
        flowclf.train(flowclf.make_config("ib-inn", "digits", data.shape), data)


def _log_prob(walk: Walk) -> None:
    import flowclf

    data = flowclf.load_dataset("digits")
    model = flowclf.build("ib-inn", shape=data.shape, classes=10, levels=17, preset="digits").eval()
    model.fit_statistics(data.train.x, data.train.y)
    model.log_prob(data.test.x[:8])
    with walk:
        model.log_prob(data.test.x[:8])


def _train(walk: Walk) -> None:
    with tempfile.TemporaryDirectory() as folder, walk:
        from flowclf.cli.app import run
        from flowclf.training.loop import Loop

        step = Loop._step

        def once(self: Loop, *arguments: Any) -> None:
            step(self, *arguments)
            raise _EnoughError

        Loop._step = once  # type: ignore[method-assign]
        with suppress(_EnoughError):
            run(["train", "ib-inn", "--data", "digits", "--out", f"{folder}/run"])


def _sweep(walk: Walk) -> None:
    with tempfile.TemporaryDirectory() as folder, walk:
        from flowclf.cli.app import run

        options = ["--betas", "1", "--workers", "1", "--set", "train.epochs=1"]
        options += ["--set", "data.train_size=200", "--set", "data.test_size=50"]
        run(["sweep", "ib-inn", "--data", "digits", "--out", f"{folder}/sweep", *options])


WALKS: dict[str, Callable[[Walk], None]] = {
    "a training step": _training_step,
    "log_prob": _log_prob,
    "train, up to its first step": _train,
    "a sweep of one point": _sweep,
}


def _walk(name: str) -> int:
    """Walk in a fork of this process, print the files, and return its exit code."""
    if process := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) and 1
    status = 1
    try:
        WALKS[name](walk := Walk())
        print(json.dumps([name, walk.files]), flush=True)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n")


def main(arguments: list[str]) -> int:
    """Print the table, or with `--walks` each walk and its files as one line of JSON."""
    if arguments == ["--walks"]:
        for name in ("torch._dynamo", "lightning.fabric", "matplotlib.figure", "sklearn.datasets"):
            import_module(name)  # Under a profile function it would take far longer.
        return max(_walk(name) for name in WALKS)
    walks = {f"files entered by {name}": len(files) for name, files in files_entered().items()}
    found = static_figures() | walks
    for name, goal in GOALS.items():
        print(f"{found[name]:>7,}  goal {goal:>6,}  {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
