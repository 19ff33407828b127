"""i-RevNet: the invertible network with a softmax layer, its log-determinant ignored.

Jacobsen, Smeulders, Oyallon: "i-RevNet: deep invertible networks", ICLR 2018; here, as IB-INN was
compared with (Ardizzone et al., NeurIPS 2020, Sec. 4), of IB-INN's own couplings. It can decode any
latent, but has no density.
"""

from flowclf.latent import MixtureSettings
from flowclf.systems.assemble import Blueprint, InvertibleSettings, invertible_parts
from flowclf.systems.resnet import SOFTMAX, SmoothingSettings, Softmax

__all__ = ["IRevNet", "IRevNetSettings", "build_i_revnet"]


class IRevNetSettings(InvertibleSettings):
    """Settings of an i-RevNet."""

    mixture: MixtureSettings = SOFTMAX
    objective: SmoothingSettings = SmoothingSettings()


class IRevNet(Softmax):
    """Invertible encoder, softmax layer, cross-entropy."""

    has_density = False


def build_i_revnet(blueprint: Blueprint, settings: IRevNetSettings) -> IRevNet:
    """Build an untrained i-RevNet."""
    return IRevNet(blueprint.shape, *invertible_parts(blueprint, settings), settings)
