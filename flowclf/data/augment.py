"""Random augmentations of a batch of images that preserve its classes.

Every kind returns whole grey levels, as the files hold them: likelihoods rely on one noise
distribution between the levels.
"""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from math import pi
from typing import get_args

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from flowclf.data.rotate import random_angles, resampled, rotated
from flowclf.settings import Augment
from flowclf.support.errors import UserError

__all__ = ["KINDS", "Augmentation", "make_augmentation"]

Augmentation = Callable[[Tensor, Generator], Tensor]

KINDS: tuple[str, ...] = get_args(Augment)
"""Kinds that `make_augmentation` takes."""


def make_augmentation(
    kind: str, shape: tuple[int, ...], levels: int | None, veil: float = 0.0
) -> Augmentation | None:
    """Return a function of grey levels (B, C, H, W) and a generator; None for `none` without veil.

    It returns float32 grey levels (B, C, H, W) within 0..levels-1, each sample changed by its own
    random parameters, all drawn from the generator (whose device need not be the batch's).

    - `flip`: mirrored left to right or not.
    - `shift`: by up to 1 pixel in each direction; edge values move in.
    - `warp`: turned by up to 22.5 degrees, each side divided by 0.8 to 1.25, slanted by up to
      0.3, shifted by up to a fourteenth of the side; bilinear, 0 moves in.
    - `flip-crop`: mirrored left to right or not; shifted by up to 4 pixels, edge values move in.
    - `flip-crop-2`: the same with up to 2 pixels, for few epochs.
    - `rotate`: by any angle, bilinear; 0 moves in.
    - `paper-cifar`: as IB-INN was trained on CIFAR. Mirrored or not; brightness and contrast
      times 0.9 to 1.1, saturation times 0.95 to 1.05; rotated by up to 12 degrees (nearest
      pixel, edge values padded by 8); shifted by up to 2 pixels.

    A share `veil` of the images is then seen with less contrast through a smooth field of grey.

    Raises:
        UserError: an unknown kind, or one that `shape` does not allow.
    """
    if kind not in KINDS:
        raise UserError(f"expected an augmentation out of {', '.join(KINDS)}, got {kind!r}")
    if kind == "none" and not veil:
        return None
    if len(shape) != 3 or levels is None:
        asked = repr(kind) if kind != "none" else "data.veil"
        raise UserError(f"expected images for the augmentation {asked}, got rows of {shape}")
    moved = _paper_cifar(shape[0], levels) if kind == "paper-cifar" else _MOVED[kind]
    return partial(_veiled, moved, veil, levels - 1) if veil else moved


def _veiled(
    moved: Augmentation, share: float, white: int, x: Tensor, generator: Generator
) -> Tensor:
    """Move the images, then show a share of them as c x + (1 - c) m.

    The contrast c is 0.25 to 1; the veil m, of a mean from black to white, differs from place to
    place by up to half of the range, smoothly.
    """
    x = moved(x, generator)
    drawn = (_uniform(x, low, 1, generator) for low in (0, 0.25, 0, 0))
    chosen, contrast, mean, spread = (each[:, None, None, None] for each in drawn)
    coarse = torch.rand(len(x), 1, 4, 4, generator=generator, device=generator.device).to(x.device)
    field = F.interpolate(coarse - 0.5, x.shape[2:], mode="bicubic")
    veil = white * (mean + spread * field).clamp(0, 1)
    return torch.where(chosen < share, (veil + contrast * (x - veil)).round(), x)


def _warp(x: Tensor, generator: Generator) -> Tensor:
    """Map each image by an affine map of its own, drawn about the identity."""
    angle, slant = (_uniform(x, -s, s, generator) for s in (pi / 8, 0.3))
    wide, high = (_uniform(x, 0.8, 1.25, generator) for _ in range(2))
    right, down = (_uniform(x, -1 / 7, 1 / 7, generator) for _ in range(2))
    cos, sin, ratio = angle.cos(), angle.sin(), x.shape[2] / x.shape[3]
    # Rotation · [[wide, slant], [0, high]]: where an output's pixel comes from, see `rotated`.
    first = (wide * cos, (slant * cos - high * sin) * ratio, right)
    second = (wide * sin / ratio, slant * sin + high * cos, down)
    return resampled(x, torch.stack((*first, *second), dim=1).unflatten(1, (2, 3)))


# All but `paper-cifar`.
_MOVED: dict[str, Augmentation] = {
    "none": lambda x, generator: x.float(),
    "flip": lambda x, generator: _random_flip(x.float(), generator),
    "shift": lambda x, generator: _shifted(x.float(), 1, generator),
    "warp": _warp,
    "flip-crop": lambda x, generator: _shifted(_random_flip(x.float(), generator), 4, generator),
    "flip-crop-2": lambda x, generator: _shifted(_random_flip(x.float(), generator), 2, generator),
    "rotate": lambda x, generator: rotated(x, random_angles(len(x), generator)),
}


def _paper_cifar(channels: int, levels: int) -> Augmentation:
    if channels != 3:
        raise UserError(
            f"expected RGB images for 'paper-cifar', got {channels} channels; use 'flip-crop'"
        )
    if find_spec("kornia") is None:
        raise UserError(
            "the augmentation 'paper-cifar' needs kornia: pip install 'flowclf[augment]'"
        )
    from kornia.geometry.transform import rotate

    def augment(x: Tensor, generator: Generator) -> Tensor:
        jittered = _jitter(_random_flip(x.float(), generator), levels, generator)
        angles = _uniform(x, -12.0, 12.0, generator)
        turned = rotate(_pad(jittered, 8), angles, mode="nearest", padding_mode="border")
        # 32 + 2·8 = 48 rotated; the centre 36 of it is free of corners from outside.
        return _random_crop(turned[:, :, 6:-6, 6:-6], 4, generator)

    return augment


def _uniform(x: Tensor, low: float, high: float, generator: Generator) -> Tensor:
    drawn = torch.rand(len(x), generator=generator, device=generator.device)
    return (low + (high - low) * drawn).to(x.device)


def _pad(x: Tensor, margin: int) -> Tensor:
    return F.pad(x, (margin,) * 4, mode="replicate")


def _shifted(x: Tensor, margin: int, generator: Generator) -> Tensor:
    return _random_crop(_pad(x, margin), 2 * margin, generator)


def _random_flip(x: Tensor, generator: Generator) -> Tensor:
    flipped = _uniform(x, 0, 1, generator) < 0.5
    return torch.where(flipped[:, None, None, None], x.flip(-1), x)


def _random_crop(x: Tensor, slack: int, generator: Generator) -> Tensor:
    """Crop to (B, C, H - slack, W - slack) at random offsets in 0..slack."""
    top, left = torch.randint(
        slack + 1, (2, len(x)), generator=generator, device=generator.device
    ).to(x.device)
    height, width = x.shape[2] - slack, x.shape[3] - slack
    # One view (B, C, slack + 1, slack + 1, height, width) of all crops; each sample takes one.
    crops = x.unfold(2, height, 1).unfold(3, width, 1)
    return crops[torch.arange(len(x), device=x.device), :, top, left]


def _jitter(x: Tensor, levels: int, generator: Generator) -> Tensor:
    from kornia.enhance import (
        adjust_brightness_accumulative,
        adjust_contrast_with_mean_subtraction,
        adjust_saturation_with_gray_subtraction,
    )

    brightness, contrast, saturation = (
        _uniform(x, 1 - spread, 1 + spread, generator) for spread in (0.1, 0.1, 0.05)
    )
    unit = x / (levels - 1)
    unit = adjust_brightness_accumulative(unit, brightness)
    unit = adjust_contrast_with_mean_subtraction(unit, contrast)
    unit = adjust_saturation_with_gray_subtraction(unit, saturation)
    return torch.round(unit * (levels - 1))
