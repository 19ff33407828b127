"""Invertible maps with exact log-determinants. Needs torch only, and no classifier."""

from couplings.conditioners import MLP, ConvNet, TokenNet
from couplings.core import Chain, Inverse, Invertible, ShapeError
from couplings.coupling import (
    Conditioner,
    Coupling,
    DownsamplingCoupling,
    Split,
    two_sided_coupling,
)
from couplings.functional import SoftClamp, join
from couplings.layers import (
    ChannelMixing,
    Checkerboard,
    ElementwiseAffine,
    Flatten,
    Logistic,
    Permutation,
    PiecewiseLinear,
    Rotation,
    SpaceToDepth,
    Whitening,
    YeoJohnson,
    fit_whitening,
    random_rotation,
)
from couplings.transforms import DCT, Haar
from couplings.univariate import Affine, LogisticMixture, RationalQuadratic, Univariate

__all__ = [
    "DCT",
    "MLP",
    "Affine",
    "Chain",
    "ChannelMixing",
    "Checkerboard",
    "Conditioner",
    "ConvNet",
    "Coupling",
    "DownsamplingCoupling",
    "ElementwiseAffine",
    "Flatten",
    "Haar",
    "Inverse",
    "Invertible",
    "Logistic",
    "LogisticMixture",
    "Permutation",
    "PiecewiseLinear",
    "RationalQuadratic",
    "Rotation",
    "ShapeError",
    "SoftClamp",
    "SpaceToDepth",
    "Split",
    "TokenNet",
    "Univariate",
    "Whitening",
    "YeoJohnson",
    "fit_whitening",
    "join",
    "random_rotation",
    "two_sided_coupling",
]
