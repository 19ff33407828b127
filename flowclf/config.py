"""The typed configuration of a run, from defaults, preset, file and `--set`, in this order."""

import difflib
from collections.abc import Iterable, Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, SerializeAsAny, ValidationError
from pydantic_core import ErrorDetails

from couplings.core import Shape
from flowclf.settings import DataSettings, Section, TrainSettings
from flowclf.support.errors import UserError
from flowclf.support.parse import parse_yaml, read_yaml
from flowclf.systems import SYSTEMS, System, find_system

__all__ = [
    "RunConfig",
    "configure",
    "flatten",
    "make_config",
    "make_settings",
    "nest",
    "nested",
    "parse_assignments",
    "preset_names",
    "read_settings",
]

Nested = dict[str, Any]
RUN_SECTIONS = ("data", "train")
MOST_PARTS = 20  # of a name; real ones have four
# What a run's config.yaml says beside the settings: what the run is called, and what is recorded.
NAMES = ("system", "dataset", "preset", "seed")
# Which of several kinds of a section was meant: part of pydantic's locations, not of our keys.
KINDS = (
    "conv", "mlp", "paper", "cnn", "resnet", "wide-resnet", "residual", "whitened-cnn", "custom",
)  # fmt: skip
# A table with more has latents too wide for a full covariance a class.
MOST_FEATURES = 256
# Fewer samples get a preset of their own.
FEW_ROWS, FEW_PHOTOS = 500, 2000
RECORDED = ("data_facts", "precision", "versions", "commit", "sha256")


class RunConfig(Section):
    """Everything that defines a training run."""

    system: str
    dataset: str
    preset: str
    seed: Annotated[int, Field(ge=0, lt=2**63)]  # as torch's and numpy's generators have it
    data: DataSettings
    train: TrainSettings
    model: SerializeAsAny[Section]

    @property
    def beta(self) -> float | None:
        """β̃ of systems that have one."""
        place = find_system(self.system).beta
        return None if place is None else float(getattr(getattr(self.model, place[0]), place[1]))

    def to_dict(self) -> Nested:
        """Return plain values for YAML, with the sections of the model at the top level."""
        plain = self.model_dump(mode="json")
        return plain | plain.pop("model")


def make_config(
    system: str,
    dataset: str,
    shape: Shape,
    *,
    preset: str | None = None,
    seed: int = 0,
    beta: float | None = None,
    overrides: Nested | Iterable[Nested] = (),
    epochs: int | None = None,
    lr: float | None = None,
    samples: int | None = None,
    **settings: Any,
) -> RunConfig:
    """Merge defaults, then the preset, then each of the overrides, then what is given by name.

    >>> make_config("ib-inn", "digits", (1, 8, 8), beta=2.0, epochs=5, network={"blocks": [2, 2]})
    >>> make_config("ib-inn", "digits", (1, 8, 8), overrides={"train.batch_size": 64})

    Args:
        system: a name of `flowclf systems`.
        dataset: name of the data, which picks the preset.
        shape: shape of one sample, which picks the preset where the name has none.
        preset: another preset than that.
        seed: of everything random in the run.
        beta: β̃.
        overrides: settings, or several of them, later ones going before: nested as in
            {"train": {"epochs": 5}}, or with dots as in {"train.epochs": 5}.
        epochs, lr: short for train.epochs and train.lr.
        samples: of the training data, which pick the preset where there are few; None: many.
        settings: sections by name.

    Raises:
        UserError: unknown system, preset or key; a value of the wrong type or out of range.
    """
    spec = find_system(system)
    given = [overrides] if isinstance(overrides, Mapping) else list(overrides)
    loop = {key: v for key, v in (("epochs", epochs), ("lr", lr)) if v is not None}
    given += [settings, {"train": loop}] if loop else [settings]
    try:
        overrides = [nested(layer) for layer in given]
    except RecursionError:
        raise UserError(
            "expected settings of a few levels, got some that hold themselves"
        ) from None
    asked = {name: v for layer in overrides for name, v in flatten(layer).items() if v is not None}
    if preset is None and "data.features" in asked:
        preset = "features" if "features" in preset_names(system) else "mlp"
    text = "data.target" not in asked
    size = asked.get("data.train_size")
    if samples is not None and isinstance(size, int):
        samples = min(samples, size)
    # What full covariances do not go with.
    other = asked.keys() & {"network.condition", "mixture.rank", "mixture.full_dims"}
    full = not other and asked.get("mixture.weights") != "affine"
    preset = preset or default_preset(system, dataset, shape, text, full, samples)
    base = load_preset(system, preset)
    if "train.epochs" in asked:
        # Who asks for epochs gets them.
        base.get("train", {}).pop("least_updates", None)
    layers = [base, *overrides]
    if beta is not None:
        layers.append(_beta_override(system, spec, beta))
    return configure(layers, system=system, dataset=dataset, preset=preset, seed=seed)


def configure(layers: Iterable[Nested], *, system: str, **names: Any) -> RunConfig:
    """Merge defaults and settings; a preset among the `names` is recorded, and not asked.

    So a run of an older version, which lacks settings, stays what it was.

    Raises:
        UserError: as `make_config`.
    """
    spec = find_system(system)
    # A section's defaults are the system's own, also where only some of its fields are set.
    merged = merge([spec.settings().model_dump(), *layers])
    run = {name: merged.pop(name, {}) for name in RUN_SECTIONS}
    values = {"system": system, **names}
    values["data"] = _validate(DataSettings, run["data"], "data.")
    values["train"] = _validate(TrainSettings, run["train"], "train.")
    values["model"] = _validate(spec.settings, merged)
    config: RunConfig = _validate(RunConfig, values)
    return config


def make_settings(
    system: str, shape: Shape, preset: str | None, beta: float | None, overrides: Nested
) -> Section:
    """Return the settings of a system's model alone, without a run around it."""
    for name in RUN_SECTIONS:
        if name in overrides:
            raise UserError(
                f"{name!r} belongs to a run, not to a model: expected one of "
                f"{', '.join(find_system(system).settings.model_fields)}"
            )
    config = make_config(system, "", shape, preset=preset, beta=beta, overrides=[overrides])
    return config.model


def parse_assignments(assignments: Iterable[str]) -> Nested:
    """Parse ["train.epochs=5"] to {"train": {"epochs": 5}}; values are read as YAML.

    Raises:
        UserError: an assignment without "=", or a value that is not YAML.
    """
    return merge(_parse_assignment(text) for text in assignments)


def nest(name: str, value: Any) -> Nested:
    """Turn "a.b" and a value into {"a": {"b": value}}.

    Raises:
        UserError: a name with nothing between two dots, or far too many of them.
    """
    parts = name.split(".")
    if not all(parts) or len(parts) > MOST_PARTS:
        raise UserError(f"expected the name of a setting like train.lr, got {name!r:.80}")
    for part in reversed(parts):
        value = {part: value}
    return {**value}


def nested(settings: Mapping[str, Any]) -> Nested:
    """Turn {"a.b": 1, "c": 2} into {"a": {"b": 1}, "c": 2}."""
    return merge(nest(name, value) for name, value in settings.items())


def flatten(document: Mapping[str, Any], prefix: str = "") -> Nested:
    """Turn {"a": {"b": 1}} into {"a.b": 1}."""
    found: Nested = {}
    for key, value in document.items():
        if isinstance(value, Mapping) and value:
            found |= flatten(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def read_settings(path: Path) -> Nested:
    """Read settings from a YAML file: sections, and perhaps system, preset and seed of a run.

    Raises:
        UserError: no such file, not a YAML mapping, or a name that is no text.
    """
    settings = {key: value for key, value in read_yaml(path).items() if key not in RECORDED}
    for key in ("system", "dataset", "preset"):
        if not isinstance(settings.get(key, ""), str | None):
            raise UserError(f"{path}: expected {key} to be a name, got {settings[key]!r:.80}")
    return settings


def merge(layers: Iterable[Mapping[str, Any]]) -> Nested:
    """Merge nested dictionaries, later ones winning key by key.

    A section whose `kind` changes starts anew: the fields of another kind do not apply to it.
    """
    result: Nested = {}
    for layer in layers:
        for key, value in layer.items():
            old = result.get(key)
            if isinstance(value, Mapping) and isinstance(old, dict):
                changed = "kind" in value and value["kind"] != old.get("kind", value["kind"])
                result[key] = dict(value) if changed else merge([old, value])
            else:
                result[key] = merge([value]) if isinstance(value, Mapping) else value
    return result


def preset_names(system: str) -> list[str]:
    """List the presets of a system, its own and borrowed ones."""
    return sorted(_presets(system))


def load_preset(system: str, name: str) -> Nested:
    """Load a preset: its differences from the defaults.

    A borrowed one gives the network, the data pipeline, the schedule and the label smoothing, so
    that systems can be compared; objective and mixture are else each system's own.

    Raises:
        UserError: there is no such preset.
    """
    presets = _presets(system)
    if not isinstance(name, str) or name not in presets:
        raise UserError(f"{system} has no preset {name!r}; choose one of: {', '.join(presets)}")
    owner, file = presets[name]
    values = yaml.safe_load(file.read_text("utf-8")) or {}
    if owner == system:
        return values
    smoothing = values.pop("objective", {}).get("label_smoothing")
    values.pop("mixture", None)
    objective = find_system(system).settings().model_dump().get("objective", {})
    if smoothing is not None and "label_smoothing" in objective:
        values["objective"] = {"label_smoothing": smoothing}
    return values


def _presets(system: str) -> dict[str, tuple[str, Traversable]]:
    """Map names of presets to the system they belong to and their files."""
    folder = resources.files("flowclf") / "presets" / system
    files = folder.iterdir() if folder.is_dir() else ()
    own = {file.name.removesuffix(".yaml"): (system, file) for file in files}
    lender = find_system(system).borrows
    return dict(sorted(({**_presets(lender), **own} if lender else own).items()))


def default_preset(
    system: str,
    dataset: str,
    shape: Shape,
    text: bool = True,
    full: bool = True,
    samples: int | None = None,
) -> str:
    """Return the preset named like the data, else the one for its kind and the samples to train on.

    `text`: of a .csv file; `full`: whether a table's mixture may have full covariances.
    """
    if dataset in preset_names(system) and len(shape) == 3:
        return dataset
    if dataset in ("fashion-mnist", "omniglot") and "mnist" in preset_names(system):
        return "mnist"
    if text and dataset.endswith(".csv") and "text" in preset_names(system):
        return "text"
    if len(shape) < 3:
        # Not a borrowed one, which would come without its mixture.
        owner, _ = _presets(system).get("table", ("", None))
        if not (full and owner == system and shape[0] <= MOST_FEATURES):
            return "mlp"
        return "table" if samples is None or samples >= FEW_ROWS else "small-table"
    # Networks for colour halve the sides three times.
    large = shape[0] == 3 and min(shape[1:]) >= 16 and all(side % 8 == 0 for side in shape[1:])
    if not large or "cifar10-small" not in preset_names(system):
        return "image"
    few = samples is not None and samples < FEW_PHOTOS and "few-photos" in preset_names(system)
    return "few-photos" if few else "cifar10-small"


def _beta_override(name: str, spec: System, beta: float) -> Nested:
    if spec.beta is None:
        with_beta = ", ".join(name for name, system in SYSTEMS.items() if system.beta)
        own = [n for n in setting_names(spec.settings) if n.startswith("objective.")]
        hint = f"it has {', '.join(own)} (--set)" if own else "its objective has no weights"
        raise UserError(
            f"{name} has no information-bottleneck beta: {hint}; systems with one: {with_beta}"
        )
    section, field = spec.beta
    return {section: {field: beta}}


def _parse_assignment(text: str) -> Nested:
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise UserError(f"expected --set key=value, got {text!r}")
    try:
        parsed = parse_yaml(value)
    except ValueError:
        raise UserError(f"--set {key}: expected a YAML value, got {value!r}") from None
    return nest(key.strip(), parsed)


def _validate(settings: type[Section], values: Nested, prefix: str = "") -> Any:
    try:
        return settings.model_validate(values)
    except ValidationError as error:
        raise UserError(_explain(error, settings, prefix)) from None


def _explain(error: ValidationError, settings: type[Section], prefix: str) -> str:
    first, *others = error.errors()
    path = _place(first)
    known = setting_names(settings)
    key = prefix + ".".join(part for part in path if part not in KINDS)
    key = key.removesuffix(".")
    if first["type"] == "extra_forbidden":
        full = [prefix + name for name in known]
        if any(name == key or name.startswith(f"{key}.") for name in full):
            return f"{key} is no setting of kind {path[-2]!r}"
        sections = [] if prefix else [*RUN_SECTIONS, *settings.model_fields]
        # A name without its section first: "epochs" means train.epochs.
        inner = [name for name in _everywhere(settings) if name.split(".")[-1] == key]
        close = inner[:1] or difflib.get_close_matches(key, full + sections, n=1)
        hint = f"; did you mean {close[0]}?" if close else f"; known: {', '.join(full)}"
        return f"unknown setting {key!r}{hint}"
    # What else a field of several types takes.
    also = [
        other["msg"].removeprefix("Input should be ") for other in others if _place(other) == path
    ]
    expected = " or ".join([first["msg"][0].lower() + first["msg"][1:], *also])
    return f"{key}: {expected}, got {first.get('input')!r}"


def _everywhere(settings: type[Section]) -> list[str]:
    """List the dotted names of a run's own settings, and of the model's."""
    own: dict[str, type[Section]] = {"data": DataSettings, "train": TrainSettings}
    names = [name for key, section in own.items() for name in setting_names(section, f"{key}.")]
    return names + setting_names(settings)


def _place(error: ErrorDetails) -> list[str]:
    """Return the path of a field; beside "auto", pydantic calls a number by its type."""
    parts = [str(part) for part in error["loc"]]
    return [part for part in parts if part != "constrained-int" and not part.startswith("literal[")]


def setting_names(settings: type[Section], prefix: str = "") -> list[str]:
    """List all dotted names below a section, of every kind where there are several."""
    names: list[str] = []
    for name, field in settings.model_fields.items():
        sections = [t for t in _types(field.annotation) if issubclass(t, Section)]
        nested = [n for s in sections for n in setting_names(s, f"{prefix}{name}.")]
        names += nested or [prefix + name]
    return list(dict.fromkeys(names))


def _types(annotation: Any) -> list[type]:
    if isinstance(annotation, type):
        return [annotation]
    return [t for a in getattr(annotation, "__args__", ()) for t in _types(a)]
