"""The loop: it learns, it resumes bit for bit, it stops where numbers stop being finite."""

import json
import os
import random
import signal
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from small_systems import history
from torch import Tensor, nn

import flowclf
from flowclf.config import RunConfig, make_config, merge
from flowclf.data import Dataset, load_dataset
from flowclf.runs import Run
from flowclf.training import Interrupted, train
from flowclf.training.loop import follow
from flowclf.training.progress import Report
from flowclf.training.setup import fresh_model
from flowclf.training.task import load_task

SMALL = {
    "network": {"kind": "mlp", "blocks": 2, "hidden": [32], "dropout": 0.2, "batch_norm": True},
    "data": {"train_size": 400, "test_size": 100, "validation": 0.1, "augment": "shift"},
    "train": {"epochs": 3, "batch_size": 50, "evaluate_every": 1},
}


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits")


def small_config(digits: Dataset, **sections: object) -> RunConfig:
    return make_config("ib-inn", "digits", digits.shape, overrides=[merge([SMALL, sections])])


def signal_at(step: int) -> Report:
    def report(at: int, steps: int, epoch: int, terms: dict[str, Tensor]) -> None:
        if at == step:
            os.kill(os.getpid(), signal.SIGINT)

    return report


def weights(run: Run) -> dict[str, Tensor]:
    return flowclf.load(run.folder).state_dict()


assert_equal = partial(torch.testing.assert_close, rtol=0, atol=0)


def test_training_lowers_the_loss_and_classifies(digits: Dataset) -> None:
    totals: list[float] = []

    def report(at: int, steps: int, epoch: int, terms: dict[str, Tensor]) -> None:
        totals.append(float(terms["total"]))

    config = small_config(digits, data={"train_size": 1000}, train={"epochs": 12, "lr": 5e-3})
    trained = train(config, digits, report=report, device="cpu")
    assert np.mean(totals[-10:]) < 0.6 * np.mean(totals[:10])
    assert trained.summary["test"]["accuracy"] > 0.8


def test_few_data_are_seen_again_until_there_are_enough_updates(
    digits: Dataset, tmp_path: Path
) -> None:
    steps: list[int] = []

    def report(at: int, total: int, epoch: int, terms: dict[str, Tensor]) -> None:
        steps.append(total)

    config = small_config(digits, train={"epochs": 1, "least_updates": 11})
    run = Run(tmp_path / "run")
    train(config, digits, run, report=report, device="cpu")
    assert steps == [11] * 11
    rows = [json.loads(line) for line in run.metrics_file.read_text().splitlines()]
    # 360 samples are 7 batches: the second epoch is not gone through.
    assert [(row["step"], row["epoch"]) for row in rows] == [(7, 1), (11, 2), (11, 2)]
    steps.clear()
    train(small_config(digits, train={"epochs": 2, "least_updates": 11}), digits, report=report)
    assert steps == [14] * 14


def test_a_head_that_looks_on_does_not_steer_the_network(digits: Dataset) -> None:
    """VAE-AS at (1, 1) is the VAE to its last update, although the clip binds both (its softmax
    has a gradient of its own, which would shorten the encoder's steps)."""

    def run(system: str, **model: object) -> dict[str, Tensor]:
        small = {"network": {"kind": "mlp", "hidden": [32]}, "decoder": {"kind": "mlp"}} | model
        data = {"train_size": 400, "test_size": 100}
        settings = {"epochs": 3, "batch_size": 50, "precision": "64-true", "clip_norm": 0.3}
        overrides = [small, {"latent": 4, "data": data, "train": settings}]
        config = make_config(system, "digits", digits.shape, overrides=overrides)
        return train(config, digits, device="cpu").model.state_dict()

    vae, auxiliary = run("vae"), run("vae-as", identity={"hidden": [16], "tags": 2})
    for name, value in vae.items():
        torch.testing.assert_close(auxiliary[name], value, rtol=1e-9, atol=1e-9, msg=name)


@pytest.mark.parametrize("step", [0, 9, 16])
def test_a_resumed_run_equals_the_whole_one(digits: Dataset, tmp_path: Path, step: int) -> None:
    config = small_config(digits)
    whole, broken = Run(tmp_path / "whole"), Run(tmp_path / "broken")
    train(config, digits, whole, device="cpu")
    with pytest.raises(Interrupted, match=f"step {step + 1} of 21"):
        train(config, digits, broken, device="cpu", report=signal_at(step))
    assert not broken.weights_file.exists()
    train(config, digits, broken, device="cpu", resume=True)
    assert_equal(weights(whole), weights(broken))
    assert history(whole) == history(broken)
    results = [run.read_summary()["test"] for run in (whole, broken)]
    assert results[0] == results[1]


def test_so_does_one_on_binary_images_with_few_labels(digits: Dataset, tmp_path: Path) -> None:
    data = {"binarize": "resampled", "augment": "rotate", "labels": 60}
    config = small_config(digits, data=data, train={"labelled": 10, "epochs": 2})
    whole, broken = Run(tmp_path / "whole"), Run(tmp_path / "broken")
    trained = train(config, digits, whole, device="cpu")
    # 300 samples without a label or so, 40 to a batch.
    with pytest.raises(Interrupted, match="step 5 of 14"):
        train(config, digits, broken, device="cpu", report=signal_at(4))
    train(config, digits, broken, device="cpu", resume=True)
    assert_equal(weights(whole), weights(broken))
    assert set(trained.training.x.unique().tolist()) == {0, 16}
    assert set(trained.test.x.unique().tolist()) == {0, 16}
    task = load_task(whole.folder, device="cpu")
    assert torch.equal(task.training.x, trained.training.x)
    assert torch.equal(task.training.y, trained.training.y)


def test_one_seed_gives_one_model_and_another_seed_another(digits: Dataset) -> None:
    def model(seed: int) -> dict[str, Tensor]:
        config = make_config("ib-inn", "digits", digits.shape, seed=seed, overrides=[SMALL])
        return train(config, digits, device="cpu").model.state_dict()

    assert_equal(model(0), model(0))
    assert not torch.equal(model(0)["mixture.means"], model(1)["mixture.means"])


def random_states() -> tuple[list[int], str, object]:
    numpy_state = np.random.get_state(legacy=False)  # noqa: NPY002
    return torch.get_rng_state().tolist(), str(numpy_state), random.getstate()


def test_a_run_folder_explains_itself_and_global_random_states_are_left_alone(
    digits: Dataset, tmp_path: Path
) -> None:
    run, config, before = Run(tmp_path / "run"), small_config(digits), random_states()
    trained = train(config, digits, run, device="cpu")
    assert random_states() == before
    assert run.read_config()[0] == config
    assert "torch:" in run.config_file.read_text()
    summary = json.loads(run.summary_file.read_text())
    assert {"system", "data", "seed", "seconds", "test"} <= summary.keys()
    assert {"accuracy", "ece", "bits_per_dim"} <= summary["test"].keys()
    rows = [json.loads(line) for line in run.metrics_file.read_text().splitlines()]
    seen = [(row["epoch"], "test" in row) for row in rows]
    assert seen == [(1, False), (2, False), (3, False), (3, True)]
    assert_equal(trained.model.state_dict(), weights(run))
    assert [path.name for path in run.folder.rglob("*.part*")] == []
    train(config, digits, run, device="cpu", resume=True)
    assert_equal(trained.model.state_dict(), weights(run))


OPTIMISERS = product(("adamw", "sgd"), ("cosine", "one-cycle", "milestones", "constant"))


@pytest.mark.parametrize(
    "settings",
    [{"optimizer": name, "schedule": each, "milestones": [0.5]} for name, each in OPTIMISERS]
    + [{"precision": "bf16-mixed"}, {"precision": "64-true"}],
)
def test_optimizers_schedules_and_precisions(digits: Dataset, settings: dict[str, object]) -> None:
    config = small_config(digits, train=settings | {"epochs": 1})
    found = train(config, digits, device="cpu").summary["test"]
    assert 0 <= found["accuracy"] <= 1
    assert np.isfinite(found["bits_per_dim"])


def test_batch_norm_statistics_are_those_of_the_final_weights(digits: Dataset) -> None:
    models = [
        train(small_config(digits, train={"norm_passes": n}), digits, device="cpu").model
        for n in (0, 1)
    ]
    for name, value in models[0].state_dict().items():
        same = torch.equal(value, models[1].state_dict()[name])
        follows = any(word in name for word in ("running_", "num_batches", "data_means"))
        assert same != follows, name


@pytest.mark.parametrize("binarize", ["none", "resampled"])
def test_statistics_and_means_are_those_of_the_samples(digits: Dataset, binarize: str) -> None:
    config = small_config(digits, data={"binarize": binarize})
    trained = train(config, digits, device="cpu")
    model, x, y = trained.model, trained.training.x, trained.training.y
    fresh = fresh_model(config, digits, trained.training)
    name = next(name for name in fresh.state_dict() if name.startswith("encoder.preprocess."))
    assert torch.equal(fresh.state_dict()[name], model.state_dict()[name])
    with torch.no_grad():
        z = model.encode(x).z
    for k in range(10):
        torch.testing.assert_close(model.mixture.data_means[k], z[y == k].mean(0))
    sample = model.mixture.sample(torch.tensor([3]), temperature=0.0, around="data")
    assert torch.equal(sample[0], model.mixture.data_means[3])


def test_the_guesser_follows_weights_and_statistics() -> None:
    average, model = (nn.Sequential(nn.Linear(2, 1), nn.BatchNorm1d(1)) for _ in range(2))
    before = {name: value.clone() for name, value in average.state_dict().items()}
    model[1].running_mean += 1
    model[1].num_batches_tracked += 3
    follow(average, model, 0.75)
    for name, value in average.state_dict().items():
        other = model.state_dict()[name]
        expected = 0.75 * before[name] + 0.25 * other if value.is_floating_point() else other
        torch.testing.assert_close(value, expected)
