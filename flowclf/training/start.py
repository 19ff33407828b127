"""`train`: from a configuration, or from the names of a system and of data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from flowclf.config import RunConfig, flatten, make_config, nested
from flowclf.data import Dataset, Reading, as_dataset
from flowclf.data.extractors import Extractor, module_extractor
from flowclf.data.featured import with_features
from flowclf.runs import Run, load_data
from flowclf.support.errors import UserError
from flowclf.training import loop
from flowclf.training.loop import Trained
from flowclf.training.progress import Report, progress_bar

__all__ = ["train"]


def train(
    config: RunConfig | str,
    data: Any,
    run: Run | None = None,
    *,
    epochs: int | None = None,
    beta: float | None = None,
    lr: float | None = None,
    seed: int = 0,
    preset: str | None = None,
    target: str | None = None,
    sample_weight: Any = None,
    verbose: bool | None = None,
    device: str = "auto",
    devices: int | None = 1,
    nodes: int | None = 1,
    resume: bool = False,
    report: Report | None = None,
    backbone: nn.Module | None = None,
    features: str | nn.Module | None = None,
    overrides: dict[str, Any] | Iterable[dict[str, Any]] = (),
    **settings: Any,
) -> Trained:
    """Train a system on data, and evaluate it on the test split.

    >>> trained = flowclf.train("ib-inn", "mnist", epochs=5, beta=1.0)
    >>> trained = flowclf.train("gm", (x, y), network={"hidden": [64]})
    >>> trained = flowclf.train("ib-inn", frame, target="species")
    >>> trained = flowclf.train("ib-inn", "photos", overrides={"data.size": 32})
    >>> trained = flowclf.train("ib-inn", "photos", features="efficientnet-lite0")
    >>> trained.model.predict(x)

    Args:
        config: a name of `flowclf systems`, or everything that defines the run.
        data: a Dataset; with the name of a system also what `flowclf.data.as_dataset` takes.
        run: the folder that records the run; None: nothing is written.
        epochs, beta, lr, seed, preset, overrides, settings: as of `flowclf.make_config`, with a
            name alone.
        target: of a data frame, the column of the labels.
        sample_weight: of (x, y), how often each sample is drawn, relative to others.
        features: a name for data.features, or a frozen module of one's own from float RGB images
            (B, 3, H, W) in [0, 1] to (B, F), or (B, F, h, w) to be averaged.
        verbose: whether to show progress on standard error; None: with a name alone.
        device, devices, nodes, resume, report, backbone: as of `flowclf.training.loop.train`, which
            also says what is raised.

    Raises:
        UserError: settings beside a configuration, or data that are none.
    """
    if isinstance(config, str):
        own: dict[str, Any] = {"preset": preset, "beta": beta, "epochs": epochs, "lr": lr}
        if backbone is not None:
            settings.setdefault("network", {"kind": "custom"})
        targeted = {} if target is None else {"data.target": target}
        layers = [overrides] if isinstance(overrides, dict) else list(overrides)
        layers.append(targeted)
        own_features: Extractor | None = None
        if isinstance(features, nn.Module):
            own_features = module_extractor(features)
            features = own_features.name
        layers.append({} if features is None else {"data.features": features})
        name, dataset = _named_data(config, data, layers, seed, own_features, sample_weight)
        own |= {"seed": seed, "overrides": layers, "samples": len(dataset.train)}
        wanted = make_config(config, name, dataset.shape, **own, **settings)
    else:
        given = {"epochs": epochs, "beta": beta, "lr": lr, "preset": preset, **settings}
        extra = [name for name, value in given.items() if value is not None]
        extra += ["overrides"] if overrides else []
        extra += ["sample_weight"] if sample_weight is not None else []
        extra += ["features"] if features is not None else []
        if extra:
            raise UserError(
                f"expected settings beside the name of a system, got {', '.join(extra)} beside a "
                "configuration; give them to make_config"
            )
        if not (isinstance(config, RunConfig) and isinstance(data, Dataset)):
            found = f"{type(config).__name__} and {type(data).__name__}"
            raise UserError(
                f"expected the name of a system, or a RunConfig and a Dataset, got {found}"
            )
        wanted, dataset = config, data
    shown = isinstance(config, str) if verbose is None else verbose
    bar = progress_bar(wanted.system) if shown and report is None else nullcontext(report)
    with bar as reported:
        return loop.train(
            wanted,
            dataset,
            run,
            device=device,
            devices=devices,
            nodes=nodes,
            resume=resume,
            report=reported,
            backbone=backbone,
        )


def _named_data(
    system: str,
    data: Any,
    layers: Sequence[dict[str, Any]],
    seed: int,
    features: Extractor | None,
    sample_weight: Any,
) -> tuple[str, Dataset]:
    """Return the data, read as settings of the section data say, and their name in a run."""
    path = str(data) if isinstance(data, str | Path) else ""
    if sample_weight is not None and (path or isinstance(data, Dataset)):
        raise UserError(
            "expected sample_weight beside (x, y), got it beside data that are read already; give "
            "from_arrays sample_weight=…, or of a table data.weight=COLUMN"
        )
    named = [flatten(nested(layer)).items() for layer in layers]
    own = [{name: v for name, v in layer if name.startswith("data.")} for layer in named]
    config = make_config(system, path, (1,), seed=seed, overrides=own)
    if path:
        return path, load_data(config, features=features)
    reading = asdict(Reading.of(config.data))
    dataset = as_dataset(data, sample_weight=sample_weight, **reading)
    if config.data.features is not None and dataset.features is None:
        dataset = with_features(dataset, config.data, seed, features)
    return dataset.name, dataset
