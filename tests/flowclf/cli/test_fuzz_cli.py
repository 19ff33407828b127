"""Command lines of every verb at random: done, or refused in one line; never anything else.

Options are those that the verbs say they have, so that a new one is tried as well. Training ends
after a step, and exporting leaves torch's part of it out; all else is real. `damaged` is a run's
folder with some values in its documents replaced.

FLOWCLF_FUZZ=2000 makes as many cases of each verb, other ones each time; -s prints their counts.
"""

import contextlib
import io
import json
import os
import shutil
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import nan
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import typer
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.fabric import Fabric

from flowclf.cli.app import app, run
from flowclf.config import flatten, make_config
from flowclf.evaluation.suites import SUITES
from flowclf.export import READERS, WRITERS, Scores
from flowclf.systems import SYSTEMS
from flowclf.training import Interrupted, loop

CASES = int(os.environ.get("FLOWCLF_FUZZ", "6"))
# Of CPU time, a case; and what a model may be trained in.
SECONDS, MEMORY = 10, 2**28
SMALL = ("--set", "network={kind: mlp, hidden: [8]}", "--epochs", "1", "--device", "cpu")
Edits = list[tuple[str, int, Any]]


def verbs(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Yield the verbs of a group, and of the groups in it."""
    below = getattr(command, "commands", None)
    if below is None:
        yield " ".join(path), command
    for name, each in (below or {}).items():
        yield from verbs(each, (*path, name))


def defaults(system: str) -> dict[str, Any]:
    """Return the dotted names of settings for images and for tables, with their defaults."""
    found = [flatten(make_config(system, "", shape).to_dict()) for shape in ((1, 4, 4), (4,))]
    return found[0] | found[1]


COMMAND = typer.main.get_command(app)
VERBS = dict(verbs(COMMAND))
# Compiling takes minutes, and so does a step of a thousand threads.
SLOW = {"train.compile", "train.threads"}
SETTINGS = {system: sorted({*defaults(system), "x.y"} - SLOW) for system in SYSTEMS}
USED = sorted({str(value) for system in SYSTEMS for value in defaults(system).values()})
NUMBERS = (
    "0", "1", "-1", "2", "3", "0.5", "1.5", "1e-3", "1e-300", "1e300", "1e999", "nan", "inf",
    "-inf", ".nan", ".inf", "7" * 30, "-" + "7" * 30, "9" * 5000, "1_000", "٣", "0x10", "1e3",
    "65536", "1000000", "1000000000", "2147483648", "9223372036854775807", "9223372036854775808",
)  # fmt: skip
TEXTS = (
    "", " ", "-", "--", "-x", "--nothing", "--json", "=", ",", ":", "1,2", "1:2:3", "1:2:99999999",
    "a=b", "null", "~", "[]", "{}", "[1, 2]", "{a: 1}", "[[[", "&a [*a]", "!!python/object:os.x",
    '"\\0"', "2020-01-01", "a\nb", "a\r\tb", "\x1b[31mred", "\u202eabc", "é", "🦆", "\udcff",
    "true", "4-9", "0-1,1-0", "noise:0.1", "uniform", "[bold]", "[/]", "%s", "{x}", "a" * 300,
)  # fmt: skip
PATHS = (
    "flow", "plain", "vae", "swept", "damaged", "empty", "file", "nowhere", "nowhere/below", ".",
    "file/below", "./flow/", "list.yaml", "settings.yaml", "pictures.npz", "table.npz", "a.html",
    "words.csv", "a.png", "a.onnx", "new", "flow/config.yaml", "flow/model.safetensors",
    "a\udcff.png",
)  # fmt: skip
RUNS = ("flow", "flow", "vae", "plain", "damaged", "damaged", "empty", "nowhere")
# Of options and arguments by name, or by verb and name; all others get what is odd.
RIGHT: dict[str, Iterable[str]] = {
    **dict.fromkeys(("run", "runs"), RUNS),
    **dict.fromkeys(("system", "systems"), SYSTEMS),
    **dict.fromkeys(("sweep out", "study low-data out"), ("new", "new", "empty", "flow")),
    **dict.fromkeys(("sample out", "interpolate out", "figure out"), ("a.png", "b/a.png", "a.svg")),
    **dict.fromkeys(("epochs", "updates", "pairs", "steps", "per_class", "samples"), ("2", "3")),
    "sample run": ("flow", "flow", "vae", "damaged"),
    "folders": (*RUNS, "swept"),
    "resume": ("flow", "damaged"),
    "what": (*SYSTEMS, "swept"),
    "task": ("couplings", "digits", "mnist14", "bvae", "vc-low-data"),
    "data": ("pictures.npz", "table.npz", "digits", "words.csv"),
    "data_dir": (".", "empty"),
    "out": ("new", "empty", "flow"),
    "report out": ("a.html",),
    "export out": ("a.onnx", "a.pt2"),
    "explore export": ("a.html",),
    "port": ("0",),
    "ort": ("empty",),
    "config": ("settings.yaml",),
    "preset": ("image", "mlp", "mnist", "text"),
    "assignments": ("train.epochs=2", "network.kind=mlp", "data.train_size=30"),
    "grid": ("train.lr=1e-3,2e-3", "train.batch_size=16,32"),
    "betas": ("1", "0.1:10:3", "0,inf"),
    "beta": ("0", "1", "inf"),
    "seed": ("0", "3"),
    "seeds": ("0", "0,1"),
    "sizes": ("10", "20,30"),
    "suite": (*SUITES, "accuracy,likelihood"),
    "outliers": ("noise:0.1", "uniform,flipped", "pictures.npz"),
    "device": ("cpu",),
    **dict.fromkeys(("devices", "nodes"), ("1", "2")),
    "workers": ("1",),
    "engine": ("local",),
    "temperature": ("0.7", "0.4,1"),
    "around": ("data", "means"),
    "between": ("images", "means", "classes"),
    "classes": ("0-1", "0-1,1-2"),
    "kind": ("latent", "principal", "reconstructions", "landscape", "information", "extraction"),
    "image": ("0", "1"),
    "format": ("onnx", "torch-export"),
    "tolerance": ("1e-3",),
}
# Sixteenths of the cases in which what could be left out is given; of others two.
LIKELY = {
    **dict.fromkeys(("out", "data", "sizes", "assignments"), 14),
    **dict.fromkeys(("grid", "betas"), 4),
    **dict.fromkeys(("beta", "preset", "resume", "config", "status", "list_scores"), 1),
}


def odd(random: Random) -> str:
    """Draw anything that a shell can pass."""
    match random.randrange(6):
        case 0:
            most = 10 ** random.randrange(20)
            return str(random.randint(-most, most))
        case 1:
            ends = random.choice((256, 0x110000))
            letters = (chr(random.randrange(1, ends)) for _ in range(random.randrange(6)))
            return "".join(letters).replace("/", "")
        case 2:
            return random.choice(TEXTS)
        case 3:
            return random.choice(PATHS)
    return random.choice(NUMBERS)


def assignment(random: Random, words: list[str]) -> str:
    """Assign a value to a setting that the system among the words has."""
    system = next((word for word in words if word in SYSTEMS), "ib-inn")
    value = random.choice((random.choice(NUMBERS), random.choice(USED), odd(random)))
    return f"{random.choice(SETTINGS[system])}={value}"


def right(random: Random, verb: str, name: str, words: list[str]) -> str:
    """Draw a plausible value for an option, if it is known."""
    if name == "assignments" and random.randrange(3):
        return assignment(random, words)
    values = RIGHT.get(f"{verb} {name}", RIGHT.get(name))
    return random.choice([*values]) if values else odd(random)


def command_line(random: Random, verb: str) -> list[str]:
    """Draw a line, mostly right, with up to two odd values, and now and then a word too many."""
    words, params = verb.split(), VERBS[verb].params
    wrong = random.sample(params, min(len(params), random.choice((0, 0, 0, 1, 1, 2))))
    for param in params:
        argument, option = param.param_type_name == "argument", param.opts[0]
        likely = 16 if param.required else LIKELY.get(param.name, 15 if argument else 2)
        if param not in wrong and random.randrange(16) >= likely:
            continue
        if getattr(param, "is_flag", False):
            words.append(random.choice([*param.opts, *param.secondary_opts]))
            continue
        for _ in range(random.randint(1, 3 if param.multiple or param.nargs != 1 else 1)):
            value = odd(random) if param in wrong else right(random, verb, param.name, words)
            words += [value] if argument else [option, value]
    return words if random.randrange(16) else [*words, odd(random)]


def some_edits(random: Random) -> Edits:
    """Draw places in the documents of a run, and values to put there."""
    files = ("config.yaml", "config.yaml", "summary.json")
    values = (odd(random), None, [], {}, 1e300, -1, 0, 2**40, nan, [0], "x")
    count = random.randrange(1, 4)
    return [
        (random.choice(files), random.randrange(200), random.choice(values)) for _ in range(count)
    ]


def damage(folder: Path, edits: Edits) -> None:
    """Replace values in the documents of a run, which stay well-formed."""
    for name, place, value in edits:
        file = folder / name
        document = yaml.safe_load(file.read_text("utf-8"))
        keys = list(flatten(document))
        *above, last = keys[place % len(keys)].split(".")
        section = document
        for key in above:
            section = section[key]
        section[last] = value
        dump = json.dumps if name.endswith("json") else yaml.safe_dump
        file.write_text(dump(document), "utf-8", "surrogatepass")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with runs, data and files to name, below all that is watched."""
    folder = tmp_path_factory.mktemp("fuzz") / "a" / "b" / "here"
    folder.mkdir(parents=True)
    rng, y = np.random.default_rng(0), np.arange(60) % 3
    x, pictures = rng.normal(size=(60, 4)), rng.integers(0, 256, (60, 4, 4), dtype=np.uint8)
    labels = {"y_train": y, "y_test": y[:30]}
    np.savez(folder / "table.npz", x_train=x, x_test=x[:30], **labels)
    np.savez(folder / "pictures.npz", x_train=pictures, x_test=pictures[:30], **labels)
    texts = [f"word{n % 3} and word{n % 7},{n % 3}\n" for n in range(60)]
    (folder / "words.csv").write_text("".join(["text,label\n", *texts]))
    (folder / "list.yaml").write_text("- 1\n")
    (folder / "settings.yaml").write_text("train: {epochs: 2}\n")
    (folder / "file").write_text("x")
    (folder / "empty").mkdir()
    trained = {"flow": ("ib-inn", "pictures"), "vae": ("vae", "pictures"), "plain": ("ce", "table")}
    with contextlib.chdir(folder), contextlib.redirect_stderr(io.StringIO()):
        for name, (system, data) in trained.items():
            words = ["train", system, "--data", f"{data}.npz", "--out", name, *SMALL]
            assert run([*words, "--no-baselines", "--json"]) == 0
        sweep = ["sweep", "ib-inn", "--betas", "1,2", "--data", "pictures.npz", "--out", "swept"]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop.Loop, "run_all", one_step)
            assert run([*sweep, *SMALL, "--workers", "1"]) == 1
    return folder


def one_step(self: loop.Loop, resume: bool, identity: str) -> float:
    """Stand in for a training: one step."""
    if resume:
        self._restore()
    self._step(0, 0.0)
    raise Interrupted("stopped after a step")


@pytest.fixture(autouse=True)
def intercepted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Cut off the network, other processes and recorded results; train for one step."""

    def refuse(*args: object, **options: object) -> None:
        raise OSError("no network")

    def here(jobs: Iterable[Any], *args: object) -> Iterator[Any]:
        return (job() for job in jobs)

    def alone(**options: Any) -> Fabric:
        return Fabric(**options | {"devices": 1, "num_nodes": 1, "strategy": "auto"})

    exported = list[Any]()

    def write(program: Any, part: Path, *args: object) -> None:
        part.write_bytes(b"x")
        exported[:] = [program]

    replaced = {
        # Most of the time would go into making it anew.
        "typer.main.get_command": lambda _: COMMAND,
        "lightning.fabric.Fabric": alone,
        "flowclf.training.loop.Loop.run_all": one_step,
        "flowclf.many.run.run_jobs": here,
        "benchmarks.flowclf.study.run_jobs": here,
        "benchmarks.couplings.cli.main": lambda _: 0,
        "benchmarks.results.recorded": lambda file: tmp_path / file,
        "flowclf.export._trace": lambda model, x: Scores(model).eval(),
        "flowclf.models.machine_memory": lambda: MEMORY,
        "flowclf.data.source.user_cache": lambda: tmp_path / "cache",
        "pooch.retrieve": refuse,
        "webbrowser.open": lambda _: True,
        "flowclf.explore.export.fetch_runtime": refuse,
        "flowclf.explore.server.serve": lambda *_: None,
        "flowclf.explore.Explorer.prepare": lambda _: None,
    }
    for name, value in replaced.items():
        monkeypatch.setattr(name, value)
    for kind in WRITERS:
        monkeypatch.setitem(WRITERS, kind, write)
        monkeypatch.setitem(READERS, kind, lambda *_: exported[0])
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("FLOWCLF_DATA", raising=False)


def files(root: Path) -> dict[Path, tuple[int, int]]:
    """Return the files below, with the facts that change when one is written."""
    found = [path for path in root.rglob("*") if not path.is_dir()]
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in found}


@dataclass
class Tried:
    """Outcomes of the cases of a verb."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest: float = 0.0

    def case(self, words: list[str], edits: Edits, root: Path) -> None:
        """Run a command line, and check its answer and the files it leaves."""
        before, started = files(root), time.process_time()
        # Standard output as it is under a UTF-8 locale, which has no surrogates.
        out, err = (
            io.TextIOWrapper(io.BytesIO(), "utf-8", errors, newline="\n")
            for errors in ("strict", "backslashreplace")
        )
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                status: int | None = run(words)
                out.flush()
        except BaseException:
            status = None
            err.write(traceback.format_exc())
        err.flush()
        said, seconds = err.buffer.getvalue().decode(), time.process_time() - started
        after = files(root)
        left = {path for path in after if after[path] != before.get(path)}
        self.slowest = max(self.slowest, seconds)
        self.counts[f"{status}, trained" if "stopped after" in said else str(status)] += 1
        if wrong := complaint(status, said, left, words, seconds):
            self.failures.append(f"{wrong}: {words} {edits}\n{said}")


def complaint(
    status: int | None, said: str, left: set[Path], words: list[str], seconds: float
) -> str | None:
    """Return the fault of an answer, or None."""
    lines = [line for line in said.split("\n") if line.startswith("flowclf: ")]
    if status not in (0, 1, 2):
        return "no exit status"
    # Before it there may be notes on the data, and what has been done.
    if status == 2 and not (lines == said.splitlines()[-1:] and lines[0].isprintable()):
        return "not one line"
    # What was found of a run stays, where the next one is refused.
    if status == 2 and words[0] != "evaluate" and left:
        return f"left {sorted(left)}"
    if seconds > SECONDS:
        return f"took {seconds:.0f} s"
    return None


@pytest.mark.parametrize("verb", VERBS)
def test_any_command_line_is_done_or_refused(
    verb: str, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, root, found = tmp_path / "whole", world.parents[2], Tried()
    shutil.copytree(world, whole)
    untouched = files(root)
    monkeypatch.chdir(world)

    @settings(max_examples=CASES, deadline=None, database=None, derandomize=CASES < 1000)
    @given(st.randoms(use_true_random=True))
    def tried(random: Random) -> None:
        nonlocal untouched
        words, edits = command_line(random, verb), some_edits(random)
        if "damaged" in words:
            shutil.copytree("flow", "damaged")
            damage(Path("damaged"), edits)
        found.case(words, edits, root)
        if files(root) != untouched:
            assert all(world in path.parents for path in files(root))
            shutil.rmtree(world)
            shutil.copytree(whole, world)
            untouched = files(root)
            os.chdir(world)

    tried()
    print(f"{verb}: {dict(found.counts)}, slowest {found.slowest:.1f} s")
    assert not found.failures, "\n\n".join(found.failures[:20])
