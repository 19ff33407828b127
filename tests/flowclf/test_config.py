"""Presets, overrides and messages: what a user types, and what comes of it."""

import re
from math import inf
from pathlib import Path
from typing import Any

import pytest
import yaml

from flowclf import build
from flowclf.config import (
    RunConfig,
    default_preset,
    make_config,
    make_settings,
    merge,
    parse_assignments,
    preset_names,
    read_settings,
    setting_names,
)
from flowclf.support.errors import UserError
from flowclf.systems import SYSTEMS, find_system

SHAPES: dict[str, tuple[int, ...]]
SHAPES = {"digits": (1, 8, 8), "image": (3, 12, 10), "mnist14": (1, 14, 14)}
SHAPES |= dict.fromkeys(("mlp", "table", "small-table"), (5,))
# On top of whatever the preset says, so that no test depends on a preset's numbers.
BASE = {
    "network": {"kind": "mlp", "blocks": 4, "hidden": [256], "dropout": 0.3},
    "objective": {"beta": 8.0},
}


def configure(
    *assignments: str, dataset: str = "digits", shape: tuple[int, ...] = (1, 8, 8), **options: Any
) -> RunConfig:
    overrides = [BASE, parse_assignments(assignments)]
    return make_config("ib-inn", dataset, shape, overrides=overrides, **options)


@pytest.mark.parametrize("preset", preset_names("ib-inn"))
def test_every_preset_is_valid_and_can_be_built(preset: str) -> None:
    shape = SHAPES.get(preset, (3, 32, 32) if "cifar" in preset else (1, 28, 28))
    config = make_config("ib-inn", "", shape, preset=preset)
    assert config.preset == preset
    model = build("ib-inn", shape=shape, classes=4, preset=preset)
    assert model.settings == config.model
    assert model.mixture.dims == model.dims


@pytest.mark.parametrize(
    ("dataset", "shape", "preset"),
    [
        ("digits", (1, 8, 8), "digits"),
        ("mnist14", (1, 14, 14), "mnist14"),
        ("fashion-mnist", (1, 28, 28), "mnist"),
        ("omniglot", (1, 28, 28), "mnist"),
        ("mine", (3, 64, 64), "cifar10-small"),
        ("mine", (3, 64, 60), "image"),
        ("cifar10", (3, 32, 32), "cifar10"),
        ("mine", (7,), "table"),
        ("mine", (300,), "mlp"),
        ("digits", (64,), "table"),  # a table of that name
    ],
)
def test_the_preset_follows_the_data(dataset: str, shape: tuple[int, ...], preset: str) -> None:
    assert default_preset("ib-inn", dataset, shape) == preset
    assert configure(dataset=dataset, shape=shape).preset == preset


def test_few_samples_and_other_mixtures_have_presets_of_their_own() -> None:
    assert configure(dataset="mine", shape=(7,), samples=100).preset == "small-table"
    assert configure(dataset="mine", shape=(7,), samples=1000).preset == "table"
    few = configure("data.train_size=100", dataset="mine", shape=(7,), samples=1000)
    assert few.preset == "small-table"
    assert make_config("ce", "mine", (7,), samples=100).preset == "mlp"
    assert make_config("class-nll", "mine", (7,), samples=100).preset == "mlp"
    assert configure("network.condition=beta", dataset="mine", shape=(7,)).preset == "mlp"
    assert configure("mixture.weights=affine", dataset="mine", shape=(7,)).preset == "mlp"
    assert configure(dataset="mine", shape=(3, 64, 64), samples=100).preset == "few-photos"
    assert configure(dataset="cifar10", shape=(3, 32, 32), samples=100).preset == "cifar10"


MISTAKES = {
    "train.epoch=3": "unknown setting 'train.epoch'; did you mean train.epochs?",
    "network.blocs=3": "unknown setting 'network.blocs'; did you mean network.blocks?",
    "trian.epochs=3": "unknown setting 'trian'; did you mean train?",
    "mixtur.means=frozen": "unknown setting 'mixtur'; did you mean mixture?",
    "network.width=3": "network.width is no setting of kind 'mlp'",
    "colour=red": "unknown setting 'colour'; known: preprocess.marginal, preprocess.fine_ends, ",
    "train.epochs=many": "train.epochs: input should be a valid integer, ",
    "train.epochs=1.5": "train.epochs: input should be a valid integer, ",
    "train.epochs=0": "train.epochs: input should be greater than 0, got 0",
    "train=3": "train: input should be a valid dictionary or instance of TrainSettings, got 3",
    "train.lr=-1": "train.lr: input should be greater than 0, got -1",
    "objective.beta=-1": "objective.beta: input should be greater than or equal to 0, got -1",
    "objective.beta=.nan": "objective.beta: input should be greater than or equal to 0, got nan",
    "objective.label_smoothing=1": "objective.label_smoothing: input should be less than 1, got 1",
    "network.kind=resnet": "network: input tag 'resnet' ",
    "network.hidden=64,x": "network.hidden.1: input should be a valid integer, ",
    "mixture.means=fixed": "mixture.means: input should be 'learned' or 'frozen', got 'fixed'",
}


@pytest.mark.parametrize("assignment", MISTAKES)
def test_a_mistake_is_told_in_one_line(assignment: str) -> None:
    with pytest.raises(UserError, match=rf"\A{re.escape(MISTAKES[assignment])}.*\Z"):
        configure(assignment)


def test_what_is_no_assignment_is_refused() -> None:
    for assignment, message in {
        "train.epochs": "expected --set key=value, got 'train.epochs'",
        "=3": "expected --set key=value, got '=3'",
        "train.epochs={": "--set train.epochs: expected a YAML value, got '{'",
    }.items():
        with pytest.raises(UserError, match=rf"\A{re.escape(message)}\Z"):
            parse_assignments([assignment])


def test_assignments_nest_and_read_yaml() -> None:
    parsed = parse_assignments(
        ["train.epochs=5", "train.compile=true", "network.clamp.limit=0.5", "train.cpu_seconds="]
    )
    assert parsed == {
        "train": {"epochs": 5, "compile": True, "cpu_seconds": None},
        "network": {"clamp": {"limit": 0.5}},
    }
    assert parse_assignments(["train.epochs=5", "train.epochs=6"]) == {"train": {"epochs": 6}}


def test_lists_and_numbers_as_people_write_them() -> None:
    for text in ("6,6", "[6, 6]", "'6,6'"):
        config = configure("network.kind=conv", f"network.blocks={text}")
        assert config.model.network.blocks == (6, 6)
    config = configure("network.hidden=32", "train.milestones=0.5,0.75", "train.lr=1e-3")
    assert config.model.network.hidden == (32,)
    assert (config.train.milestones, config.train.lr) == ((0.5, 0.75), 1e-3)


@pytest.mark.parametrize("assignments", [["kind=conv", "blocks=2,2"], ["blocks=2,2", "kind=conv"]])
def test_only_another_kind_of_network_drops_the_fields_of_the_old(assignments: list[str]) -> None:
    network = configure().model.network
    assert (network.kind, network.hidden) == ("mlp", (256,))
    network = configure(*(f"network.{text}" for text in assignments)).model.network
    assert (network.kind, network.blocks, network.dropout) == ("conv", (2, 2), 0.0)
    network = configure("network.kind=mlp", "network.blocks=2").model.network
    assert (network.blocks, network.hidden, network.dropout) == (2, (256,), 0.3)


def test_later_layers_win_key_by_key() -> None:
    layers = [{"a": {"b": 1, "c": 2}, "d": 1}, {"a": {"b": 3}}, {"d": {"e": 1}}]
    assert merge(layers) == {"a": {"b": 3, "c": 2}, "d": {"e": 1}}
    assert layers[0] == {"a": {"b": 1, "c": 2}, "d": 1}


def test_beta_wins_over_all_layers() -> None:
    assert configure("objective.beta=2").model.objective.beta == 2
    assert configure("objective.beta=.inf").model.objective.beta == inf
    assert configure("objective.beta=2", beta=5.0).model.objective.beta == 5
    assert configure(beta=inf).model.objective.beta == inf


@pytest.mark.parametrize(
    "assignments",
    [
        [],
        ["objective.beta=.inf", "train.milestones=0.5,0.75"],
        ["network.kind=conv", "network.blocks=1,2", "network.width=8,16", "mixture.means=frozen"],
        ["network.kind=paper", "network.variant=mnist"],
    ],
)
def test_a_configuration_survives_yaml(assignments: list[str]) -> None:
    config = configure(*assignments, seed=3)
    document = yaml.safe_load(yaml.safe_dump(config.to_dict()))
    names = {key: document.pop(key) for key in ("system", "dataset", "preset", "seed")}
    again = make_config(shape=(1, 8, 8), overrides=[document], **names)
    assert again == config
    assert again.to_dict() == config.to_dict()


def test_settings_are_immutable_and_their_document_is_complete() -> None:
    config = configure()
    with pytest.raises(ValueError, match="frozen"):
        config.train.epochs = 3
    document = config.to_dict()
    assert {"system", "dataset", "preset", "seed", "data", "train"} < document.keys()
    assert document.keys() > set(SYSTEMS["ib-inn"].settings.model_fields)
    assert document["objective"] == {"beta": 8.0, "betas": [0.02, 50.0], "label_smoothing": 0.0}


def test_a_system_without_beta_names_its_own_weights() -> None:
    own = {name: setting_names(spec.settings) for name, spec in SYSTEMS.items()}
    for name in (name for name, spec in SYSTEMS.items() if spec.beta is None):
        with pytest.raises(UserError, match=f"{name} has no information-bottleneck beta") as caught:
            make_config(name, "digits", (1, 8, 8), beta=1.0)
        message = str(caught.value)
        with_beta = ", ".join(other for other, spec in SYSTEMS.items() if spec.beta)
        assert message.endswith(f"systems with one: {with_beta}")
        weights = [key for key in own[name] if key.startswith("objective.")]
        assert all(key in message for key in weights)
        assert ("its objective has no weights" in message) == (not weights)


def test_who_sets_the_epochs_gets_no_more_than_those() -> None:
    preset = make_config("ib-inn", "photos", (3, 64, 64)).train
    assert (preset.epochs, preset.least_updates) == (6, 300)
    short = make_config("ib-inn", "photos", (3, 64, 64), overrides=[{"train": {"epochs": 2}}]).train
    assert (short.epochs, short.least_updates) == (2, None)
    own = {"train": {"epochs": 2, "least_updates": 50}}
    assert make_config("ib-inn", "", (3, 64, 64), overrides=[own]).train.least_updates == 50


def test_a_borrowed_preset_keeps_the_label_smoothing_and_no_other_objective() -> None:
    own = make_config("ib-inn", "cifar10", (3, 32, 32), preset="cifar10-small").model
    for system in ("i-revnet", "resnet", "vib"):
        borrowed = make_config(system, "cifar10", (3, 32, 32), preset="cifar10-small").model
        assert borrowed.objective.label_smoothing == own.objective.label_smoothing == 0.05
    flow = make_config("class-nll", "cifar10", (3, 32, 32), preset="cifar10-small").model
    assert flow.network == own.network
    assert not hasattr(flow, "objective")
    weighed = make_config("i-revnet", "mnist14", (1, 14, 14), preset="mnist14").model
    assert weighed.objective.model_dump() == {"label_smoothing": 0.005}


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(UserError, match="'ib-in' is not a system; choose one of: ib-inn"):
        find_system("ib-in")
    with pytest.raises(UserError, match="no preset 'mnost'; choose one of: .*digits, .*mnist"):
        configure(preset="mnost")


def test_a_model_alone_has_no_run_sections_and_a_shape_of_images_or_rows() -> None:
    for shape in ((3, 4), (), (1, 2, 3, 4)):
        with pytest.raises(UserError, match=r"expected shape \(C, H, W\) or \(F,\)"):
            build("ib-inn", shape=shape, classes=2)
    settings = make_settings("ib-inn", (5,), None, 2.0, {"mixture": {"distance": 3.0}})
    assert settings.mixture.distance == 3  # type: ignore[attr-defined]
    assert settings.objective.beta == 2  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="'train' belongs to a run, not to a model"):
        build("ib-inn", shape=(5,), classes=2, train={"epochs": 3})


def test_a_file_of_settings_leaves_out_what_a_run_recorded(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("train: {epochs: 2}\nversions: {torch: x}\ncommit: y\ndata_facts: {}\n")
    assert read_settings(path) == {"train": {"epochs": 2}}


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [", "is damaged: expected a YAML mapping, got while"), ("- 1", "mapping, got list")],
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config.yaml"
    with pytest.raises(UserError, match=r"\A.*cannot read.*\Z"):
        read_settings(path)
    path.write_text(text)
    with pytest.raises(UserError, match=rf"\A.*{message}.*\Z"):
        read_settings(path)


def test_a_system_keeps_its_own_defaults_where_a_section_is_set_in_part() -> None:
    overrides = [{"objective": {"ratio": 0.2}, "mixture": {"start": "equidistant"}}]
    model = make_config("vc", "digits", (1, 8, 8), overrides=overrides).to_dict()
    assert model["objective"]["prior_logprob"] == 0.1
    assert model["mixture"]["covariance"] == "per-class"
    assert make_config("ce", "", (5,)).to_dict()["preprocess"]["marginal"] == 0


def test_another_kind_of_mixture_starts_from_that_kinds_defaults() -> None:
    config = make_config("ce", "digits", (1, 8, 8), overrides=[{"mixture": {"kind": "vmf"}}])
    mixture = config.to_dict()["mixture"]
    assert mixture.items() >= {"kind": "vmf", "weights": "uniform", "start": "equidistant"}.items()


def test_borrowed_presets_leave_objective_and_mixture_to_the_system() -> None:
    own = make_config("ib-inn", "cifar10", (3, 32, 32), preset="paper-cifar10").to_dict()
    borrowed = make_config("i-revnet", "cifar10", (3, 32, 32), preset="paper-cifar10").to_dict()
    assert own["mixture"]["weights"] == "learned"
    assert borrowed["mixture"]["weights"] == "affine"
    for section in ("network", "noise", "preprocess", "train", "data"):
        assert own[section] == borrowed[section]
