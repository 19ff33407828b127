"""Small networks for every system, by what its settings allow."""

from __future__ import annotations

from typing import Any

from flowclf.systems import SYSTEMS
from flowclf.systems.assemble import InvertibleSettings

CONV: dict[str, Any] = {"blocks": [1], "width": [4], "dense_hidden": [8]}
CNN: dict[str, Any] = {"kind": "cnn", "width": [4], "hidden": [8]}


def is_flow(system: str) -> bool:
    """Return whether the system's network is an invertible one."""
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
