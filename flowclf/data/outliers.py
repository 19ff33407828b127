"""Out-of-distribution samples: made from the test samples, or other data.

Each set is uint8 images (N, C, H, W) of the shape and the grey levels of the data it is to be
compared with, or float32 rows (N, F) of as many columns; and the same for the same seed.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import cos, inf, pi, sin
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from flowclf.data.dataset import Dataset, Split
from flowclf.data.fitting import (
    fitted,
    made_to_fit,
    read_pictures,
    rescaled,
    to_levels,
    with_channels,
)
from flowclf.data.inputs import load_inputs
from flowclf.data.load import DATASETS, load_dataset
from flowclf.data.rotate import random_angles, rotated
from flowclf.settings import DataFacts
from flowclf.support.errors import UserError
from flowclf.support.seeding import generator_for

__all__ = [
    "OUTLIERS",
    "OutlierKind",
    "Outliers",
    "Request",
    "TABLE_OUTLIERS",
    "add_noise",
    "coloured_drawings",
    "gaussian_images",
    "load_outliers",
    "rgb_rotation",
    "rotation_matrix",
    "uniform_images",
]

# How far a side may be short of the wanted one to be padded instead of resized: 28 to 32.
MOST_PADDING = 4


@dataclass(frozen=True, eq=False)
class Outliers:
    """Set of out-of-distribution samples, by the name that messages and result files use."""

    name: str
    x: Tensor  # (N, C, H, W), uint8, or (N, F), float32
    notices: tuple[str, ...] = ()  # what was changed to make them fit, one line each for the user


@dataclass(frozen=True)
class Request:
    """Input of a kind of out-of-distribution samples."""

    like: Dataset  # to differ from; its test samples are what is changed
    levels: int  # its grey levels; 0 of a table
    amount: float  # behind the colon, or the kind's own
    generator: Generator  # of what is drawn
    data_dir: Path | None = None  # where other data sets are looked for first

    @property
    def x(self) -> Tensor:
        """Test images (N, C, H, W), uint8, or rows (N, F), float32."""
        return self.like.test.x


@dataclass(frozen=True)
class OutlierKind:
    """One kind of out-of-distribution samples, an entry of `OUTLIERS` or `TABLE_OUTLIERS`."""

    summary: str  # one line for a table
    make: Callable[[Request], Tensor]  # to images (M, C, H, W), uint8, or rows (M, F), float32
    amount: float | None = None  # behind the colon if nothing stands there; None: nothing may
    most: float = inf  # the largest amount; the least is 0


def rotation_matrix(alpha: float) -> Tensor:
    """Return R = Rx(0.2π α^0.7) Ry(π α^1.2), (3, 3), float64: a rotation of the RGB cube."""
    a, b = 0.2 * pi * alpha**0.7, pi * alpha**1.2
    about_red = [[1.0, 0.0, 0.0], [0.0, cos(a), -sin(a)], [0.0, sin(a), cos(a)]]
    about_green = [[cos(b), 0.0, sin(b)], [0.0, 1.0, 0.0], [-sin(b), 0.0, cos(b)]]
    first, second = torch.tensor((about_red, about_green), dtype=torch.float64)
    return first @ second


def rgb_rotation(x: Tensor, levels: int, alpha: float = 0.35) -> Tensor:
    """Rotate each pixel's colour about mid-grey, clipped to 0..255: (N, 3, H, W), uint8.

        x' = clamp(R (x - ½) + ½),  x in [0, 1]

    α = 0 is x itself. Ardizzone et al. 2020 (IB-INN) with α = 0.35.

    Raises:
        UserError: images that are not RGB.
    """
    if x.shape[1] != 3:
        raise UserError(
            f"expected RGB images for rgb-rotation, got {x.shape[1]} channels; use noise, "
            "inverted, rotated or drawings"
        )
    matrix = rotation_matrix(alpha).float()
    middle = (levels - 1) / 2
    return to_levels(torch.einsum("ij,njhw->nihw", matrix, x - middle) + middle, levels)


def add_noise(x: Tensor, levels: int, sigma: float, generator: Generator) -> Tensor:
    """Add N(0, σ²) in units of the range of grey levels, clipped; as x, uint8."""
    noise = torch.randn(x.shape, generator=generator)
    return to_levels(x + sigma * (levels - 1) * noise, levels)


def uniform_images(x: Tensor, levels: int, generator: Generator) -> Tensor:
    """Draw uniform grey levels; shape of x, uint8."""
    return torch.randint(levels, x.shape, generator=generator, dtype=torch.uint8)


def gaussian_images(x: Tensor, levels: int, generator: Generator) -> Tensor:
    """Draw independent Gaussian pixels of each channel's mean and deviation; as x, uint8."""
    std, mean = torch.std_mean(x.float(), (0, 2, 3), correction=0, keepdim=True)
    return to_levels(mean + std * torch.randn(x.shape, generator=generator), levels)


def coloured_drawings(
    drawings: Tensor, shape: tuple[int, ...], levels: int, generator: Generator
) -> Tensor:
    """Colour drawings (N, 1, h, w), white on black of 256 levels: (N, *shape), uint8.

        RGB:  x' = 1 - colour · x,  colour = 0.3 + 0.7 U(0, 1) of each image and channel
        grey: x' = x

    Padded by their edges where a side lacks at most 4 pixels, resized otherwise. As IB-INN's code
    does with QuickDraw.
    """
    x = rescaled(_padded_or_fitted(drawings, shape), 256, levels)
    if shape[0] != 3:
        return with_channels(x, shape[0])
    colours = 0.3 + 0.7 * torch.rand(len(x), 3, 1, 1, generator=generator)
    return to_levels((levels - 1) - colours * x, levels)


def load_outliers(
    spec: str,
    like: Dataset,
    seed: int = 0,
    data_dir: Path | None = None,
    resize: bool = True,
) -> Outliers:
    """Load the out-of-distribution samples that `spec` names, in shape and levels of `like`.

    Like features: images, whose features are taken; or texts, in a `.csv` with a column "text".

    Args:
        spec: a kind of `OUTLIERS`, with its amount behind a colon or without ("rgb-rotation:0.35");
            a known data set, whose test images are taken; or a path to a folder of pictures, in
            any arrangement below it, or to an `.npz`. Known names go before paths. Like a table:
            a kind of `TABLE_OUTLIERS`, or a path to an `.npz` or `.csv` of rows.
        like: the data set to differ from.
        seed: of all that is drawn.
        data_dir: where known data sets are looked for first.
        resize: whether images of another size or colour may be made to fit; with a notice.

    Raises:
        UserError: no such name or path, an amount out of range, no picture, one that is damaged,
            or samples that do not fit and may not be made to.
    """
    if like.features is not None and like.features.images is not None:
        images = Split(like.features.images, like.test.y)
        source = replace(
            like, train=images, test=images, levels=like.features.levels, features=None
        )
        found = load_outliers(spec, source, seed, data_dir, resize)
        return replace(found, x=like.features(found.x))
    levels = like.levels or 0
    kinds = OUTLIERS if like.is_image else TABLE_OUTLIERS
    name, _, amount = spec.partition(":")
    if name in kinds:
        kind = kinds[name]
        value = _amount(name, kind, amount)
        generator = generator_for(seed, f"outliers {name}")
        called = name if kind.amount is None else f"{name}:{value:g}"
        return Outliers(called, kind.make(Request(like, levels, value, generator, data_dir)))
    if spec == like.name:
        raise UserError(f"expected other images than the model's own, got {spec!r} again")
    path = Path(spec).expanduser()
    if not like.is_image:
        if path.suffix.lower() not in (".csv", ".npz"):
            raise UserError(
                f"expected outliers of a kind ({', '.join(kinds)}) or an .npz or .csv file of rows "
                f"like those of {like.name}, got {spec!r}"
            )
        facts = DataFacts(shape=like.shape, class_names=like.class_names)
        return Outliers(path.name, load_inputs([path], facts, features=like.features).x)
    if spec in DATASETS:
        return _other_dataset(spec, like.shape, levels, data_dir, resize)
    if path.is_dir():
        folder = path.resolve()
        return Outliers(folder.name, *read_pictures([folder], like.shape, levels, resize)[1:])
    if path.is_file():
        return _other_dataset(str(path), like.shape, levels, data_dir, resize)
    raise UserError(
        f"expected outliers of a kind ({', '.join(OUTLIERS)}), a known data set "
        f"({', '.join(DATASETS)}) or a folder of pictures, got {spec!r}"
    )


def _amount(name: str, kind: OutlierKind, text: str) -> float:
    if kind.amount is None:
        if text:
            raise UserError(f"expected {name!r} alone, got {text!r} behind it; leave it out")
        return 0.0
    if not text:
        return kind.amount
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= kind.most or value == inf:
        upper = "" if kind.most == inf else f" and at most {kind.most:g}"
        raise UserError(
            f"expected a number from 0{upper} behind {name}:, got {text!r}; try {kind.amount:g}"
        )
    return value


def _drawings(request: Request) -> Tensor:
    if request.like.name == "omniglot":
        raise UserError(
            "expected other images than the model's own, got drawings, which come from omniglot; "
            "use mnist"
        )
    drawings = load_dataset("omniglot", request.data_dir).test.x
    return coloured_drawings(drawings, request.like.shape, request.levels, request.generator)


def _turned(request: Request) -> Tensor:
    angles = random_angles(len(request.x), request.generator)
    return to_levels(rotated(request.x, angles), request.levels)


OUTLIERS: dict[str, OutlierKind] = {
    "rgb-rotation": OutlierKind(
        "colours turned about mid-grey, RGB only",
        lambda r: rgb_rotation(r.x, r.levels, r.amount), 0.35, most=1.0,
    ),
    "noise": OutlierKind(
        "Gaussian noise added, σ as a share of the range",
        lambda r: add_noise(r.x, r.levels, r.amount, r.generator), 0.015,
    ),
    "uniform": OutlierKind(
        "nothing but uniform noise", lambda r: uniform_images(r.x, r.levels, r.generator)
    ),
    "gaussian": OutlierKind(
        "nothing but Gaussian noise, of each channel's mean and spread",
        lambda r: gaussian_images(r.x, r.levels, r.generator),
    ),
    "flipped": OutlierKind("upside down", lambda r: r.x.flip(-2)),
    "inverted": OutlierKind("black for white", lambda r: (r.levels - 1 - r.x.int()).byte()),
    "rotated": OutlierKind("each turned by an angle of its own", _turned),
    "drawings": OutlierKind(
        "characters of Omniglot: in colour on white, or grey on black", _drawings
    ),
}  # fmt: skip
"""Kinds of images by name, beside the known data sets."""


def shuffled_columns(x: Tensor, generator: Generator) -> Tensor:
    """Shuffle each column of rows (N, F) by itself: the marginals stay, what joins them goes."""
    order = torch.rand(x.shape, generator=generator).argsort(0)
    return x.gather(0, order)


def _column_noise(request: Request, sigma: float) -> Tensor:
    return sigma * request.x.std(0) * torch.randn(request.x.shape, generator=request.generator)


TABLE_OUTLIERS: dict[str, OutlierKind] = {
    "permuted": OutlierKind(
        "each column shuffled by itself", lambda r: shuffled_columns(r.x, r.generator)
    ),
    "noise": OutlierKind(
        "Gaussian noise added, σ in standard deviations of the column",
        lambda r: r.x + _column_noise(r, r.amount), 1.0,
    ),
    "gaussian": OutlierKind(
        "independent Gaussians of the columns' means and deviations",
        lambda r: r.x.mean(0) + _column_noise(r, 1.0),
    ),
    "far": OutlierKind(
        "the same, so many deviations wide", lambda r: r.x.mean(0) + _column_noise(r, r.amount), 3.0
    ),
}  # fmt: skip
"""Kinds of rows of a table by name."""


def _other_dataset(
    spec: str, shape: tuple[int, ...], levels: int, data_dir: Path | None, resize: bool
) -> Outliers:
    data = load_dataset(spec, data_dir)
    if not data.is_image or data.levels is None:
        raise UserError(f"expected images, got a table in {spec}; choose a data set of images")
    x, notice = made_to_fit(data.name, data.test.x, data.levels, shape, levels, resize)
    return Outliers(data.name, x, (*data.notices, *notice))


def _padded_or_fitted(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Pad or fit x (N, 1, h, w) to the size (H, W) of `shape`."""
    missing = [wanted - found for wanted, found in zip(shape[1:], x.shape[2:], strict=True)]
    if not all(0 <= each <= MOST_PADDING for each in missing):
        return fitted(x, (1, *shape[1:]))
    (top, bottom), (left, right) = ((each // 2, each - each // 2) for each in missing)
    return F.pad(x.float(), (left, right, top, bottom), mode="replicate").byte()
