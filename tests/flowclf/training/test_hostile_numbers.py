"""Numbers that nothing can be computed from: every system ends finite or stops in words, and what
is on disk is finite at any time.

Planted faults: each stops the run within a step, is told by term and layer, and is not saved.
Hostile data leave a normalisation nothing to divide by, or steps are far too large.
"""

import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_systems import small
from torch import Tensor, nn

from flowclf.classifier import GenerativeClassifier
from flowclf.cli.app import run as run_cli
from flowclf.config import RunConfig, make_config, merge
from flowclf.data import Dataset, Split, load_dataset
from flowclf.runs import Run
from flowclf.support.errors import UserError
from flowclf.support.safetensors import read_tensors
from flowclf.systems import SYSTEMS
from flowclf.training import Trained, TrainingDiverged, loop, train
from flowclf.training.checkpoint import Position
from flowclf.training.progress import Report
from flowclf.training.setup import fresh_model

K, LEVELS = 3, 17
# A checkpoint after each step, and an evaluation.
STEPS = {"epochs": 2, "batch_size": 9, "checkpoint_minutes": 1e-9, "evaluate_every": 2}
FAST = {"lr": 1e3, "schedule": "constant"}

CASES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        (
            "ordinary", "constant features", "nothing but constants", "duplicated rows",
            "one row a class", "inputs x 1e6", "inputs x 1e-30", "inputs far from 0",
        ), {},
    ),
    "one row a batch": {"batch_size": 1, "epochs": 1},
    "learning rate 1e3": FAST,
    "learning rate 1e3, sgd": FAST | {"optimizer": "sgd"},
    "learning rate 1e3, last step": FAST | {"epochs": 1, "batch_size": 27},
    "learning rate 1e20, last step": FAST | {"epochs": 1, "batch_size": 27, "lr": 1e20},
}  # fmt: skip


def samples(case: str, kind: str) -> Split:
    """Return digits 0, 1 and 2 as grey levels (36, 1, 8, 8) or rows of a table (36, 64)."""
    digits = load_dataset("digits").train
    rows = torch.cat([(digits.y == k).nonzero()[:12, 0] for k in range(K)])
    if case in ("one row a class", "duplicated rows"):
        rows = rows[::12].repeat_interleave(12 if case == "duplicated rows" else 1)
    x, y = digits.x[rows].clone(), digits.y[rows]
    if case == "constant features":
        x[:, :, 2:6] = 5
    if case == "nothing but constants":
        x[:] = 5
    if kind == "image":
        return Split(x, y)
    factor = {"inputs x 1e6": 1e6, "inputs x 1e-30": 1e-30}.get(case, 1.0)
    shift = 1e7 if case == "inputs far from 0" else 0.0
    return Split(factor * x.flatten(1).float() + shift, y)


def dataset(case: str, kind: str) -> Dataset:
    split = samples(case, kind)
    return Dataset("hostile", split, split, tuple("012"), LEVELS if kind == "image" else None)


def networks(system: str, kind: str) -> dict[str, Any]:
    """Tiny ones, with BatchNorm where a system has it."""
    return small(system, image=kind == "image", blocks=2, batch_norm=True)


def not_finite(tensors: dict[str, Tensor]) -> Iterator[str]:
    return (name for name, value in tensors.items() if not bool(value.isfinite().all()))


def spoilt(folder: Path) -> list[str]:
    """Return everything in the files of a run that is not finite."""
    found = []
    for file in folder.rglob("*"):
        if file.suffix == ".safetensors":
            found += [f"{file.name}: {name}" for name in not_finite(load_file(file))]
        elif file.suffix in (".json", ".jsonl"):
            texts = file.read_text().splitlines() if file.suffix == ".jsonl" else [file.read_text()]
            found += [f"{file.name}: {x}" for text in texts for x in constants(text)]
    return found


def constants(line: str) -> list[str]:
    """NaN and Infinity, which JSON does not have."""
    found: list[str] = []
    json.loads(line, parse_constant=found.append)
    return found


AT = 4
Model = GenerativeClassifier
Fault = Callable[[Model, str, Callable[[], bool]], str]


def config(system: str, **changes: Any) -> RunConfig:
    """Six steps, a checkpoint after each."""
    settings = {"epochs": 3, "batch_size": 18, "checkpoint_minutes": 1e-9, "norm_passes": 0}
    layers = [networks(system, "table"), {"train": settings | changes}]
    return make_config(system, "hostile", (64,), overrides=[merge(layers)])


def learn(
    config: RunConfig, run: Run | None, report: Report | None = None, resume: bool = False
) -> Trained:
    data = dataset("ordinary", "table")
    return train(config, data, run, device="cpu", report=report, resume=resume)


def layer_of(model: Model) -> str:
    """One with a weight, in the middle of the encoder."""
    names = [name for name, _ in model.encoder.named_parameters() if name.endswith("weight")]
    return "encoder." + names[len(names) // 2].removesuffix(".weight")


# Each plants a fault that shows while `now`, and returns where it is to be found.


def spoil_parameter(model: Model, layer: str, now: Callable[[], bool]) -> str:
    module = model.get_submodule(layer)
    weight = module.get_parameter("weight")

    def spoil(*_: object) -> None:
        if now():
            weight.data.view(-1)[0] = nan

    module.register_forward_pre_hook(spoil)
    return f"loss term .*total.* is not finite, first in {layer}, whose weight is not"


def spoil_gradient(model: Model, layer: str, now: Callable[[], bool]) -> str:
    def spoil(gradient: Tensor) -> Tensor:
        return inf * torch.ones_like(gradient) if now() else gradient

    model.get_parameter(f"{layer}.weight").register_hook(spoil)
    name = f"{layer}.weight"
    return f"the gradient is not finite, first in that of {name}, and so in {name}"


def spoil_backward(model: Model, layer: str, now: Callable[[], bool]) -> str:
    """From there on downwards: the weight before the layer's output, and all of what is below."""

    def spoil(gradient: Tensor) -> Tensor:
        return gradient / 0 if now() else gradient

    def watch(module: nn.Module, given: object, made: Tensor) -> None:
        if made.requires_grad:
            made.register_hook(spoil)

    model.get_submodule(layer).register_forward_hook(watch)
    return f"the gradient is not finite, first in that of (what )?{layer}.* and so in encoder"


def spoil_term(model: Model, layer: str, now: Callable[[], bool]) -> str:
    """One that is only reported stops the run, too."""
    objective = model.objective

    def spoil(*args: Any) -> dict[str, Tensor]:
        terms = objective(*args)
        return terms | ({"extra": terms["total"] * nan} if now() else {})

    model.objective = spoil  # type: ignore[method-assign]
    return f"loss term extra is not finite, first in {type(model).__name__}'s objective"


FAULTS = (spoil_parameter, spoil_gradient, spoil_backward, spoil_term)


def diverge(system: str, fault: Fault, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train with a fault that shows at step `AT`, and look at what is said of it."""
    done, expected = [-1], [""]

    def planted(*args: Any) -> Model:
        model = fresh_model(*args)
        expected[0] = fault(model, layer_of(model), lambda: done[0] >= AT - 1)
        return model

    def report(step: int, steps: int, epoch: int, terms: dict[str, Tensor]) -> None:
        done[0] = step

    with monkeypatch.context() as patched:
        patched.setattr(loop, "fresh_model", planted)
        with pytest.raises(TrainingDiverged) as caught:
            learn(config(system), run, report)
    first, *table = str(caught.value).splitlines()
    assert done[0] == AT - 1
    assert first.startswith(f"step {AT}: ")
    assert re.search(expected[0], first), (expected[0], first)
    assert any("max |value|" in line for line in table)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("system", SYSTEMS)
def test_a_fault_is_named_and_nothing_of_it_saved(
    system: str, fault: Fault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path / "run")
    diverge(system, fault, run, monkeypatch)
    assert spoilt(run.folder) == []
    assert not run.weights_file.exists()
    if fault is spoil_parameter:
        learn(config(system), run, resume=True)
        whole = learn(config(system), None)
        for name, value in load_file(run.weights_file).items():
            assert torch.equal(value, whole.model.state_dict()[name]), name


@pytest.mark.parametrize("interrupted", [False, True])
def test_weights_that_a_step_has_spoilt_are_not_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interrupted: bool
) -> None:
    """Neither because it is time for a checkpoint, nor for Ctrl-C."""
    run, models = Run(tmp_path / "run"), list[Model]()
    minutes = 5 if interrupted else 1e-9

    def kept(*args: Any) -> Model:
        models.append(fresh_model(*args))
        return models[0]

    def report(step: int, steps: int, epoch: int, terms: dict[str, Tensor]) -> None:
        if step == AT:
            models[0].mixture.means.data[0, 0] = inf
            if interrupted:
                os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(loop, "fresh_model", kept)
    with pytest.raises(TrainingDiverged, match=rf"after step {AT + 1}: mixture.means is not fin"):
        learn(config("ib-inn", checkpoint_minutes=minutes), run, report)
    assert spoilt(run.folder) == []
    found = Position.model_validate_json(read_tensors(run.checkpoint_file)[1] or "")
    assert found.step == (0 if interrupted else AT)


def test_the_command_says_so_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--set", "network={kind: mlp, hidden: [8]}", "--set", "data.train_size=100"]
    out = ["--out", str(tmp_path / "run"), "--set", "train.lr=1e20"]
    assert run_cli(["train", "ib-inn", *small, *out]) == 1
    told = capsys.readouterr().err
    assert re.search(r"^flowclf: step 1: loss term .* is not finite, first in encoder", told, re.M)
    assert "the last good checkpoint is in" in told
    assert "Traceback" not in told
    assert spoilt(tmp_path) == []


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("system", SYSTEMS)
def test_hostile_data_end_finite_or_refused(system: str, case: str, tmp_path: Path) -> None:
    # Half of them each.
    kind = ("table", "image")[(list(SYSTEMS).index(system) + list(CASES).index(case)) % 2]
    data = dataset(case, kind)
    # Files take most of the time.
    run = Run(tmp_path) if CASES[case].get("lr") else None
    held_out = {"data": {"validation": 0.0 if case == "one row a class" else 0.25}}
    layers = [networks(system, kind), {"train": STEPS | CASES[case]}, held_out]
    config = make_config(system, "hostile", data.shape, overrides=[merge(layers)])
    try:
        trained = train(config, data, run, device="cpu")
    except (UserError, TrainingDiverged):
        assert case != "ordinary"
    else:
        assert list(not_finite(trained.model.state_dict())) == []
        assert constants(json.dumps(trained.summary["test"])) == []
    assert spoilt(tmp_path) == []
