"""A run knows its data and itself, a folder has one owner, and nothing written is lost.

Each test did something that went through without a word, or lost work, before it was mended.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forks import fork, held

import flowclf
from flowclf import runs
from flowclf.cli.app import run as command
from flowclf.runs import Run
from flowclf.support.atomic_files import claimed, write_text
from flowclf.support.errors import UserError
from flowclf.support.safetensors import read_tensors, write_tensors
from flowclf.training import Interrupted

Refused = Callable[..., str]
QUICK = ("--set", "train.batch_size=20", "--device", "cpu", "--no-baselines")
FLOW = ("--set", "network={blocks: 1, hidden: [4]}", *QUICK)


def save_table(path: Path, turn: int = 0) -> Path:
    """Save 80 samples of 3 classes, whose labels are rotated by `turn`."""
    y = np.arange(80) % 3
    x = np.random.default_rng(0).normal(size=(80, 4)) + 2 * np.eye(4)[y]
    y = (y + turn) % 3
    np.savez(path, x_train=x[:60], y_train=y[:60], x_test=x[60:], y_test=y[60:])
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with `my.npz` and `run`, trained on it."""
    root = tmp_path_factory.mktemp("hard")
    save_table(root / "my.npz")
    with working_in(root):
        options = ["--data", "my.npz", "--epochs", "2", "--out", "run", *FLOW]
        assert command(["train", "ib-inn", *options]) == 0
    return root


@pytest.fixture
def root(trained: Path, tmp_path: Path) -> Path:
    """Copy of it; the run still names the data of the first."""
    shutil.copytree(trained / "run", tmp_path / "run")
    return tmp_path


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


# A run knows its data.


@pytest.mark.parametrize("verb", [["evaluate"], ["train", "--resume"]])
def test_labels_that_were_rotated_are_refused_by_name(
    trained: Path, verb: list[str], refused: Refused
) -> None:
    before = (trained / "run" / "summary.json").read_bytes()
    save_table(trained / "my.npz", turn=1)
    try:
        line = refused(*verb, trained / "run")
    finally:
        save_table(trained / "my.npz")
    assert re.search(r"my\.npz is no longer the data that .*run was trained on: .*sha256", line)
    assert (trained / "run" / "summary.json").read_bytes() == before
    assert command([*verb, str(trained / "run")]) == 0


def test_data_by_a_relative_path_are_found_from_elsewhere_and_no_others_are(root: Path) -> None:
    save_table(root / "my.npz", turn=1)
    with working_in(root):
        assert command(["evaluate", "run", "--suite", "accuracy"]) == 0
    found = Run(root / "run").read_evaluation()["accuracy"]
    assert found == Run(root / "run").read_summary()["test"]["accuracy"]


def test_data_in_memory_are_compared_when_a_run_goes_on(tmp_path: Path) -> None:
    x, y = torch.randn(60, 4, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 2
    data = flowclf.data.from_arrays(x, y)
    config = flowclf.make_config("ce", data.name, data.shape, epochs=1)
    run = Run(tmp_path / "run")
    flowclf.train(config, data, run)
    other = flowclf.data.from_arrays(x, y.roll(1))
    with pytest.raises(UserError, match="no longer the data"):
        flowclf.train(config, other, run, resume=True)


# A run is tied to itself.


def test_every_byte_of_the_configuration_is_tied(root: Path) -> None:
    run = Run(root / "run")
    content, expected = run.config_file.read_bytes(), run.read_config()
    # Each of them takes a quarter of a minute, and was refused.
    for place in (*range(0, len(content), 23), *range(len(content) - 90, len(content))):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 7
        run.config_file.write_bytes(changed)
        try:
            assert run.read_config() == expected, place
            run.check_identity(read_tensors(run.weights_file)[1], run.weights_file)
        except UserError:
            continue
        # Line ends may be of another system: none of them says anything else.
        assert chr(content[place]) == "\n"
        assert chr(changed[place]) == "\r"


@pytest.mark.parametrize("setting", ["lr: ", "epochs: ", "torch: ", "sha256: ", "seed: "])
def test_edited_settings_are_refused_when_a_run_goes_on(
    root: Path, setting: str, refused: Refused
) -> None:
    config = root / "run" / "config.yaml"
    text = config.read_text("utf-8")
    config.write_text(re.sub(rf"({setting}['a-f]?)\w", r"\g<1>7", text, count=1), "utf-8")
    assert config.read_text("utf-8") != text
    for verb in (["train", "--resume"], ["evaluate"], ["sample", "--out", "x.png"]):
        assert "damaged or was edited" in refused(*verb, root / "run")


def test_a_configuration_without_its_last_line_is_not_that_of_the_weights(
    root: Path, refused: Refused
) -> None:
    config = root / "run" / "config.yaml"
    config.write_text(config.read_text("utf-8").rpartition("sha256: ")[0], "utf-8")
    assert "belongs to another run" in refused("evaluate", root / "run")
    assert "belongs to another run" in refused("train", "--resume", root / "run")


@pytest.mark.parametrize("file", ["model.safetensors", "checkpoint/state.safetensors"])
def test_files_of_another_run_are_refused(
    root: Path, trained: Path, file: str, refused: Refused
) -> None:
    data = str(trained / "my.npz")
    options = ["--data", data, "--epochs", "2", "--seed", "1", "--out", str(root / "other")]
    assert command(["train", "ib-inn", *options, *FLOW]) == 0
    shutil.copy(root / "other" / file, root / "run" / file)
    verb = ["train", "--resume"] if "state" in file else ["evaluate"]
    assert "belongs to another run" in refused(*verb, root / "run")


def rewrite(file: Path, change: Callable[[str, torch.Tensor], torch.Tensor]) -> None:
    """Write tensors anew, with a digest that is right."""
    tensors, note = read_tensors(file)
    write_tensors(file, {name: change(name, value) for name, value in tensors.items()}, note)


def test_weights_of_another_type_are_refused(root: Path, refused: Refused) -> None:
    rewrite(
        root / "run" / "model.safetensors",
        lambda _, value: value.bfloat16() if value.is_floating_point() else value,
    )
    assert "bfloat16" in refused("evaluate", root / "run")


@pytest.mark.parametrize(
    ("part", "factor", "message"),
    [("rotation", 1.1, "to be orthogonal"), ("scale", -1, "positive, finite scale")],
)
def test_maps_that_are_none_are_refused(root: Path, part: str, factor: float, message: str) -> None:
    names: list[str] = []

    def change(name: str, value: torch.Tensor) -> torch.Tensor:
        if name.endswith(f".{part}"):
            names.append(name)
            return value * factor
        return value

    rewrite(root / "run" / "model.safetensors", change)
    assert names
    with pytest.raises(UserError, match=message):
        flowclf.load(root / "run")


@pytest.mark.parametrize(
    ("old", "new"), [('"0"', '"3"'), ('"beta": 1.0', '"beta": 1.1'), ('"gain": 1', '"gain": 2')]
)
def test_settings_and_names_of_a_saved_model_are_tied_to_its_weights(
    trained: Path, tmp_path: Path, old: str, new: str
) -> None:
    flowclf.load(trained / "run").save(tmp_path / "saved")
    file = tmp_path / "saved" / "config.json"
    assert flowclf.load(tmp_path / "saved").info.class_names == ("0", "1", "2")
    text = file.read_text("utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), "utf-8")
    with pytest.raises(UserError, match=r"config\.json was edited, or belongs to other weights"):
        flowclf.load(tmp_path / "saved")


# A folder has one owner.


def test_a_finished_run_is_not_written_over(tmp_path: Path) -> None:
    x, y = torch.randn(60, 4, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 2
    data = flowclf.data.from_arrays(x, y)
    config = flowclf.make_config("ce", data.name, data.shape, epochs=1)
    run = Run(tmp_path / "run")
    flowclf.train(config, data, run)
    before = run.weights_file.read_bytes()
    with pytest.raises(UserError, match="another training has ended meanwhile"):
        flowclf.train(config, data, run)
    assert run.weights_file.read_bytes() == before


def test_a_second_trainer_is_refused_before_it_reads_the_data(
    tmp_path: Path, refused: Refused
) -> None:
    with held(tmp_path / "run"):
        start = time.perf_counter()
        for words in (["--out", tmp_path / "run"], ["--resume", tmp_path / "run"]):
            assert "in use by another process" in refused("train", "ib-inn", *words)
        assert time.perf_counter() - start < 1


def test_a_second_trainer_is_refused_before_torch_is_imported(tmp_path: Path) -> None:
    code = "import sys; from flowclf.cli.app import run; status = run(sys.argv[1:]); "
    code += "sys.exit(3 if 'torch' in sys.modules else status)"
    with held(tmp_path / "run"):
        words = [sys.executable, "-c", code, "train", "ib-inn", "--out", str(tmp_path / "run")]
        assert subprocess.run(words, capture_output=True).returncode == 2


def test_a_deleted_lock_admits_nobody(tmp_path: Path, refused: Refused) -> None:
    with held(tmp_path / "run"):
        (tmp_path / "run" / ".lock").unlink()
        line = refused("train", "ib-inn", "--out", tmp_path / "run")
        assert "in use by another process" in line


def test_a_lock_that_is_a_link_is_named(tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "elsewhere")
    line = refused("train", "ib-inn", "--out", tmp_path / "run")
    assert ".lock in it is a link; remove it" in line
    assert not (tmp_path / "elsewhere").exists()


def test_a_folder_that_nothing_is_written_to_is_removed(tmp_path: Path, refused: Refused) -> None:
    refused("train", "nothing", "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with claimed(tmp_path / "new"):
        write_text(tmp_path / "new" / "a", "a")
    assert (tmp_path / "new" / "a").exists()


def dangling(path: Path) -> Path:
    path.symlink_to(path.with_name("nowhere"))
    return path


OUT: dict[str, Callable[[Path], Path]] = {
    "in a file": lambda p: p / "file" / "run",
    "too long": lambda p: p / ("x" * 300),
    "dangling": lambda p: dangling(p / "link"),
    "looping": lambda p: (p / "loop").symlink_to(p / "loop") or p / "loop" / "run",
}


@pytest.mark.parametrize("place", OUT)
def test_places_that_cannot_be_written_to_have_a_remedy(
    tmp_path: Path, place: str, refused: Refused
) -> None:
    (tmp_path / "file").touch()
    line = refused("train", "ib-inn", "--out", OUT[place](tmp_path))
    assert "choose another --out" in line
    assert "Errno" not in line


# Nothing that is written is lost.


def test_two_evaluations_of_one_run_lose_nothing(tmp_path: Path) -> None:
    def write(first: int) -> None:
        for number in range(first, first + 20):
            Run(tmp_path).write_evaluation({f"key{number}": number})

    processes = [fork(lambda first=first: write(first)) for first in (0, 100)]
    assert [os.waitpid(process, 0)[1] for process in processes] == [0, 0]
    found = Run(tmp_path).read_evaluation()
    assert sum(key.startswith("key") for key in found) == 40


def test_metrics_are_appended_and_a_line_that_was_cut_is_left_out(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for step in range(3):
        run.append_metrics({"step": step})
    number = run.metrics_file.stat().st_ino
    with run.metrics_file.open("a") as file:
        file.write('{"step": 3')
    assert [row["step"] for row in run.read_metrics()] == [0, 1, 2]
    assert run.metrics_file.stat().st_ino == number
    run.keep_metrics_until(1)
    run.append_metrics({"step": 5})
    assert [row["step"] for row in run.read_metrics()] == [0, 1, 5]


def test_a_part_file_that_is_a_link_is_not_written_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "target").write_text("precious")
    monkeypatch.setattr("secrets.token_hex", lambda count: "known")
    (tmp_path / ".a.known.part.txt").symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="File exists"):
        write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "target").read_text() == "precious"


def test_a_reader_gets_the_old_or_the_new_file(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    states = [{"a": torch.full((1000,), k), "b": torch.full((10**k,), k)} for k in (1, 3)]
    write_tensors(file, states[0])
    ended = threading.Event()

    def replace() -> None:
        number = 0
        while not ended.is_set():
            number += 1
            write_tensors(file, states[number % 2])

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        for _ in range(200):
            found = read_tensors(file)[0]
            assert len(found["b"]) == 10 ** int(found["a"][0])
    finally:
        ended.set()
        writer.join()


# Signals and output.


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1"])
def test_signals_save_and_stop_a_training(trained: Path, tmp_path: Path, number: str) -> None:
    data, run = flowclf.load_dataset(str(trained / "my.npz")), Run(tmp_path / "run")
    config = flowclf.make_config("ce", data.name, data.shape, epochs=1000)

    def report(step: int, steps: int, epoch: int, terms: Any) -> None:
        if step == 3:
            # To the process and to its group: one request, and no reason to end without a save.
            for _ in range(2):
                os.kill(os.getpid(), getattr(signal, number))

    with pytest.raises(Interrupted, match="stopped after step 4"):
        flowclf.train(config, data, run, report=report)
    assert json.loads(read_tensors(run.checkpoint_file)[1])["step"] == 4


def test_lines_that_cannot_be_written_end_no_training(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = str(trained / "my.npz")
    options = ["--data", data, "--epochs", "20", "--out", str(tmp_path / "run")]
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stderr", full)
        assert command(["train", "ce", *options, *QUICK]) == 0
        with suppress(OSError):
            full.close()
    assert Run(tmp_path / "run").read_summary()


def test_a_folder_that_vanishes_stops_its_training(trained: Path, tmp_path: Path) -> None:
    run, done = Run(tmp_path / "run"), list[int]()
    data = flowclf.load_dataset(str(trained / "my.npz"))
    often = {"checkpoint_minutes": 1e-9, "batch_size": 20}
    config = flowclf.make_config("ce", data.name, data.shape, epochs=50, overrides={"train": often})

    def report(step: int, steps: int, epoch: int, terms: Any) -> None:
        done.append(step)
        if step == 5:
            run.folder.rename(tmp_path / "moved")

    with pytest.raises(UserError, match="has gone: it was moved or deleted while it was trained"):
        flowclf.train(config, data, run, report=report)
    assert len(done) == 6
    assert not run.folder.exists()


# Whose commit is recorded.


def test_the_commit_of_a_repository_around_us_is_not_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "theirs"]):
        subprocess.run([*git, *words], check=True, capture_output=True)
    (tmp_path / "lib" / "flowclf").mkdir(parents=True)
    monkeypatch.setattr(runs, "__file__", str(tmp_path / "lib" / "flowclf" / "runs.py"))
    assert runs.git_commit() is None


def test_features_that_overflow_are_refused_before_training() -> None:
    y = torch.arange(60) % 2
    x = 5e37 * torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    with pytest.raises(UserError, match="too large; divide them"):
        flowclf.train("ib-inn", (x, y), epochs=1, verbose=False, device="cpu")
