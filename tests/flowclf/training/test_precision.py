"""Precision: the networks' products in bfloat16, all else in float32; what auto chooses."""

import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from small_systems import small
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from couplings import Invertible
from flowclf.config import RunConfig, make_config, merge
from flowclf.data import Dataset, load_dataset
from flowclf.evaluation.exactness import inverse_errors
from flowclf.latent.gaussian import GaussianMixture
from flowclf.nn.encoders import Encoder
from flowclf.runs import Run
from flowclf.support.errors import UserError
from flowclf.systems import SYSTEMS
from flowclf.training import Interrupted, train
from flowclf.training.setup import pick_precision

SHORT = {
    "data": {"train_size": 100, "test_size": 50, "validation": 0.0, "augment": "none"},
    "train": {"epochs": 1, "batch_size": 50, "norm_passes": 0, "threads": 1},
}


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits")


def configure(system: str, digits: Dataset, precision: str, **sections: Any) -> RunConfig:
    layers = [SHORT, small(system, image=True), {"train": {"precision": precision}}, sections]
    return make_config(system, "digits", digits.shape, overrides=[merge(layers)])


class Dtypes:
    """Dtypes of what modules return; products apart for training and evaluation mode."""

    def __init__(self) -> None:
        self.products: dict[bool, set[torch.dtype]] = {False: set(), True: set()}
        self.states: set[torch.dtype] = set()
        self.losses: set[torch.dtype] = set()

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        """Serve as the hook of all modules."""
        if isinstance(module, nn.Conv2d | nn.Linear):
            self.products[module.training].add(output.dtype)
        elif isinstance(module, Invertible):
            self.states |= {value.dtype for value in (inputs[0], *output)}
        elif isinstance(module, Encoder):
            values = vars(output).values()
            self.states |= {value.dtype for value in values if isinstance(value, Tensor)}

    def report(self, step: int, steps: int, epoch: int, terms: dict[str, Tensor]) -> None:
        """Serve as the report of a training."""
        self.losses |= {value.dtype for value in terms.values()}


@pytest.fixture
def dtypes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Dtypes]:
    found, densities = Dtypes(), GaussianMixture.densities

    def watched(self: GaussianMixture, *args: Any, **options: Any) -> Any:
        result = densities(self, *args, **options)
        found.states |= {value.dtype for value in (self.means, *result)}
        return result

    monkeypatch.setattr(GaussianMixture, "densities", watched)
    hook = register_module_forward_hook(found)
    yield found
    hook.remove()


@pytest.mark.parametrize("system", SYSTEMS)
def test_networks_alone_multiply_in_bfloat16_and_in_training_alone(
    system: str, digits: Dataset, dtypes: Dtypes
) -> None:
    config = configure(system, digits, "bf16-mixed")
    model = train(config, digits, device="cpu", report=dtypes.report).model
    assert dtypes.products == {True: {torch.bfloat16}, False: {torch.float32}}
    assert dtypes.states == dtypes.losses == {torch.float32}
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_step_in_bfloat16_differs_by_little(system: str, digits: Dataset) -> None:
    weights, losses = [], []
    for precision in ("32-true", "bf16-mixed"):
        terms: list[dict[str, Tensor]] = []
        config = configure(system, digits, precision)
        trained = train(
            config, digits, device="cpu", report=lambda *args, into=terms: into.append(args[-1])
        )
        weights.append(torch.cat([p.detach().flatten() for p in trained.model.parameters()]))
        losses.append(terms[0]["total"])
    assert not torch.equal(*weights)
    assert float((weights[0] - weights[1]).norm() / weights[0].norm()) < 0.02
    torch.testing.assert_close(*losses, rtol=0.02, atol=1e-3)


MIXTURES: list[dict[str, Any]] = [
    {"mixture": {"kind": "vmf"}},
    {"mixture": {"rank": 3}},
    {"mixture": {"covariance": "per-class"}},
    {"network": {"condition": "beta", "batch_norm": False}},
    {"network": {"map": "spline"}},
    {"train": {"memory": "recompute"}},
]


@pytest.mark.parametrize("sections", MIXTURES)
def test_other_mixtures_and_maps_stay_in_float32(
    sections: dict[str, Any], digits: Dataset, dtypes: Dtypes
) -> None:
    config = configure("ib-inn", digits, "bf16-mixed", **sections)
    train(config, digits, device="cpu", report=dtypes.report)
    assert dtypes.products == {True: {torch.bfloat16}, False: {torch.float32}}
    assert dtypes.states == dtypes.losses == {torch.float32}


def test_what_was_trained_in_bfloat16_is_inverted_in_float32(digits: Dataset) -> None:
    config = configure("ib-inn", digits, "bf16-mixed", train={"epochs": 10})
    trained = train(config, digits, device="cpu")
    assert float(inverse_errors(trained.model, trained.test.x.float() + 0.5).max()) <= 1e-4


def give_bfloat16(monkeypatch: pytest.MonkeyPatch, given: bool) -> None:
    """Let the processor multiply in bfloat16, or not."""
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: given)


@pytest.mark.parametrize("given", [False, True])
def test_auto_is_bfloat16_where_it_is_fast_and_batches_are_large(
    given: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_bfloat16(monkeypatch, given)
    assert pick_precision("auto", "cpu", 128 * 784) == ("bf16-mixed" if given else "32-true")
    assert pick_precision("auto", "cpu", 64 * 64) == "32-true"
    for asked in ("32-true", "bf16-mixed", "64-true"):
        assert pick_precision(asked, "cpu", 128 * 784) == asked  # type: ignore[arg-type]


def test_a_gpu_that_would_emulate_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    assert pick_precision("auto", "cuda", 10**6) == "32-true"
    with pytest.raises(UserError, match="below 8.0 .Tesla T4., got bf16-mixed") as error:
        pick_precision("bf16-mixed", "auto", 10**6)
    assert "\n" not in str(error.value)


def test_what_ran_is_recorded_and_resumed(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtypes: Dtypes
) -> None:
    config = configure("ce", digits, "auto", data={"train_size": 800}, train={"batch_size": 400})
    give_bfloat16(monkeypatch, True)
    run = Run(tmp_path / "run")
    stop = partial(os.kill, os.getpid(), signal.SIGINT)
    with pytest.raises(Interrupted):
        train(config, digits, run, device="cpu", report=lambda *_: stop())
    assert (run.read_precision(), run.read_config()[0]) == ("bf16-mixed", config)
    give_bfloat16(monkeypatch, False)
    train(config, digits, run, device="cpu", resume=True)
    assert dtypes.products[True] == {torch.bfloat16}
    assert run.read_summary()["precision"] == {"asked": "auto", "ran": "bf16-mixed"}
