"""Rotation of images."""

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

__all__ = ["random_angles", "resampled", "rotated"]


def rotated(x: Tensor, degrees: Tensor) -> Tensor:
    """Rotate images (B, C, H, W) of any dtype counter-clockwise by `degrees` (B,): float32.

    About the centre and bilinear, 0 moving in from outside, rounded to whole grey levels: exact
    for multiples of 90 degrees of square images.
    """
    height, width = x.shape[2:]
    angle = degrees.to(x.device).deg2rad()
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    # Where an output's pixel comes from, in units of half the width and half the height.
    rows = (cos, -sin * height / width, zero, sin * width / height, cos, zero)
    return resampled(x, torch.stack(rows, dim=1).unflatten(1, (2, 3)))


def resampled(x: Tensor, maps: Tensor) -> Tensor:
    """Return images (B, C, H, W) at where affine maps (B, 2, 3) send each output's pixel: float32.

    The maps are in units of half the width and half the height; bilinear, 0 moving in from outside,
    rounded to whole grey levels.
    """
    grid = F.affine_grid(maps.float(), list(x.shape), align_corners=False)
    return F.grid_sample(x.float(), grid, align_corners=False).round()


def random_angles(count: int, generator: Generator) -> Tensor:
    """Draw degrees, uniform in [0, 360): (count,), on the generator's device."""
    return 360 * torch.rand(count, generator=generator, device=generator.device)
