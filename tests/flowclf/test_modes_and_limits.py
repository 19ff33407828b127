"""Odd modes of torch, odd arguments, and files that declare more than fits."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import flowclf
from couplings import ShapeError
from flowclf.classifier import GenerativeClassifier
from flowclf.config import make_config, parse_assignments
from flowclf.data import Dataset
from flowclf.support.devices import machine_memory
from flowclf.support.errors import UserError

SIZES: dict[str, Any] = {"shape": (4,), "classes": 3}
MODES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "meta": lambda: torch.device("meta"),
}


@pytest.fixture(scope="module")
def data() -> Dataset:
    y = torch.arange(60) % 3
    return flowclf.data.from_arrays(torch.randn(60, 4, generator=seeded()), y)


@pytest.fixture(scope="module")
def flow() -> GenerativeClassifier:
    return flowclf.build("ib-inn", **SIZES).eval()


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("mode", MODES)
def test_what_is_built_or_trained_in_a_mode_is_as_outside_of_it(mode: str, data: Dataset) -> None:
    config = make_config("ce", data.name, data.shape, epochs=1)
    with MODES[mode]():
        model = flowclf.build("ib-inn", **SIZES)
        trained = flowclf.train(config, data, device="cpu").model
    alone = flowclf.train(config, data, device="cpu").model
    for name, value in alone.state_dict().items():
        assert torch.equal(trained.state_dict()[name], value)
    model.fit_statistics(data.train.x, data.train.y)
    model.loss(data.train.x, data.train.y)["total"].backward()


@pytest.mark.parametrize("seed", [1.5, 2**64, 2**63, -1, "a", None])
def test_seeds_that_are_none(seed: Any) -> None:
    with pytest.raises(UserError, match="expected seed, a whole number"):
        flowclf.build("ib-inn", **SIZES, seed=seed)


@pytest.mark.parametrize("generator", [5, "a", np.random.default_rng(0)])
def test_generators_that_are_none(generator: Any, flow: GenerativeClassifier) -> None:
    x, y = torch.zeros(2, 4), torch.tensor([0, 1])
    calls: tuple[Callable[[], object], ...] = (
        lambda: flow.loss(x, y, generator=generator),
        lambda: flow.sample(y, generator=generator),
        lambda: flow.perturb(x, generator),
        lambda: flow.dequantize(x, generator),
        lambda: flow.encode(x, generator),
    )
    for call in calls:
        with pytest.raises(UserError, match=r"expected generator as a torch\.Generator"):
            call()


PATHS = [None, 5, "", "a\0b", "a\ud800b", "a/" + "b" * 5000]


@pytest.mark.parametrize("path", PATHS)
def test_paths_that_are_none(path: Any, flow: GenerativeClassifier) -> None:
    for call in (flow.save, flowclf.load):
        with pytest.raises(UserError, match="the path of a folder"):
            call(path)


KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    "sparse": Tensor.to_sparse,
    "mkldnn": Tensor.to_mkldnn,
}


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_that_are_not_dense(kind: str, flow: GenerativeClassifier) -> None:
    with pytest.raises(UserError, match="expected x as a dense tensor"):
        flow.log_prob(KINDS[kind](torch.zeros(2, 4)))


def test_more_samples_than_fit_into_memory(flow: GenerativeClassifier) -> None:
    x = torch.zeros(1, 4)
    calls: tuple[Callable[[], object], ...] = (
        lambda: flow.sample(10**14),
        lambda: flow.interpolate(x, x, 10**14),
    )
    for call in calls:
        with pytest.raises(UserError, match="that fit into the .* bytes of memory"):
            call()


def test_memory_is_that_of_the_limit() -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_AS)
    memory = machine_memory()
    assert memory is not None
    resource.setrlimit(resource.RLIMIT_AS, (2**45, before[1]))
    try:
        assert machine_memory() == min(2**45, memory)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


DECLARED: dict[str, Callable[[dict[str, Any]], object]] = {
    "a large image": lambda d: d["info"].update(shape=[1, 30_000, 30_000], levels=256),
    "a million classes": lambda d: d["info"].update(class_names=list(map(str, range(10**6)))),
    "a long name": lambda d: d["info"].update(class_names=["a", "b" * 2000, "c"]),
    "a surrogate": lambda d: d["info"].update(class_names=["a", "\ud800", "c"]),
    "a seed": lambda d: d["info"].update(seed=2**64),
    "wide layers": lambda d: d["settings"]["network"].update(hidden=[10**6, 10**6]),
}


@pytest.mark.parametrize("case", DECLARED)
def test_what_a_saved_model_declares_is_bounded(
    case: str, tmp_path: Path, flow: GenerativeClassifier
) -> None:
    flow.save(tmp_path / "saved")
    file = tmp_path / "saved" / "config.json"
    document = json.loads(file.read_text("utf-8"))
    DECLARED[case](document)
    file.write_text(json.dumps(document), "utf-8")
    with pytest.raises((UserError, ShapeError)) as error:
        flowclf.load(tmp_path / "saved")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["train..lr=1", ".=1", "a.=1", "a." * 5000 + "x=1"])
def test_names_of_settings_that_are_none(text: str) -> None:
    with pytest.raises(UserError, match="the name of a setting like train"):
        parse_assignments([text])
