"""Latent mixtures, and the settings that choose one."""

from typing import Annotated, Literal

from pydantic import Field

from flowclf.settings import Section

__all__ = ["MixtureSettings"]


class MixtureSettings(Section):
    """Latent mixture."""

    kind: Literal["gaussian", "vmf"] = "gaussian"  # vmf: von Mises-Fisher, on the sphere
    means: Literal["learned", "frozen"] = "learned"
    # "data": the untrained network's average latent of each class, so that few dimensions need not
    # swap classes; "equidistant": IB-INN's pattern, `distance` apart; "sphere": the
    # same directions at radius √D; "normal": N(0, 1) each; "linear": as torch's Linear;
    # "zero": all at the origin, which with frozen means is the standard normal prior of a VAE.
    start: Literal["equidistant", "sphere", "normal", "linear", "zero", "data"] = "equidistant"
    # Diagonal ones, or "full" a matrix for each class, for few dimensions: with start=data of
    # regularised discriminant analysis.
    covariance: Literal["unit", "shared", "per-class", "full"] = "unit"
    weights: Literal["uniform", "empirical", "learned", "affine"] = "uniform"
    # Prior of the classes where a trained model predicts: the `weights`, or all equally likely, as
    # IB-INN's code has it.
    predict: Literal["weights", "uniform"] = "weights"
    distance: Annotated[float, Field(gt=0)] = 5.0
    # Means too large to store: free in the first dimensions, of this rank in all others.
    rank: Annotated[int, Field(ge=0)] | None = None  # None: full means
    full_dims: Annotated[int, Field(ge=0)] = 0
