"""Trainings in threads, beside others that draw: nothing global, the same bits as alone."""

import threading
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from typing import Any

import pytest
import torch
from small_systems import small
from torch import Tensor

import flowclf
from flowclf.config import RunConfig
from flowclf.data import Dataset
from flowclf.support.errors import UserError
from flowclf.systems import SYSTEMS
from flowclf.training import loop


@pytest.fixture(scope="module")
def data() -> Dataset:
    y = torch.arange(90) % 3
    x = torch.randn(90, 4, generator=torch.Generator().manual_seed(0)) + 2 * torch.eye(4)[y]
    return flowclf.data.from_arrays(x, y)


def config_of(data: Dataset, system: str, seed: int = 0, **train: Any) -> RunConfig:
    network = {**small(system).get("network", {}), "dropout": 0.5}
    settings = {"network": network, "train": {"epochs": 3, "batch_size": 18, **train}}
    try:
        return flowclf.make_config(system, data.name, data.shape, seed=seed, overrides=settings)
    except UserError:  # a network without dropout
        settings["network"] = small(system).get("network", {})
        return flowclf.make_config(system, data.name, data.shape, seed=seed, overrides=settings)


def weights(config: RunConfig, data: Dataset) -> dict[str, Tensor]:
    return flowclf.train(config, data, device="cpu").model.state_dict()


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("system", ["ib-inn", "vib"])
def test_trainings_in_threads_beside_foreign_draws_end_as_alone(system: str, data: Dataset) -> None:
    configs = [config_of(data, system, seed) for seed in range(4)]
    alone = [weights(config, data) for config in configs]
    ended = threading.Event()

    def draw() -> None:
        while not ended.is_set():
            torch.rand(100)

    foreign = threading.Thread(target=draw)
    foreign.start()
    try:
        with ThreadPoolExecutor(4) as pool:
            beside = list(pool.map(lambda config: weights(config, data), configs))
    finally:
        ended.set()
        foreign.join()
    assert all(map(equal, alone, beside))
    assert not equal(alone[0], alone[1])


@pytest.mark.parametrize("system", SYSTEMS)
def test_no_system_draws_from_torchs_generator(
    system: str, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "private_rng", None)
    before = torch.get_rng_state()
    flowclf.train(config_of(data, system), data, device="cpu")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("memory", ["recompute", "checkpoint"])
def test_the_masks_of_a_second_evaluation_are_those_of_the_first(
    memory: str, data: Dataset
) -> None:
    stored, again = (
        weights(config_of(data, "ib-inn", memory=mode, precision="64-true"), data)
        for mode in ("store", memory)
    )
    for name, value in stored.items():
        torch.testing.assert_close(again[name], value, rtol=1e-6, atol=1e-9)


def test_a_model_in_training_answers_no_other_thread(data: Dataset) -> None:
    found: list[Any] = []

    def ask(model: Any) -> None:
        for call in (lambda: model.log_prob(data.test.x), lambda: model.sample(data.test.y[:2])):
            with pytest.raises(UserError, match="no other thread trains"):
                call()
        found.append(deepcopy(model).eval().log_prob(data.test.x))

    step = loop.Loop._step

    def watched(self: loop.Loop, number: int, progress: float) -> None:
        step(self, number, progress)
        if number == 1:
            thread = threading.Thread(target=ask, args=(self.model,))
            thread.start()
            thread.join()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Loop, "_step", watched)
        trained = flowclf.train(config_of(data, "ib-inn"), data, device="cpu")
    assert len(found) == 1
    assert trained.model.log_prob(data.test.x).shape == found[0].shape
