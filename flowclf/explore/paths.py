"""Paths of latents that the page decodes: between two, and from one to a likelier one nearby."""

import torch
from torch import Tensor

__all__ = ["polyline", "slerp", "to_usual"]


def slerp(start: Tensor, end: Tensor, steps: int) -> Tensor:
    """Return points of the arc between two latents (1, D), of evenly changing length: (steps, D).

        z_t = [sin((1 - t) ω) û_0 + sin(t ω) û_1] / sin ω · [(1 - t) ‖z_0‖ + t ‖z_1‖],
        cos ω = û_0 · û_1

    Where the ends are (anti-)parallel this is the straight line. A straight line passes the origin
    at a distance where a Gaussian has no mass; the arc does not.
    """
    t = torch.linspace(0, 1, steps).to(start)[:, None]
    lengths = start.norm().lerp(end.norm(), t)
    u0, u1 = start / start.norm().clamp_min(1e-12), end / end.norm().clamp_min(1e-12)
    angle = (u0 * u1).sum().clamp(-1, 1).acos()
    if float(angle.sin()) < 1e-4:
        return start.lerp(end, t)
    arc = ((1 - t) * angle).sin() * u0 + (t * angle).sin() * u1
    return lengths * arc / angle.sin()


def polyline(corners: Tensor, steps: int) -> Tensor:
    """Return points of the line through corners (n, D), evenly many on each piece: (steps, D)."""
    place = torch.linspace(0, len(corners) - 1, steps, dtype=torch.float64)
    k = place.long().clamp(max=len(corners) - 2)
    return corners[k].lerp(corners[k + 1], (place - k).to(corners)[:, None])


def to_usual(z: Tensor, mean: Tensor, std: Tensor, radius: float, steps: int) -> Tensor:
    """Return the straight way from a latent z (1, D) to as near its class as usual: (steps, D).

        z' = μ + s (z - μ),  s = min(1, radius / ‖(z - μ)/σ‖)

    Of z its direction from the mean is kept. (To climb log q(x) in x instead leads nowhere: the
    density of a flow is so rugged that every step of a visible size lowers it.)
    """
    away = ((z - mean) / std).norm().clamp_min(1e-12)
    return polyline(torch.cat((z, z.lerp(mean, (1 - radius / away).clamp_min(0)))), steps)
