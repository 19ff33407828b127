"""Checkpoints: complete, refused where damaged, and not lost where a save fails."""

import io
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from errno import EACCES, EIO, ENOSPC
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors.torch import load_file, save_file
from small_systems import history, saved
from torch import Tensor, nn
from torch.testing import assert_close

import flowclf
from flowclf.classifier import GenerativeClassifier
from flowclf.cli.app import run as flowclf_command
from flowclf.config import RunConfig, make_config, merge
from flowclf.data import Dataset
from flowclf.models import load_weights
from flowclf.runs import Run
from flowclf.support.errors import UserError
from flowclf.support.safetensors import DamagedFile
from flowclf.systems import SYSTEMS
from flowclf.training import train
from flowclf.training.checkpoint import Position, load_checkpoint, save_checkpoint
from flowclf.training.setup import fresh_model, make_optimizer

STEPS, MIDDLE = 6, 3
OFTEN = {"checkpoint_minutes": 1e-9}
SMALL: dict[str, Any] = {"train": {"epochs": 2, "batch_size": 20, **OFTEN}}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """60 samples of 3 classes, in a file."""
    y = np.arange(60) % 3
    x = np.random.default_rng(0).normal(size=(60, 4)) + 2 * np.eye(4)[y]
    return saved(tmp_path_factory.mktemp("data") / "table.npz", x, y)


def configure(table: Dataset, system: str = "ce", **sections: Any) -> RunConfig:
    return make_config(system, table.name, table.shape, overrides=[merge([SMALL, sections])])


class Halves(NamedTuple):
    """Finished run, and a copy of it from the middle, after a save."""

    config: RunConfig
    whole: Run
    half: Run


def run_halves(config: RunConfig, table: Dataset, folder: Path, **options: Any) -> Halves:
    whole, half = Run(folder / "whole"), Run(folder / "half")

    def report(step: int, steps: int, epoch: int, terms: dict[str, Tensor]) -> None:
        if step == MIDDLE:
            shutil.copytree(whole.folder, half.folder)

    train(config, table, whole, device="cpu", report=report, **options)
    return Halves(config, whole, half)


@pytest.fixture(scope="module")
def halves(table: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Halves:
    return run_halves(configure(table), table, tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture
def half(halves: Halves, tmp_path: Path) -> Run:
    return Run(shutil.copytree(halves.half.folder, tmp_path / "half"))


Saved = tuple[GenerativeClassifier, torch.optim.Optimizer]


@pytest.fixture
def fresh(halves: Halves, table: Dataset) -> Saved:
    model = fresh_model(halves.config, table, table.train)
    return model, make_optimizer(model, halves.config.train)


def assert_ended_as(run: Run, whole: Run) -> None:
    """Weights, optimiser and metrics, bit for bit."""
    for file in ("weights_file", "checkpoint_file"):
        tensors, expected = (load_file(getattr(each, file)) for each in (run, whole))
        assert_close(tensors, expected, rtol=0, atol=0)
    assert history(run) == history(whole)


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{system: (system, {}) for system in SYSTEMS},
    "sgd": ("ce", {"train": {"optimizer": "sgd", "schedule": "milestones", "milestones": [0.3]}}),
    "bf16": ("ib-inn", {"train": {"precision": "bf16-mixed", "memory": "recompute"}}),
    "any beta": ("ib-inn", {"network": {"condition": "beta", "batch_norm": False}}),
    "guesses": (
        "ib-inn",
        {
            "data": {"labels": 20},
            "train": {"labelled": 5},
            "pseudo_labels": {"cross_entropy": 1, "consistency": 1, "threshold": 0.4},
        },
    ),
    "warm-up": ("vae", {"objective": {"warmup": 0.8}}),
}


@pytest.mark.parametrize("case", CASES)
def test_every_system_goes_on_bit_for_bit(case: str, table: Dataset, tmp_path: Path) -> None:
    system, sections = CASES[case]
    halves = run_halves(configure(table, system, **sections), table, tmp_path)
    train(halves.config, table, halves.half, device="cpu", resume=True)
    assert_ended_as(halves.half, halves.whole)


def test_the_checkpoint_before_is_kept_until_the_end(halves: Halves, fresh: Saved) -> None:
    half, whole = halves.half, halves.whole
    assert load_checkpoint(half, *fresh).step == MIDDLE
    before = Run(half.folder.parent / "before")
    before.checkpoint_file.parent.mkdir(parents=True)
    shutil.copy(half.previous_checkpoint_file, before.checkpoint_file)
    shutil.copy(half.config_file, before.config_file)
    assert load_checkpoint(before, *fresh).step == MIDDLE - 1
    assert load_checkpoint(whole, *fresh).step == STEPS
    assert not whole.previous_checkpoint_file.exists()


def flipped(content: bytes, count: int) -> Iterator[bytes]:
    """Flip one bit at a time, half of them in the header."""
    rng, header = random.Random(0), 8 + int.from_bytes(content[:8], "little")
    for number in range(count):
        byte = rng.randrange(header if number % 2 else len(content))
        changed = content[byte] ^ 1 << rng.randrange(8)
        yield content[:byte] + bytes([changed]) + content[byte + 1 :]


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_every_flipped_bit_of_a_checkpoint_is_found(half: Run, fresh: Saved) -> None:
    for content in flipped(half.checkpoint_file.read_bytes(), 200):
        half.checkpoint_file.write_bytes(content)
        with pytest.raises(DamagedFile, match="; delete it to go on from the one before") as error:
            load_checkpoint(half, *fresh)
        assert one_line(error).startswith(f"{half.checkpoint_file} is damaged: ")


def test_every_flipped_bit_of_the_weights_is_found(half: Run, fresh: Saved, halves: Halves) -> None:
    for content in flipped(halves.whole.weights_file.read_bytes(), 200):
        half.weights_file.write_bytes(content)
        with pytest.raises(DamagedFile, match=f"flowclf train --resume {half.folder}") as error:
            load_weights(fresh[0], half.weights_file)
        assert one_line(error).startswith(f"{half.weights_file} is damaged: ")


def pickled(content: bytes, folder: Path) -> bytes:
    """Return a pickle that makes a folder `pwned` when it is loaded."""

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(folder / "pwned"),)

    torch.save({"model": Evil()}, folder / "evil.pt")
    return (folder / "evil.pt").read_bytes()


DAMAGE: dict[str, Callable[[bytes, Path], bytes]] = {
    **{f"{n}/10": lambda content, _, n=n: content[: len(content) * n // 10] for n in range(10)},
    "longer": lambda content, _: content + b"\0",
    "text": lambda content, _: b"not a checkpoint",
    "pickle": pickled,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_other_damage_is_found_and_nothing_unpickled(
    halves: Halves, half: Run, fresh: Saved, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    checkpoint, weights = half.checkpoint_file, half.weights_file
    checkpoint.write_bytes(DAMAGE[damage](checkpoint.read_bytes(), half.folder))
    weights.write_bytes(DAMAGE[damage](halves.whole.weights_file.read_bytes(), half.folder))
    with pytest.raises(DamagedFile) as error:
        load_checkpoint(half, *fresh)
    assert one_line(error).startswith(f"{checkpoint} is damaged: ")
    with pytest.raises(DamagedFile) as error:
        flowclf.load(half.folder)
    assert one_line(error).startswith(f"{weights} is damaged: ")
    assert not (half.folder / "pwned").exists()


def test_without_a_damaged_checkpoint_it_goes_on(halves: Halves, half: Run, table: Dataset) -> None:
    half.checkpoint_file.write_bytes(b"")
    with pytest.raises(DamagedFile, match="delete it to go on from the one before"):
        train(halves.config, table, half, device="cpu", resume=True)
    half.checkpoint_file.unlink()  # as where a run is killed between the renames of a save
    assert half.has_checkpoint
    train(halves.config, table, half, device="cpu", resume=True)
    assert_ended_as(half, halves.whole)


def test_damaged_weights_are_written_anew(halves: Halves, table: Dataset, tmp_path: Path) -> None:
    run = Run(shutil.copytree(halves.whole.folder, tmp_path / "run"))
    content = run.weights_file.read_bytes()
    run.weights_file.write_bytes(content[:-1])
    train(halves.config, table, run, device="cpu", resume=True)
    assert run.weights_file.read_bytes() == content
    shutil.rmtree(run.checkpoint_file.parent)
    run.weights_file.write_bytes(content[:-1])
    with pytest.raises(DamagedFile, match="; copy or download it again$"):
        flowclf.load(run.folder)


def test_weights_that_others_wrote_are_taken_when_asked(
    halves: Halves, half: Run, fresh: Saved
) -> None:
    weights = load_file(halves.whole.weights_file)
    save_file(weights, half.weights_file, {"format": "pt"})
    for call in (
        partial(load_weights, fresh[0], half.weights_file),
        partial(flowclf.load, half.folder),
    ):
        with pytest.raises(UserError, match="no digest to verify it by.*unverified=True"):
            call()
        call(unverified=True)
    assert torch.equal(fresh[0].state_dict()["mixture.means"], weights["mixture.means"])


@pytest.mark.parametrize("kind", [torch.int8, torch.complex64, torch.float8_e5m2])
def test_weights_of_other_types(halves: Halves, half: Run, fresh: Saved, kind: torch.dtype) -> None:
    weights = {n: value.to(kind) for n, value in load_file(halves.whole.weights_file).items()}
    save_file(weights, half.weights_file)
    with pytest.raises(UserError, match=rf"another architecture: expected \(.*\) .* for .* {kind}"):
        load_weights(fresh[0], half.weights_file, unverified=True)


WEIGHTS = safetensors.torch.save({"model.x": torch.zeros(1)})


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("", b"", "does not exist: there is nothing to resume; train anew with --out"),
        ("state.pt", b"", r"state\.pt is of an older flowclf, .*; train anew with --out"),
        ("state.safetensors", WEIGHTS, "no checkpoint of this version; delete it"),
        ("previous.safetensors", b"", r"previous\S+ is damaged: .*; train anew with --out"),
    ],
    ids=["none", "older", "weights", "both damaged"],
)
def test_no_checkpoints(half: Run, fresh: Saved, file: str, content: bytes, message: str) -> None:
    folder = half.checkpoint_file.parent
    if file != "state.safetensors":
        shutil.rmtree(folder)
    if file:
        folder.mkdir(exist_ok=True)
        (folder / file).write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        load_checkpoint(half, *fresh)
    one_line(error)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"network": {"hidden": [64]}}, r"another architecture: expected .* for encoder"),
        ({"train": {"optimizer": "sgd"}}, "another optimiser: SGD here has no AdamW.0"),
    ],
)
def test_checkpoints_of_another_model_are_refused(
    half: Run, table: Dataset, sections: dict[str, Any], message: str
) -> None:
    config = configure(table, **sections)
    with pytest.raises(UserError, match=f"other settings: {next(iter(sections))}"):
        train(config, table, half, device="cpu", resume=True)
    model = fresh_model(config, table, table.train)
    with pytest.raises(UserError, match=message):
        load_checkpoint(half, model, make_optimizer(model, config.train))


@dataclass
class Faults:
    """Every write, flush and rename from number `first` on fails; of a write half is done."""

    first: int
    code: int
    calls: int = 0

    def check(self) -> None:
        self.calls += 1
        if self.calls >= self.first:
            raise OSError(self.code, os.strerror(self.code))

    def checked(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def checked_call(*arguments: Any) -> Any:
            self.check()
            return call(*arguments)

        return checked_call

    def open(self, path: Path, mode: str) -> Any:
        if mode != "wb":
            return open(path, mode)
        faults = self

        class Writer(io.BufferedWriter):
            def write(self, part: Any, /) -> int:
                super().write(part[: len(part) // 2])
                faults.check()
                return super().write(part[len(part) // 2 :])

        return Writer(io.FileIO(path, "wb"))

    def patch(self, patched: pytest.MonkeyPatch) -> None:
        for name in ("fsync", "replace"):
            patched.setattr(os, name, self.checked(getattr(os, name)))
        patched.setattr(Path, "open", lambda path, mode: self.open(path, mode))


def fill(model: GenerativeClassifier, number: int) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(number)


def fails(run: Run, saved: Saved, step: int, faults: Faults) -> bool:
    """Return True if a save fails with the expected message."""
    reason = f"{os.strerror(faults.code)}; what was there before is kept"
    position = Position(run=run.read_identity(), step=step)
    with pytest.MonkeyPatch.context() as patched:
        faults.patch(patched)
        try:
            save_checkpoint(run, *saved, position)
        except OSError as error:
            return str(error) == f"cannot write {run.checkpoint_file}: {reason}"
    return False


@pytest.mark.parametrize("code", [ENOSPC, EIO, EACCES])
def test_whichever_call_fails_a_checkpoint_loads(half: Run, fresh: Saved, code: int) -> None:
    found: list[int] = []
    failed = True
    while failed:
        for step in (2, 3):
            fill(fresh[0], step)
            save_checkpoint(half, *fresh, Position(run=half.read_identity(), step=step))
        fill(fresh[0], 4)
        failed = fails(half, fresh, 4, Faults(len(found) + 1, code))
        found.append(load_checkpoint(half, *fresh).step)
        assert all(bool((parameter == found[-1]).all()) for parameter in fresh[0].parameters())
    assert not any(half.folder.rglob("*.part*"))
    # What fails last is the flush of the folder, after the rename.
    assert found == [3] * (len(found) - 2) + [4, 4]
    assert len(found) > 10


def test_a_full_disk_leaves_the_checkpoint(half: Run, capsys: pytest.CaptureFixture[str]) -> None:
    resource = pytest.importorskip("resource")
    before = half.checkpoint_file.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        status = flowclf_command(["train", "--resume", str(half.folder), "--device", "cpu"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert_failed(status, half, capsys)
    assert half.checkpoint_file.read_bytes() == before


@pytest.mark.parametrize("code", [ENOSPC, EIO, EACCES])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_save_that_fails_ends_the_command_with_one_line(
    half: Run, fresh: Saved, call: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        # Number 1 is of the metrics, from which later ones are dropped.
        patched.setattr(os, call, Faults(2, code).checked(getattr(os, call)))
        status = flowclf_command(["train", "--resume", str(half.folder), "--device", "cpu"])
    assert os.strerror(code) in assert_failed(status, half, capsys)
    assert load_checkpoint(half, *fresh).step == MIDDLE


def assert_failed(status: int, run: Run, capsys: pytest.CaptureFixture[str]) -> str:
    """Assert status 1 and one line besides those of progress, and return it."""
    *lines, last = capsys.readouterr().err.splitlines()
    assert status == 1
    assert last.startswith(f"flowclf: cannot write {run.folder}")
    assert all(" step " in line for line in lines)
    return last


def test_what_a_killed_process_left_is_removed(halves: Halves, half: Run, table: Dataset) -> None:
    left = [half.checkpoint_file.with_name(".state.123.part.safetensors")]
    left += [
        half.folder / f".{name}" for name in ("metrics.123.part.jsonl", "progress.4.part.json")
    ]
    others = half.folder / ".evaluation.123.part.json"
    for file in (*left, others):
        file.write_bytes(b"half")
    train(halves.config, table, half, device="cpu", resume=True)
    assert [file for file in half.folder.rglob("*.part*")] == [others]


def test_cpu_seconds_stay_spent(half: Run, fresh: Saved, table: Dataset, halves: Halves) -> None:
    assert load_checkpoint(half, *fresh).cpu_seconds > 0
    config, done = configure(table, train={"cpu_seconds": 49.0}), list[Any]()
    half.write_config(config, half.read_config()[1], half.read_precision())
    spent = {"run": half.read_identity(), "seconds": 7.0, "cpu_seconds": 50.0}
    save_checkpoint(half, *fresh, Position(step=MIDDLE, **spent))
    train(config, table, half, device="cpu", resume=True, report=lambda *step: done.append(step))
    assert done == []
    end = load_checkpoint(half, *fresh)
    assert end.seconds >= 7
    assert 50 <= end.cpu_seconds < 60


class Tied(nn.Sequential):
    """Two layers with the same weights."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
        self[2].weight = self[0].weight


def test_weights_that_layers_share_are_saved_and_go_on(table: Dataset, tmp_path: Path) -> None:
    with torch.random.fork_rng():
        one, other = Tied(), Tied()
    halves = run_halves(configure(table), table, tmp_path, backbone=one)
    trained = train(halves.config, table, halves.half, device="cpu", resume=True, backbone=other)
    assert_ended_as(halves.half, halves.whole)
    assert other[2].weight is other[0].weight
    again, x = flowclf.load(halves.half.folder, backbone=Tied()), table.test.x
    assert torch.equal(again.log_posterior(x), trained.model.eval().log_posterior(x))
