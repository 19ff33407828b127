"""Shared cores: the decision from made-up measurements, one line of advice, and auto's choices."""

from collections.abc import Iterator
from math import nan
from pathlib import Path
from typing import Any

import pytest
import torch

from flowclf.config import make_config
from flowclf.data import load_dataset
from flowclf.runs import Run
from flowclf.training import train
from flowclf.training.threads import (
    REST,
    ROUNDS,
    SHORT,
    ThreadWatch,
    cores_short,
    faster,
    queued_seconds,
)
from flowclf.training.threads import __name__ as module


@pytest.fixture(autouse=True)
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


class World:
    """A clock that steps move on by hand, and cores that are taken by others."""

    def __init__(
        self, asked: Any, taken: float = 0.0, seconds: dict[int, float] | None = None
    ) -> None:
        self.now, self.waited, self.taken, self.done = 0.0, 0.0, taken, 0
        self.seconds = seconds or {}
        self.lines: list[str] = []
        self.watch = ThreadWatch(asked, self.lines.append, lambda: self.waited, lambda: self.now)

    def run(self, steps: int, pause: float = 0.0) -> list[int]:
        """Return the number of threads in each step."""
        used = []
        for _ in range(steps):
            with self.watch.timed(self.done):
                used.append(torch.get_num_threads())
                self.pass_by(self.seconds.get(used[-1], 1.0), self.taken)
            self.pass_by(pause, 4.0)
            self.done += 1
        return used

    def pass_by(self, seconds: float, queued: float) -> None:
        self.now += seconds
        self.waited += queued * seconds


@pytest.mark.parametrize(
    ("queued", "threads", "short"),
    [
        (0, 2, 0),
        (0.99 * SHORT, 2, 0),
        (SHORT, 2, 1),
        (1.9, 2, 1),
        (SHORT, 16, 1),
        (7.5, 16, 8),
        (99, 16, 15),
        (nan, 16, 0),
    ],
)
def test_cores_that_are_taken(queued: float, threads: int, short: int) -> None:
    assert cores_short(10 * queued, 10, threads) == short
    assert cores_short(10, nan, threads) == cores_short(1, 0, threads) == 0


def test_the_faster_number_is_that_of_the_middle_step_without_the_first() -> None:
    assert faster({2: [9.0, 1.0, 1.2, 8.0], 1: [1.0, 1.3, 1.3, 1.3]}) == 2
    assert faster({2: [0.1, 2.0, 2.0, 0.1], 1: [9.0, 1.3, 1.3, 1.3]}) == 1


def test_a_fixed_number_stays_and_one_line_says_that_fewer_are_faster() -> None:
    quiet, world = World(None, 0.5 * SHORT), World(4, 1.5)
    assert set(quiet.run(20) + world.run(20)) == {4}
    assert quiet.lines == []
    assert world.lines == [
        "note: other programs take cores from the 4 threads; train.threads=2 or auto would be "
        "faster now"
    ]
    assert world.watch.choices == []


def test_pauses_between_steps_do_not_count() -> None:
    world = World(None)
    world.run(20, pause=1.0)
    assert world.lines == []


def test_auto_takes_the_faster_number_and_tries_again() -> None:
    world = World("auto", seconds={4: 0.5, 1: 1.0})
    assert world.run(2 * ROUNDS + 100) == ROUNDS * [4, 1] + 100 * [4]
    world.taken, world.seconds = 2.0, {4: 3.0, 2: 1.0}
    world.run(round(REST))
    assert world.watch.threads == 2
    world.taken, world.seconds = 0.0, {4: 0.4, 2: 1.0}
    world.run(500)
    assert [choice["threads"] for choice in world.watch.choices] == [4, 2, 4]
    assert len(world.lines) == 3
    assert world.lines[0] == "threads: 4 from step 8 on; a step takes 0.5 s with 4, 1 s with 1"


@pytest.mark.parametrize(("asked", "chosen"), [("auto", 1), (2, 2), (None, 4)])
def test_a_run_records_its_threads(
    asked: Any, chosen: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{module}.faster", min)
    digits = load_dataset("digits")
    layers: list[dict[str, Any]] = [
        {"network": {"kind": "mlp", "hidden": [16], "blocks": 2}},
        {"data": {"train_size": 600, "test_size": 100}},
        {"train": {"epochs": 1, "batch_size": 50, "threads": asked}},
    ]
    config = make_config("ib-inn", "digits", digits.shape, overrides=layers)
    run = Run(tmp_path / "run")
    summary = train(config, digits, run, device="cpu").summary["threads"]
    assert run.read_summary()["threads"] == summary
    assert (summary["asked"], summary["ran"]) == (asked, chosen)
    choices = summary.get("choices", [])
    assert [(c["step"], c["threads"], [*c["seconds"]]) for c in choices] == (
        [(2 * ROUNDS, 1, ["4", "1"])] if asked == "auto" else []
    )
    assert torch.get_num_threads() == 4


def test_what_is_queued_is_measured_or_not_a_number() -> None:
    before = queued_seconds()
    assert not queued_seconds() < before
