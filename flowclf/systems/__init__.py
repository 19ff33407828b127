"""The systems, in one table. A new one is a file of its own and a line here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flowclf.classifier import GenerativeClassifier
from flowclf.errors import UserError
from flowclf.settings import Section
from flowclf.systems.ib_inn import IBInnSettings, build_ib_inn

__all__ = ["PLANNED", "SYSTEMS", "System", "find_system"]


@dataclass(frozen=True)
class System:
    """What the command line and `build` need to know of a system.

    Attributes:
        summary: one line.
        paper: where it comes from.
        settings: its typed settings.
        build: called as build(shape, classes, levels, settings, seed).
        beta: the setting that holds β̃ (section, field), or None where there is none.
    """

    summary: str
    paper: str
    settings: type[Section]
    build: Callable[..., GenerativeClassifier]
    beta: tuple[str, str] | None


SYSTEMS: dict[str, System] = {
    "ib-inn": System(
        summary="invertible encoder, exact information bottleneck",
        paper="Ardizzone et al., NeurIPS 2020",
        settings=IBInnSettings,
        build=build_ib_inn,
        beta=("objective", "beta"),
    ),
}

PLANNED = (
    "class-nll", "i-revnet", "resnet", "vib", "ce", "gm", "vc", "vae", "bvae", "vae-as", "m2",
    "untapped",
)  # fmt: skip


def find_system(name: str) -> System:
    """The system of that name.

    Raises:
        UserError: there is none, or it is not written yet.
    """
    if name in SYSTEMS:
        return SYSTEMS[name]
    state = "is planned, but not written yet" if name in PLANNED else "is not a system"
    raise UserError(f"{name!r} {state}; choose one of: {', '.join(SYSTEMS)}")
