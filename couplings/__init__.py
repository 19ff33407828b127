"""Invertible maps with exact log-determinants. Needs torch only, and no classifier."""

from couplings.conditioners import MLP, ConvNet
from couplings.core import Chain, Inverse, Invertible, ShapeError
from couplings.coupling import Conditioner, Coupling, DownsamplingCoupling, two_sided_coupling
from couplings.functional import SoftClamp, join
from couplings.layers import (
    ElementwiseAffine,
    Flatten,
    Logistic,
    Permutation,
    PiecewiseLinear,
    Rotation,
    SpaceToDepth,
    Whitening,
    fit_whitening,
    random_rotation,
)
from couplings.transforms import DCT, Haar
from couplings.univariate import Affine, RationalQuadratic, Univariate

__all__ = [
    "DCT",
    "MLP",
    "Affine",
    "Chain",
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
    "Permutation",
    "PiecewiseLinear",
    "RationalQuadratic",
    "Rotation",
    "ShapeError",
    "SoftClamp",
    "SpaceToDepth",
    "Univariate",
    "Whitening",
    "fit_whitening",
    "join",
    "random_rotation",
    "two_sided_coupling",
]
