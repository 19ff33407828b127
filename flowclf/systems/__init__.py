"""The systems, in one table. A new one is a file of its own and a line here."""

from collections.abc import Callable
from dataclasses import dataclass

from flowclf.classifier import GenerativeClassifier
from flowclf.settings import Section
from flowclf.support.errors import UserError
from flowclf.systems.assemble import Blueprint, InvertibleSettings
from flowclf.systems.bvae import BvaeSettings, build_bvae
from flowclf.systems.class_nll import build_class_nll
from flowclf.systems.i_revnet import IRevNetSettings, build_i_revnet
from flowclf.systems.ib_inn import IBInnSettings, build_ib_inn
from flowclf.systems.resnet import ResNetSettings, build_resnet
from flowclf.systems.untapped import M2Settings, UntappedSettings, build_untapped
from flowclf.systems.vae import VaeSettings, build_vae
from flowclf.systems.vae_as import VaeAsSettings, build_vae_as
from flowclf.systems.variational import CESettings, GMSettings, VCSettings, build_variational
from flowclf.systems.vib import VibSettings, build_vib

__all__ = ["SYSTEMS", "Blueprint", "System", "find_system"]


@dataclass(frozen=True)
class System:
    """Entry of a system: all that the command line and `build` need."""

    summary: str  # one line
    paper: str  # where it comes from
    settings: type[Section]
    build: Callable[..., GenerativeClassifier]  # called as build(blueprint, settings)
    beta: tuple[str, str] | None = None  # the setting that holds β̃: section, field
    borrows: str | None = None  # a system's presets are taken over, but for objective and mixture


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
    "vae": System(
        "autoencoder, and a probe of its latents", "Kingma and Welling, ICLR 2014", VaeSettings,
        build_vae,
    ),
    "bvae": System(
        "autoencoder whose latents feed a classifier", "Salah and Yevick, 2024", BvaeSettings,
        build_bvae, borrows="vae",
    ),
    "vae-as": System(
        "autoencoder with its rate taken apart", "Li, 2019", VaeAsSettings, build_vae_as,
        borrows="vae",
    ),
    "m2": System(
        "label and latent behind every x, semi-supervised", "Kingma et al., NeurIPS 2014",
        M2Settings, build_untapped, borrows="untapped",
    ),
    "untapped": System(
        "M2 that learns from labels without an x, too", "Gemp et al., 2017", UntappedSettings,
        build_untapped,
    ),
}  # fmt: skip


def find_system(name: str) -> System:
    """Return the system of that name.

    Raises:
        UserError: there is none.
    """
    if name in SYSTEMS:
        return SYSTEMS[name]
    raise UserError(f"{name!r} is not a system; choose one of: {', '.join(SYSTEMS)}")
