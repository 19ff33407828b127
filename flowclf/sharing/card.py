"""Model card, README.md: what the model is, how good it is, how to load it."""

import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import yaml

from flowclf.catalogue import find_metric
from flowclf.settings import ModelInfo
from flowclf.support.errors import printable

__all__ = ["model_card"]

# Metrics of the card, out of all that is measured.
SHOWN = (
    "accuracy", "ece", "negative_log_posterior_nats", "brier", "auroc", "bits_per_dim",
    "log_prob_nats", "elbo_nats",
)  # fmt: skip
CALLS = {
    "log_posterior": "model.log_posterior(x)   # log q(y|x), (B, {classes})",
    "log_prob": "model.log_prob(x)        # log q(x), (B,), nats, in the units of x",
    "elbo": "model.elbo(x)            # a bound of log q(x), (B,), nats",
    "sample": "model.sample(y)          # an x for each label of y (B,)",
}
CLASSES_SHOWN = 20
# Letters that Markdown reads as more than themselves within a line.
MARKUP = re.compile(r"[\\`*_\[\]|~$<>]")
TEXT = """\
---
{front}---

# {title}

A generative classifier of flowclf: an encoder into a latent space whose classes are Gaussians, here
the system `{system}`.

| | |
|---|---|
| input x | {input} |
| classes y | {classes} |
| trained on | {data} |
| parameters | {parameters:,} |
| β̃ (weight of the cross-entropy) | {beta} |

## Test results

{results}

## How to load it

```python
import flowclf

model = flowclf.load({name})   # a folder, or OWNER/NAME on the Hub
{calls}
```

`model.safetensors` holds the weights and `config.json` everything that the network is built from;
nothing here is a pickle.
"""


def model_card(
    info: ModelInfo,
    settings: Mapping[str, Any],
    parameters: int,
    calls: Sequence[str],
    name: str,
) -> str:
    """Return Markdown with the front matter that the Hub reads.

    Args:
        info: where the model comes from.
        settings: of its system.
        parameters: how many numbers are learned.
        calls: names of `CALLS` that it has.
        name: what it is loaded by.
    """
    return TEXT.format(
        front=yaml.safe_dump(_front_matter(info, calls), sort_keys=False, allow_unicode=True),
        title=_text(info.title),
        system=_text(info.system),
        input=_input(info),
        classes=_classes(info),
        data=_text(info.data or "not recorded"),
        parameters=parameters,
        beta=settings.get("objective", {}).get("beta", "-"),
        results=_results(info),
        name=json.dumps(name, ensure_ascii=False) if name.isprintable() else repr(name),
        calls="\n".join(CALLS[call].format(classes=len(info.class_names)) for call in calls),
    )


def _front_matter(info: ModelInfo, calls: Sequence[str]) -> dict[str, Any]:
    shown = _shown(info)
    task = "tabular-classification" if len(info.shape) == 1 else "image-classification"
    task = "text-classification" if info.vocabulary else task
    density = ["density-estimation"] if {"log_prob", "elbo"} & {*calls} else []
    front: dict[str, Any] = {
        "library_name": "flowclf",
        "pipeline_tag": task,
        "tags": ["flowclf", "generative-classifier", *density, info.system],
    }
    if not shown:
        return front
    metrics = [{"type": name, "value": value} for name, value in shown.items()]
    results = {
        "task": {"type": task},
        "dataset": {"name": info.data or "unknown", "type": info.data or "unknown"},
        "metrics": metrics,
    }
    return front | {
        "metrics": list(shown),
        "model-index": [{"name": info.title, "results": [results]}],
    }


def _shown(info: ModelInfo) -> dict[str, float]:
    return {name: info.metrics[name] for name in SHOWN if name in info.metrics}


def _results(info: ModelInfo) -> str:
    shown = _shown(info)
    if not shown:
        return "None were recorded."
    rows = ["| metric | value |", "|---|---|"]
    for name, value in shown.items():
        metric = find_metric(name)
        label = metric.column.replace("|", "\\|")
        rows.append(f"| {label} | {metric.written(value)} |")
    return "\n".join(rows)


def _input(info: ModelInfo) -> str:
    if info.features is not None:
        return f"{_text(info.features)}, (B, {info.shape[0]}): densities and bits/dim are of these"
    if len(info.shape) == 1:
        return f"{info.shape[0]} numbers in the units of the data, (B, {info.shape[0]})"
    sizes = ", ".join(map(str, info.shape))
    return f"images of grey levels 0 to {(info.levels or 256) - 1}, (B, {sizes})"


def _classes(info: ModelInfo) -> str:
    names = [_text(name) for name in info.class_names[:CLASSES_SHOWN]]
    rest = f" … ({len(info.class_names)} in all)" if len(info.class_names) > CLASSES_SHOWN else ""
    return ", ".join(names) + rest


def _text(name: str) -> str:
    """Return a name as Markdown that shows it letter by letter, without markup or HTML."""
    return MARKUP.sub(r"\\\g<0>", escape(printable(name), quote=False))
