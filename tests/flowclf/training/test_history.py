"""Training that can be watched: its history, early stopping, loggers, lines of progress."""

import csv
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_systems import history
from torch import Tensor

from flowclf.config import RunConfig, make_config
from flowclf.data import Split, from_arrays
from flowclf.figures.kinds import KINDS, Source, draw_kind
from flowclf.runs import Run
from flowclf.support.errors import UserError
from flowclf.training import loop, train
from flowclf.training.batches import Batches, balanced_shares
from flowclf.training.progress import clock_time, progress_bar

RNG = np.random.default_rng(0)
Y = np.arange(120) % 3
TABLE = from_arrays(RNG.normal(size=(120, 4)) + 0.7 * np.eye(4)[Y], Y)


def config(**train: Any) -> RunConfig:
    settings = {"epochs": 6, "batch_size": 20, "evaluate_every": 1, "norm_passes": 0, **train}
    network = {"kind": "mlp", "blocks": 1, "hidden": [8]}
    return make_config(
        "ib-inn", "table", TABLE.shape, network=network, train=settings, data={"validation": 0.25}
    )


def test_every_epoch_leaves_a_row_and_validations_theirs(tmp_path: Path) -> None:
    run, totals = Run(tmp_path / "run"), []

    def report(step: int, steps: int, epoch: int, terms: dict[str, Tensor]) -> None:
        totals.append(float(terms["total"]))

    train(config(evaluate_every=2), TABLE, run, report=report, device="cpu")
    *rows, last = run.read_metrics()
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert ["validation" in row for row in rows] == [False, True] * 3
    per_epoch = len(totals) // 6
    for row, start in zip(rows, range(0, len(totals), per_epoch), strict=True):
        assert row["train"]["total"] == pytest.approx(np.mean(totals[start : start + per_epoch]))
        assert {"rate_per_dim", "decision", "accuracy"} <= row["train"].keys()
    assert {"accuracy", "bits_per_dim"} <= rows[1]["validation"].keys()
    assert rows[0]["lr"] > rows[-1]["lr"] > 0
    assert sorted(row["seconds"] for row in rows) == [row["seconds"] for row in rows]
    assert "test" in last


def test_a_long_history_is_thinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "MOST_ROWS", 3)
    train(config(epochs=8), TABLE, Run(tmp_path), device="cpu")
    *rows, last = Run(tmp_path).read_metrics()
    assert [row["epoch"] for row in rows] == [3, 6, 8]
    assert "test" in last


@pytest.mark.parametrize("step", [5, 7])
def test_an_interrupted_epoch_is_recorded_whole(tmp_path: Path, step: int) -> None:
    whole, broken = Run(tmp_path / "whole"), Run(tmp_path / "broken")
    train(config(patience=2), TABLE, whole, device="cpu")

    class StoppedError(Exception):
        pass

    def stop(at: int, steps: int, epoch: int, terms: dict[str, Tensor]) -> None:
        if at == step:
            raise StoppedError

    settings = config(patience=2, checkpoint_minutes=1e-9)
    with pytest.raises(StoppedError):
        train(settings, TABLE, broken, report=stop, device="cpu")
    train(settings, TABLE, broken, device="cpu", resume=True)
    assert history(whole) == history(broken)


def test_patience_ends_a_training_and_keeps_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Validations are replaced by 3, 1, 2, 2, …: the second is the best."""
    scores, seen = iter([3.0, 1.0, *[2.0] * 50]), []

    def evaluated(model: torch.nn.Module, split: Split, seed: int = 0) -> dict[str, float]:
        if split is trained_on["test"]:
            return {"accuracy": 0.5}
        seen.append({k: v.clone() for k, v in model.state_dict().items()})
        return {"negative_log_posterior_nats": next(scores), "accuracy": 0.5}

    trained_on = {"test": TABLE.test}
    monkeypatch.setattr("flowclf.training.loop.evaluate", evaluated)
    monkeypatch.setattr("flowclf.training.loop.evaluate_scaled", lambda *rest: {})
    run = Run(tmp_path / "run")
    trained = train(config(patience=3, epochs=40, lr=0.05), TABLE, run, device="cpu")
    assert [row["epoch"] for row in run.read_metrics() if "validation" in row] == [1, 2, 3, 4, 5]
    for name, value in trained.model.named_parameters():
        assert torch.equal(value, seen[1][name]), name
    assert not torch.equal(seen[1]["mixture.means"], seen[4]["mixture.means"])


def test_without_patience_the_last_weights_are_kept(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    train(config(), TABLE, run, device="cpu")
    assert not run.best_file.exists()
    settings = {"patience": 1, "monitor": "bits_per_dim", "evaluate_every": 1, "epochs": 2}
    wanted = {"train": settings, "data": {"validation": 0.25}}
    with pytest.raises(
        UserError, match="expected bits_per_dim of the system for train.monitor, got none"
    ):
        train(make_config("ce", "table", TABLE.shape, overrides=wanted), TABLE)


def test_loggers_hold_the_same_numbers(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    train(config(logger="csv"), TABLE, run, device="cpu")
    with (run.folder / "logs/csv/metrics.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    (first, *_), last = run.read_metrics(), rows[-1]
    assert len(rows) == 6
    assert float(rows[0]["train/total"]) == pytest.approx(first["train"]["total"])
    assert 0 <= float(last["validation/accuracy"]) <= 1


def test_a_logger_that_is_not_there_is_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(UserError, match="mlflow to be installed for train.logger=mlflow; pip"):
        train(config(logger="mlflow"), TABLE, Run(tmp_path / "run"), device="cpu")


def test_the_learning_curve_is_a_kind_of_figure(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    trained = train(config(), TABLE, run, device="cpu")
    splits = trained.training, trained.test
    rows = [*run.read_metrics()]
    source = Source("ib-inn", trained.model, TABLE, *splits, history=rows)
    figure = draw_kind("learning", source)
    labels = [axes.get_ylabel() for axes in figure.axes]
    assert labels[:2] == ["loss (nats)", "accuracy in %"]
    curve = figure.axes[0].get_lines()[0].get_ydata()
    assert list(curve) == [row["train"]["total"] for row in rows if "train" in row]
    with pytest.raises(UserError, match="history"):
        draw_kind("learning", Source("ib-inn", trained.model, TABLE, *splits))
    assert "learning" in KINDS


def test_classes_are_drawn_equally_often_if_balanced() -> None:
    y = torch.tensor([0] * 90 + [1] * 8 + [2] * 2)
    shares = balanced_shares(y)
    torch.testing.assert_close(
        shares, torch.tensor([1 / 270] * 90 + [1 / 24] * 8 + [1 / 6] * 2).double()
    )
    split = Split(torch.arange(100.0)[:, None], y)
    batches = Batches(split, 50, 0, None, lambda x, generator: x, balanced=True)
    drawn = torch.cat([batches.at(step).y for step in range(20)])
    assert (drawn.bincount() / len(drawn) - 1 / 3).abs().max() < 0.02
    # Of 90 rows, none is passed over for long.
    rows = torch.cat([batches.at(step).x[:, 0] for step in range(20)])
    assert len(rows.unique()) == 100
    plain = Batches(split, 50, 0, None, lambda x, generator: x)
    assert torch.cat([plain.at(step).y for step in range(2)]).bincount().tolist() == [90, 8, 2]
    mixed = balanced_shares(torch.tensor([-1, -1, 0, 1, 1, 1]))
    torch.testing.assert_close(mixed.sum(), torch.tensor(1.0, dtype=torch.float64))
    torch.testing.assert_close(mixed[2], mixed[3:].sum())


def test_a_balanced_training_finds_the_rare_class() -> None:
    rng, y = np.random.default_rng(0), np.array([0] * 190 + [1] * 10)
    x = rng.normal(size=(200, 2)) + 1.2 * y[:, None]
    data = from_arrays(x, y, (np.repeat([[1.2, 1.2]], 50, 0) + rng.normal(size=(50, 2)), [1] * 50))

    def recall(weight: str) -> float:
        network = {"kind": "mlp", "blocks": 1, "hidden": [8]}
        settings = {"epochs": 30, "batch_size": 50, "class_weight": weight, "lr": 5e-3}
        made = make_config("ib-inn", "table", data.shape, network=network, train=settings)
        return float(train(made, data, device="cpu").summary["test"]["accuracy"])

    assert recall("balanced") > recall("none") + 0.2


def test_lines_come_every_few_seconds_with_the_time_that_is_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 100.0
    monkeypatch.setattr("flowclf.training.progress.time.perf_counter", lambda: now)
    with progress_bar("ib-inn") as report:
        for step in range(100):
            now += 1
            report(step, 100, step // 10, {"total": torch.tensor(1.0)})
        report.say("evaluating 9 samples …")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].split()[:4] == ["1.0", "s", "step", "1/100"]
    assert len(lines) == 22
    assert lines[1].endswith("1:34 min left")
    assert lines[-1].endswith("evaluating 9 samples …")


def test_times_are_written_as_clocks_have_them() -> None:
    assert [clock_time(t) for t in (8.6, 65, 7384)] == ["9 s", "1:05 min", "2:03:04 h"]


def test_the_budget_of_cpu_time_bounds_what_is_left() -> None:
    lasts = []

    def report(step: int, steps: int, epoch: int, terms: dict[str, Tensor]) -> None:
        lasts.append(steps)

    train(config(epochs=100_000, cpu_seconds=0.3), TABLE, report=report, device="cpu")
    assert max(lasts[len(lasts) // 2 :]) < 20 * len(lasts)
