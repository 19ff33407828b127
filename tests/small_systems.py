"""Small networks for every system, and checks of what their losses teach."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flowclf.data import Dataset, load_dataset
from flowclf.runs import Run
from flowclf.systems import SYSTEMS
from flowclf.systems.assemble import InvertibleSettings


def saved(file: Path, x: np.ndarray, y: np.ndarray) -> Dataset:
    """Save samples, of which the first nine are the test's, and load them, named by their file."""
    np.savez(file, x_train=x, y_train=y, x_test=x[:9], y_test=y[:9])
    return replace(load_dataset(str(file)), name=str(file))


CONV: dict[str, Any] = {"blocks": [1], "width": [4], "dense_hidden": [8]}
CNN: dict[str, Any] = {"kind": "cnn", "width": [4], "hidden": [8]}


def history(run: Run) -> list[dict[str, Any]]:
    """Return the rows of metrics.jsonl but for the time, which no two runs have in common."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in run.read_metrics()]


def is_flow(system: str) -> bool:
    return issubclass(SYSTEMS[system].settings, InvertibleSettings)


def small(system: str, *, image: bool = False, hidden: int = 8, **flow: Any) -> dict[str, Any]:
    """Return sections with tiny networks: convolutions for images, else of one hidden layer.

    `flow` is for fully connected couplings, e.g. blocks=2.
    """
    fields = SYSTEMS[system].settings.model_fields
    network: dict[str, Any] = {"kind": "mlp", "hidden": [hidden]}
    decoder = network
    if image:
        kind = fields["network"].default.kind
        network = CNN if kind == "cnn" else {"kind": kind, **CONV}
        decoder = {**CNN, "kind": "conv"}
    elif is_flow(system):
        network = {**network, "blocks": 1, **flow}
    return {"network": network} | ({"decoder": decoder} if "decoder" in fields else {})


def check_gradients(model: nn.Module, total: Tensor) -> None:
    """Check that the loss gives every trained parameter a finite gradient."""
    assert bool(total.isfinite())
    total.backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.numel():
            assert parameter.grad is not None, f"{name} has no gradient"
            assert bool(parameter.grad.isfinite().all()), f"{name} has an infinite gradient"


def check_all_grouped(model: nn.Module, groups: dict[str, list[nn.Parameter]]) -> None:
    """Check that the groups hold every trained parameter and no other."""
    grouped = {id(p) for group in groups.values() for p in group}
    assert {id(p) for p in model.parameters() if p.requires_grad} == grouped


def group_gradients(term: Tensor, groups: dict[str, list[nn.Parameter]]) -> dict[str, list[Tensor]]:
    """Compute the gradients of each group that the term reaches, zeros where it does not."""
    found = {}
    for name, group in groups.items():
        if not group:
            continue
        got = torch.autograd.grad(term, group, retain_graph=True, allow_unused=True)
        if any(bool(gradient.any()) for gradient in got if gradient is not None):
            found[name] = [torch.zeros(()) if g is None else g for g in got]
    return found
