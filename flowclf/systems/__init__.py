"""The systems, in one table. A new one is a file of its own and a line here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flowclf.classifier import GenerativeClassifier
from flowclf.errors import UserError
from flowclf.settings import InvertibleSettings, Section
from flowclf.systems.class_nll import build_class_nll
from flowclf.systems.i_revnet import IRevNetSettings, build_i_revnet
from flowclf.systems.ib_inn import IBInnSettings, build_ib_inn
from flowclf.systems.parts import Blueprint
from flowclf.systems.resnet import ResNetSettings, build_resnet
from flowclf.systems.variational import CESettings, GMSettings, VCSettings, build_variational
from flowclf.systems.vib import VibSettings, build_vib

__all__ = ["PLANNED", "SYSTEMS", "Blueprint", "System", "find_system"]


@dataclass(frozen=True)
class System:
    """What the command line and `build` need to know of a system.

    Attributes:
        summary: one line.
        paper: where it comes from.
        settings: its typed settings.
        build: called as build(blueprint, settings).
        beta: the setting that holds β̃ (section, field), or None where there is none.
        borrows: the system whose presets it takes over, but for their objective and mixture.
    """

    summary: str
    paper: str
    settings: type[Section]
    build: Callable[..., GenerativeClassifier]
    beta: tuple[str, str] | None = None
    borrows: str | None = None


BETA = ("objective", "beta")
IB_INN, VC = "Ardizzone et al., NeurIPS 2020", "Dhuliawala et al., TMLR 2023"

SYSTEMS: dict[str, System] = {
    "ib-inn": System(
        "invertible encoder, exact information bottleneck", IB_INN, IBInnSettings, build_ib_inn,
        BETA,
    ),
    "class-nll": System(
        "the same flow as a conditional density", IB_INN, InvertibleSettings, build_class_nll,
        borrows="ib-inn",
    ),
    "i-revnet": System(
        "the same flow with a softmax layer, no density", "Jacobsen et al., ICLR 2018",
        IRevNetSettings, build_i_revnet, borrows="ib-inn",
    ),
    "resnet": System(
        "feed-forward counterpart with a softmax layer", IB_INN, ResNetSettings, build_resnet
    ),
    "vib": System(
        "Gaussian encoder, variational information bottleneck", "Alemi et al., ICLR 2017",
        VibSettings, build_vib, BETA, borrows="resnet",
    ),
    "ce": System("cross-entropy: VC's maximum likelihood", VC, CESettings, build_variational),
    "gm": System("Gaussian latents by their prior: VC's MAP", VC, GMSettings, build_variational,
        borrows="ce",
    ),
    "vc": System(
        "variational classification: prior and entropy", VC, VCSettings, build_variational,
        borrows="ce",
    ),
}  # fmt: skip

PLANNED = ("vae", "bvae", "vae-as", "m2", "untapped")


def find_system(name: str) -> System:
    """The system of that name.

    Raises:
        UserError: there is none, or it is not written yet.
    """
    if name in SYSTEMS:
        return SYSTEMS[name]
    state = "is planned, but not written yet" if name in PLANNED else "is not a system"
    raise UserError(f"{name!r} {state}; choose one of: {', '.join(SYSTEMS)}")
