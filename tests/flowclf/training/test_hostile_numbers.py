"""Numbers that nothing can be computed from: every system ends finite or stops in words, and what
is on disk is finite at any time.

Planted faults: each stops the run within a step, is told by term and layer, and is not saved.
Hostile data leave a normalisation nothing to divide by, or steps are far too large.

    PYTHONPATH=tests python tests/flowclf/training/test_hostile_numbers.py

prints what becomes of the data with the presets' own networks (`tiny`: with those of the tests),
and how many parameters are named, of all of all systems, where NaN is planted in each.
"""

import json
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from math import inf, nan
from pathlib import Path
from tempfile import TemporaryDirectory
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
from flowclf.support.seeding import private_rng
from flowclf.systems import SYSTEMS
from flowclf.training import Trained, TrainingDiverged, loop, train
from flowclf.training.checkpoint import Position
from flowclf.training.nonfinite_trace import Trace
from flowclf.training.progress import Report
from flowclf.training.setup import fresh_model

K, LEVELS = 3, 17
# A checkpoint after each step, and an evaluation.
STEPS: dict[str, Any] = {
    "epochs": 2, "batch_size": 9, "checkpoint_minutes": 1e-9, "evaluate_every": 2,
}  # fmt: skip
FAST = {"lr": 1e3, "schedule": "constant"}

CASES: dict[str, dict[str, Any]] = {
    "ordinary": {},
    "constant features": {},
    "nothing but constants": {},
    "duplicated rows": {},
    "one row a batch": {"batch_size": 1, "epochs": 1},
    "one row a class": {},
    "inputs x 1e6": {},
    "inputs x 1e-30": {},
    "inputs far from 0": {},
    "learning rate 1e3": FAST,
    "learning rate 1e3, sgd": FAST | {"optimizer": "sgd"},
    "learning rate 1e3, last step": FAST | {"epochs": 1, "batch_size": 27},
    "learning rate 1e20, last step": FAST | {"epochs": 1, "batch_size": 27, "lr": 1e20},
}


def samples(case: str, kind: str) -> Split:
    """Return digits 0, 1 and 2 as grey levels (36, 1, 8, 8) or rows of a table (36, 64)."""
    digits = load_dataset("digits").train
    rows = torch.cat([(digits.y == k).nonzero()[:12, 0] for k in range(K)])
    if case == "one row a class":
        rows = rows[::12]
    if case == "duplicated rows":
        rows = rows[::12].repeat_interleave(12)
    x, y = digits.x[rows], digits.y[rows]
    if case == "constant features":
        x = x.clone()
        x[:, :, 2:6] = 5
    if case == "nothing but constants":
        x = torch.full_like(x, 5)
    if kind == "image":
        return Split(x, y)
    factor = {"inputs x 1e6": 1e6, "inputs x 1e-30": 1e-30}.get(case, 1.0)
    shift = 1e7 if case == "inputs far from 0" else 0.0
    return Split(factor * x.flatten(1).float() + shift, y)


def dataset(case: str, kind: str) -> Dataset:
    split = samples(case, kind)
    names = tuple(map(str, range(K)))
    return Dataset("hostile", split, split, names, LEVELS if kind == "image" else None)


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
            lines = file.read_text().splitlines() if file.suffix == ".jsonl" else [file.read_text()]
            found += [f"{file.name}: {x}" for line in lines for x in constants(line)]
    return found


def constants(line: str) -> list[str]:
    """NaN and Infinity, which JSON does not have."""
    found: list[str] = []
    json.loads(line, parse_constant=found.append)
    return found


# Faults.

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
    assert len(table) > 1


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


def test_the_command_line_says_so_and_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = "network={kind: mlp, hidden: [8]}", "data={train_size: 100, test_size: 20}"
    words = [word for setting in (*small, "train.lr=1e20") for word in ("--set", setting)]
    assert run_cli(["train", "ib-inn", "--out", str(tmp_path / "run"), *words]) == 1
    message = capsys.readouterr().err
    assert re.search(
        r"^flowclf: step 1: loss term .* is not finite, first in encoder", message, re.M
    )
    assert "the last good checkpoint is in" in message
    assert "Traceback" not in message
    assert spoilt(tmp_path) == []


# Data.


def outcome(system: str, kind: str, case: str, folder: Path, tiny: bool = True) -> str:
    """ "finite", or the first line of the refusal; a traceback of any other kind passes through."""
    data = dataset(case, kind)
    # Files take most of the time.
    run = Run(folder) if not tiny or CASES[case].get("lr") else None
    held_out = {"validation": 0.0 if case == "one row a class" else 0.25}
    layers = [networks(system, kind) if tiny else {}, {"train": STEPS | CASES[case]}]
    layers.append({"data": held_out})
    config = make_config(system, "hostile", data.shape, overrides=[merge(layers)])
    try:
        trained = train(config, data, run, device="cpu")
    except (UserError, TrainingDiverged) as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"
    assert list(not_finite(trained.model.state_dict())) == []
    assert constants(json.dumps(trained.summary["test"])) == []
    return "finite"


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("system", SYSTEMS)
def test_hostile_data_end_finite_or_refused(system: str, case: str, tmp_path: Path) -> None:
    # Half of them each.
    place = list(SYSTEMS).index(system) + list(CASES).index(case)
    found = outcome(system, ("table", "image")[place % 2], case, tmp_path)
    assert spoilt(tmp_path) == []
    assert found == "finite" or case != "ordinary"


def print_outcomes(tiny: bool) -> None:
    counts: Counter[str] = Counter()
    for case in CASES:
        for kind in ("image", "table"):
            for system in SYSTEMS:
                with TemporaryDirectory() as name:
                    try:
                        found = outcome(system, kind, case, Path(name), tiny)
                    except Exception as error:
                        found = f"TRACEBACK {type(error).__name__}: {str(error).splitlines()[0]}"
                    bad = spoilt(Path(name))
                    if bad:
                        found = f"NOT FINITE {len(bad)} {bad[0]} ({found})"
                counts[found.split(":")[0].split(" ")[0]] += 1
                print(f"{case:29} {kind:6} {system:10} {found[:170]}", flush=True)
    print(dict(counts))


def print_named() -> None:
    """Print how many of all parameters of all systems are named when they hold NaN."""
    named = total = 0
    for kind in ("image", "table"):
        for system in SYSTEMS:
            data = dataset("ordinary", kind)
            config = make_config(system, "x", data.shape, overrides=[networks(system, kind)])
            model = fresh_model(config, data, data.train).train()
            for name, parameter in model.named_parameters():
                if parameter.requires_grad and parameter.numel():
                    named += name_of_nan(model, name, data.train) == name
                    total += 1
    print(f"{named} of {total} parameters named")


def name_of_nan(model: Model, name: str, split: Split) -> str:
    """Return the name that a trace gives while the first number of a parameter is NaN."""
    x = model.perturb(split.x, torch.Generator().manual_seed(0))
    parameter, trace = model.get_parameter(name), Trace(model)
    before = parameter.detach().clone()
    parameter.data.view(-1)[0] = nan
    with private_rng(0, x.device):
        trace.follow(lambda: model.loss(x, split.y, index=torch.arange(len(x))))
    found = trace.value_from(["total"]) or ""
    parameter.data.copy_(before)
    return re.sub(r"first in (.*), whose (.*) is not", r"\1.\2", found)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print_outcomes(tiny="tiny" in sys.argv)
    print_named()
