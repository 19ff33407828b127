"""A table of features: principal components of what a frozen extractor gives of each sample."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from flowclf.data.extractors import Extractor, find_extractor
from flowclf.data.feature_cache import extracted
from flowclf.support.errors import UserError
from flowclf.support.parse import parse_json
from flowclf.support.safetensors import DamagedFile, read_tensors, write_tensors

__all__ = ["Features", "fit_features", "principal_components", "usual_dims"]

USUAL_DIMS = 192


@dataclass(frozen=True, eq=False)
class Features:
    """Map from images or texts to the numbers (D,) that a model of features is about.

        x = components (extractor(image) - mean),    components componentsᵀ = I

    Lengths and volumes stay what they are in the plane of the components, so that a density of x is
    one of the extractor's features in this plane, in their own units; with D = F it is that of all
    features. That the components have unequal variances is the model's affair: its first stage
    divides by their deviations, and counts it.
    """

    extractor: Extractor
    shape: tuple[int, ...]  # of the images, (C, H, W); empty: texts
    levels: int  # their grey levels; 0 of texts
    mean: Tensor  # of the training features, (F,)
    components: Tensor  # directions of the largest variance, the largest first, (D, F)
    source: str = ""  # digest of the samples and labels that were turned into features
    images: Tensor | None = None  # of the test split, to make outliers from

    def __call__(self, x: Tensor | Sequence[str]) -> Tensor:
        """Return the components (N, D), float32, of images (N, *shape) uint8 or of N texts."""
        found = extracted(self.extractor, x, self.levels)
        return ((found.double() - self.mean) @ self.components.T.double()).float()

    @property
    def sha256(self) -> str:
        """Digest of the source, of the extractor, and of the number of components."""
        facts = (self.source, self.extractor.name, self.extractor.version, len(self.components))
        return sha256(json.dumps(facts).encode()).hexdigest()

    @property
    def summary(self) -> str:
        """A line on the numbers, for notices, tables and the model card."""
        dims, full = self.components.shape
        kind = f"{dims} principal components of" if dims < full else "all"
        return f"{kind} {full:,} features of {self.extractor.name}"

    def write(self, path: Path) -> None:
        """Write mean and components, and the name of the extractor, which is not written."""
        facts = {
            "extractor": self.extractor.name, "version": self.extractor.version,
            "shape": self.shape, "levels": self.levels,
        }  # fmt: skip
        write_tensors(path, {"mean": self.mean, "components": self.components}, json.dumps(facts))

    @classmethod
    def read(cls, path: Path, own: Extractor | None = None) -> Self:
        """Read what `write` wrote; `own` is the extractor where it is the user's module.

        Raises:
            UserError: a damaged file; an extractor that is not there, or another one.
        """
        tensors, note = read_tensors(path)
        try:
            facts = parse_json(note)
            name, found = facts["extractor"], facts["version"]
            shape, levels = tuple(facts["shape"]), int(facts["levels"])
            mean, components = tensors["mean"], tensors["components"]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DamagedFile(f"{path} is damaged: {error} is missing or wrong") from None
        extractor = find_extractor(name) if own is None else own
        if (extractor.name, extractor.version) != (name, found):
            raise UserError(
                f"expected {name} {found}, whose features {path.parent} was trained on, got "
                f"{extractor.name} {extractor.version}; hand in that one, or train anew"
            )
        return cls(extractor, shape, levels, mean, components)


def fit_features(
    extractor: Extractor,
    x: Tensor | Sequence[str],
    dims: int,
    shape: tuple[int, ...] = (),
    levels: int = 0,
) -> Features:
    """Return the `dims` principal components of a training split's features, or all there are.

    Raises:
        UserError: fewer than two samples.
    """
    found = extracted(extractor, x, levels)
    if len(found) < 2:
        raise UserError(f"expected at least 2 training samples for features, got {len(found)}")
    return Features(extractor, shape, levels, *principal_components(found, dims))


def usual_dims(samples: int) -> int:
    """Return how many components are usual: 192, or a tenth of the samples that have a label.

    A flow of more of them would learn their noise by heart.
    """
    return max(2, min(USUAL_DIMS, samples // 10))


def principal_components(found: Tensor, dims: int) -> tuple[Tensor, Tensor]:
    """Return the mean (F,) and `dims` orthonormal directions (D, F) of features (N, F), float64."""
    found = found.double()
    mean = found.mean(0)
    _, axes = torch.linalg.eigh((found - mean).T @ (found - mean) / len(found))
    kept = min(dims, found.shape[1], len(found) - 1)
    components = axes.flip(1).T[:kept]
    # An axis has no sign; that of its largest entry makes it the same on every machine.
    largest = components.gather(1, components.abs().argmax(1, keepdim=True))
    return mean, (components * largest.sign()).contiguous()
