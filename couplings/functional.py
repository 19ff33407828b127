"""Maps as pure functions of tensors, which choose between an operator and its definition.

Eager mode runs the custom operators of `couplings.ops`; under torch.compile, torch.export and
torch.func the plain formulas of `couplings.ops.reference` run instead (see `ops.dispatch`).
"""

from couplings.ops.affine import SoftClamp, affine_couple, affine_uncouple
from couplings.ops.haar import haar, unhaar
from couplings.ops.matmul import MixtureDensities, mixture_log_prob, rotate, unrotate
from couplings.ops.reference import join
from couplings.ops.spline import spline_couple, spline_uncouple

__all__ = [
    "MixtureDensities",
    "SoftClamp",
    "affine_couple",
    "affine_uncouple",
    "haar",
    "join",
    "mixture_log_prob",
    "rotate",
    "spline_couple",
    "spline_uncouple",
    "unhaar",
    "unrotate",
]
