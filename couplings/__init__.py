"""Invertible maps with exact log-determinants. Knows torch alone; knows nothing of classifiers."""

from couplings.conditioners import MLP, ConvNet
from couplings.core import Chain, Inverse, Invertible, ShapeError
from couplings.coupling import Conditioner, Coupling, DownsamplingCoupling, two_sided_coupling
from couplings.elementwise import Logistic, PiecewiseLinear
from couplings.functional import SoftClamp, join
from couplings.linear import ElementwiseAffine, Permutation, Rotation, random_rotation
from couplings.reshape import DCT, Flatten, Haar, SpaceToDepth
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
    "join",
    "random_rotation",
    "two_sided_coupling",
]
