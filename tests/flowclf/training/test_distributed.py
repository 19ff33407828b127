"""Several processes learn what one does, and end together."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forks import fork
from safetensors.torch import load_file
from small_systems import saved
from torch import Tensor

from flowclf.cli.app import run as flowclf_command
from flowclf.config import RunConfig, make_config, merge
from flowclf.data import Dataset
from flowclf.runs import Run
from flowclf.support.errors import UserError
from flowclf.support.safetensors import read_tensors
from flowclf.systems import SYSTEMS
from flowclf.training import train
from flowclf.training.checkpoint import Position

# Before the copies of this process are made, not in each of them.
pytest.importorskip("lightning.fabric")

Losses = list[dict[str, float]]

SMALL: dict[str, Any] = {"train": {"epochs": 1, "batch_size": 16, "checkpoint_minutes": 1e-9}}
CONV = {"kind": "conv", "blocks": [1], "width": [8], "dense_blocks": 1, "dense_hidden": [8]}
HALF = {"data": {"labels": 24}, "train": {"labelled": 8}}
PARTS = {"mi": 0.3, "md": 2.0}
# Systems with what differs from their settings for small tables, and whether they see images.
CASES: dict[str, tuple[str, dict[str, Any], bool]] = {
    **{system: (system, {}, False) for system in SYSTEMS},
    "batch norm": ("ib-inn", {"network": CONV}, True),
    "recomputed": (
        "ib-inn", {"network": {**CONV, "dropout": 0.2}, "train": {"memory": "recompute"}}, True
    ),
    "dropout": ("resnet", {"network": {"kind": "residual", "width": [8], "dropout": 0.2}}, True),
    "any beta": ("ib-inn", {"network": {"condition": "beta", "batch_norm": False}}, False),
    "some labels": ("ib-inn", {"data": {"labels": 23}}, False),
    "class weights": (
        "bvae", {"objective": {"class_weights": [1, 2, 3, 4], "free_bits": 0.1}}, False
    ),
    "gaussian vc": ("vc", {"encoder": "gaussian"}, False),
    # Here what one half of a batch knows is more than nothing, and what the whole knows is not.
    "bound": (
        "vae-as", {"objective": PARTS, "train": {"heads_lr_factor": 3.0, "epochs": 3}}, False
    ),
    "entropy": ("vae-as", {"objective": {**PARTS, "form": "entropy"}}, False),
    "labels summed": ("m2", {"box": None, "objective": {"marginalise": True}, **HALF}, False),
    "half labelled": ("untapped", {"objective": {"l2_on_sample": True}, **HALF}, True),
    "guesses": (
        "ib-inn",
        {"network": CONV, "pseudo_labels": {"cross_entropy": 1, "threshold": 0.3}, **HALF}, True,
    ),
    "64-true": ("ib-inn", {"network": CONV, "train": {"precision": "64-true"}}, True),
}  # fmt: skip
ROUNDED: dict[str, tuple[str, dict[str, Any], bool]] = {
    "bf16-mixed": ("ib-inn", {"network": CONV, "train": {"precision": "bf16-mixed"}}, True),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Dataset]:
    """64 samples of 4 classes: a table, and images."""
    rng, y = np.random.default_rng(0), np.arange(64) % 4
    images = rng.integers(0, 255, size=(64, 8, 8), dtype=np.uint8) // (y[:, None, None] + 1)
    table = rng.normal(size=(64, 5)) + 2 * np.eye(5)[y]
    folder = tmp_path_factory.mktemp("data")
    sets = {"table.npz": table, "images.npz": images.astype(np.uint8)}
    return {name == "images.npz": saved(folder / name, x, y) for name, x in sets.items()}


def configure(dataset: Dataset, system: str, sections: dict[str, Any]) -> RunConfig:
    return make_config(system, dataset.name, dataset.shape, overrides=[merge([SMALL, sections])])


def learn(case: str, data: dict[bool, Dataset], world: int) -> tuple[Losses, dict[str, Tensor]]:
    """Losses of each step, and the weights at the end."""
    system, sections, images = (CASES | ROUNDED)[case]
    losses: Losses = []
    config = configure(data[images], system, sections)
    report = partial(note, losses)
    trained = train(config, data[images], device="cpu", devices=world, report=report)
    return losses, trained.model.state_dict()


def note(losses: Losses, step: int, steps: int, epoch: int, terms: dict[str, Tensor]) -> None:
    losses.append({name: float(value) for name, value in terms.items()})


@dataclass(frozen=True)
class Rank:
    process: int
    file: Path

    @property
    def said(self) -> str:
        return self.file.read_text(encoding="utf-8")


def start(world: int, work: Callable[[int], object], folder: Path, **extra: str) -> list[Rank]:
    """Copies of this process, as Fabric or others would have started them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, **extra}

    def run(rank: int, file: Path) -> object:
        names = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "SLURM_LOCALID")
        os.environ |= dict.fromkeys(names, str(rank)) | common
        output = os.open(file, os.O_WRONLY | os.O_CREAT)
        for standard in (1, 2):
            os.dup2(output, standard)
        sys.stdout = sys.stderr = os.fdopen(output, "w", buffering=1)
        return work(rank)

    files = [folder / f"{rank}.log" for rank in range(world)]
    return [Rank(fork(partial(run, rank, file)), file) for rank, file in enumerate(files)]


def statuses(ranks: list[Rank], seconds: float = 60.0) -> list[int]:
    """Return the exit codes of processes, all of which must end by themselves."""
    end = time.monotonic() + seconds
    found: dict[Rank, int] = {}
    while len(found) < len(ranks) and time.monotonic() < end:
        for rank in ranks:
            ended, status = (0, 0) if rank in found else os.waitpid(rank.process, os.WNOHANG)
            if ended:
                found[rank] = os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    for rank in ranks:
        if rank not in found:
            os.kill(rank.process, signal.SIGKILL)
            os.waitpid(rank.process, 0)
    assert len(found) == len(ranks), "still running: " + "".join(rank.said for rank in ranks)
    return [found[rank] for rank in ranks]


def train_all_cases(data: dict[bool, Dataset], folder: Path, rank: int) -> None:
    for case in CASES | ROUNDED:
        losses, weights = learn(case, data, 2)
        if rank == 0:
            torch.save(weights, folder / f"{case}.pt")
            (folder / f"{case}.json").write_text(json.dumps(losses), encoding="utf-8")


@pytest.fixture(scope="module")
def pair(data: dict[bool, Dataset], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of losses and weights of two processes, for all cases."""
    folder = tmp_path_factory.mktemp("pair")
    ranks = start(2, partial(train_all_cases, data, folder), folder)
    assert statuses(ranks) == [0, 0], ranks[0].said + ranks[1].said
    assert ranks[0].said == ranks[1].said == ""
    return folder


def assert_same(losses: Losses, expected: Losses) -> None:
    """To 1e-5, where terms are not differences of larger numbers."""
    assert len(losses) == len(expected) > 0
    for these, those in zip(losses, expected, strict=True):
        assert these == pytest.approx(those, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_two_processes_learn_as_one(case: str, data: dict[bool, Dataset], pair: Path) -> None:
    losses, weights = learn(case, data, 1)
    assert_same(json.loads((pair / f"{case}.json").read_text(encoding="utf-8")), losses)
    found = torch.load(pair / f"{case}.pt")
    assert found.keys() == weights.keys()
    for name, value in weights.items():
        # AdamW takes steps by rounding where a gradient is zero, as of a bias before BatchNorm.
        accurate = 1e-9 if value.dtype == torch.float64 else 2e-3
        torch.testing.assert_close(found[name], value, rtol=accurate, atol=accurate)


def test_two_processes_round_as_one_does(data: dict[bool, Dataset], pair: Path) -> None:
    rounded, exact = (
        json.loads((pair / f"{case}.json").read_text(encoding="utf-8"))
        for case in ("bf16-mixed", "batch norm")
    )
    for found, expected, other in zip(rounded, learn("bf16-mixed", data, 1)[0], exact, strict=True):
        assert found == pytest.approx(expected, rel=5e-3)
        assert found["total"] != pytest.approx(other["total"], rel=1e-5)


MIDDLE = 3


def record(
    config: RunConfig, dataset: Dataset, run: Run, world: int, resume: bool, rank: int = 0
) -> None:
    """Train, and leave the losses beside the folder, which is copied in the middle."""
    losses: Losses = []

    def report(step: int, *rest: Any) -> None:
        note(losses, step, *rest)
        if step == MIDDLE and not resume:
            shutil.copytree(run.folder, run.folder.with_name("half"))

    train(config, dataset, run, device="cpu", devices=world, report=report, resume=resume)
    if rank == 0:
        run.folder.with_suffix(".json").write_text(json.dumps(losses), encoding="utf-8")


@pytest.fixture(scope="module")
def halved(data: dict[bool, Dataset], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run of two processes, `whole`, and its copy half-way, `half`."""
    folder = tmp_path_factory.mktemp("halved")
    config = configure(data[True], "ib-inn", {"network": CONV, "train": {"epochs": 2}})
    work = partial(record, config, data[True], Run(folder / "whole"), 2, False)
    ranks = start(2, work, folder)
    assert statuses(ranks) == [0, 0], ranks[0].said + ranks[1].said
    return folder


@pytest.mark.parametrize("world", [1, 2, 4])
def test_what_two_processes_saved_any_number_goes_on_with(
    world: int, data: dict[bool, Dataset], halved: Path, tmp_path: Path
) -> None:
    run = Run(shutil.copytree(halved / "half", tmp_path / "run"))
    work = partial(record, run.read_config()[0], data[True], run, world, True)
    ranks = start(world, work, tmp_path)
    assert statuses(ranks) == [0] * world, ranks[0].said
    whole: Losses = json.loads((halved / "whole.json").read_text(encoding="utf-8"))
    losses: Losses = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    assert_same(losses, whole[MIDDLE:])
    both = (run, Run(halved / "whole"))
    bits, expected = (each.read_summary()["test"]["bits_per_dim"] for each in both)
    assert bits == pytest.approx(expected, rel=1e-5)
    tensors, others = (load_file(each.weights_file) for each in both)
    assert tensors.keys() == others.keys()


def command(dataset: Dataset, out: Path, *options: str) -> list[str]:
    """Return the command of an endless run."""
    small = "train={epochs: 100000, batch_size: 16, checkpoint_minutes: 1.0e-9, norm_passes: 0}"
    return [
        "train", "vib", "--data", dataset.name, "--out", str(out), "--device", "cpu",
        "--no-baselines", "--set", small, *options,
    ]  # fmt: skip


def call(*arguments: str) -> Callable[[int], int]:
    return lambda rank: flowclf_command(arguments)


def told(ranks: list[Rank]) -> list[str]:
    """Return all lines of all processes except progress."""
    lines = [line for rank in ranks for line in rank.said.splitlines()]
    return [line for line in lines if " s  step " not in line]


@pytest.fixture
def endless(data: dict[bool, Dataset], tmp_path: Path) -> tuple[list[Rank], Run]:
    """Two processes that train, and have saved."""
    run = Run(tmp_path / "run")
    ranks = start(2, call(*command(data[False], run.folder, "--devices", "2")), tmp_path)
    end = time.monotonic() + 60
    while not run.previous_checkpoint_file.exists():
        assert time.monotonic() < end, told(ranks)
        time.sleep(0.05)
    return ranks, run


def saved_step(run: Run) -> int:
    file = run.checkpoint_file if run.checkpoint_file.exists() else run.previous_checkpoint_file
    return Position.model_validate_json(read_tensors(file)[1] or "").step


@pytest.mark.parametrize("killed", [0, 1])
def test_where_one_is_killed_the_other_ends(killed: int, endless: tuple[list[Rank], Run]) -> None:
    ranks, run = endless
    os.kill(ranks[killed].process, signal.SIGKILL)
    assert statuses(ranks, 20)[1 - killed] == 1
    (line,) = told(ranks)
    assert line.startswith("flowclf: another process of the training has ended: ")
    assert str(run.checkpoint_file) in line
    assert saved_step(run) > 0


@pytest.mark.parametrize(("number", "signalled"), [(signal.SIGTERM, [1]), (signal.SIGINT, [0, 1])])
def test_asked_to_stop_all_do_at_one_step(
    number: signal.Signals, signalled: list[int], endless: tuple[list[Rank], Run]
) -> None:
    ranks, run = endless
    for rank in signalled:
        os.kill(ranks[rank].process, number)
    assert statuses(ranks, 20) == [1, 0]
    (line,) = told(ranks)
    assert line.startswith(f"flowclf: stopped after step {saved_step(run)} of ")


TORCHRUN = {"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
SLURM = {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NODEID": "0"}
SLURM_NODES = SLURM | {"SLURM_NTASKS_PER_NODE": "1", "SLURM_NNODES": "2", "SLURM_LOCALID": "0"}
ODD = ["--set", "train.batch_size=31"]


@pytest.mark.parametrize(
    ("options", "started", "message"),
    [
        (["--devices", "2", *ODD], {}, "divisible by the 2 processes, got 31"),
        (ODD, TORCHRUN, "divisible by the 2 processes, got 31"),
        (ODD, SLURM, "divisible by the 2 processes, got 31"),
        (ODD, SLURM_NODES, "divisible by the 2 processes, got 31"),
        (
            ["--devices", "2", "--set", "data.labels=9", "--set", "train.labelled=7"], {},
            "divisible by the 2 processes, got 16 with 7 labelled",
        ),
        (["--devices", "2", "--set", "train.bogus=1"], {}, "unknown setting 'train.bogus'"),
        (["--devices", "1"], TORCHRUN, "expected --devices 2 --nodes 1, as torchrun has started"),
        (["--nodes", "2"], SLURM, "expected --devices 2 --nodes 1, as srun has started"),
        ([], SLURM | {"SLURM_NTASKS": "3"}, "expected SLURM_NTASKS=3 to be a multiple of SLURM_N"),
    ],
)  # fmt: skip
def test_one_process_tells_what_is_wrong(
    options: list[str], started: dict[str, str], message: str, data: dict[bool, Dataset],
    tmp_path: Path,
) -> None:  # fmt: skip
    work = call(*command(data[False], tmp_path / "run", *options))
    ranks = start(2, work, tmp_path, **started)
    assert statuses(ranks, 30) == [2, 0]
    (line,) = (line for line in told(ranks) if not line.startswith("waiting for "))
    assert line.startswith("flowclf: ")
    assert message in line


def test_the_first_tells_what_is_wrong_in_others(data: dict[bool, Dataset], tmp_path: Path) -> None:
    def work(rank: int) -> int:
        missing = ["--config", str(tmp_path / "missing.yaml")] if rank else []
        return call(*command(data[False], tmp_path / "run", "--devices", "2", *missing))(rank)

    ranks = start(2, work, tmp_path)
    assert statuses(ranks, 30) == [2, 0]
    (line,) = told(ranks)
    assert line.startswith("flowclf: process 1: cannot read ")


def test_systems_with_means_over_labelled_rows_need_equal_shares(
    data: dict[bool, Dataset], tmp_path: Path
) -> None:
    config = configure(data[False], "m2", {"data": {"labels": 24}})

    def work(rank: int) -> None:
        with pytest.raises(UserError, match="expected train.labelled, .* 40 of 64 have none"):
            train(config, data[False], device="cpu", devices=2)

    ranks = start(2, work, tmp_path)
    assert statuses(ranks) == [0, 0], ranks[0].said


@pytest.mark.slow
def test_fabric_starts_others_and_one_prints(data: dict[bool, Dataset], tmp_path: Path) -> None:
    arguments = command(data[False], tmp_path / "run", "--devices", "2", "--epochs", "1", "--json")
    program = [sys.executable, "-m", "flowclf", *arguments]
    finished = subprocess.run(program, capture_output=True, text=True, timeout=120, check=False)
    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout)["run"] == str(tmp_path / "run")
    assert finished.stderr.count("step 4/4") == 1
    assert all(
        " s  step " in line or " s  evaluating " in line for line in finished.stderr.splitlines()
    )
