"""Common corruptions of images at five severities, and the official CIFAR-10-C files.

The families are those of Hendrycks & Dietterich, "Benchmarking neural network robustness to common
corruptions and perturbations", ICLR 2019, written from their descriptions for batches of
small images. Their strengths are this module's own: numbers compare with each other, not with
CIFAR-10-C, whose files `load_official` reads. Left out are frost, which is photographs of frost
laid over the image, and saturate, which means nothing to grey images; the files have both.
"""

from collections.abc import Callable, Iterable
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from flowclf.data.dataset import Split, check_labels
from flowclf.support.errors import UserError
from flowclf.support.seeding import generator_for

__all__ = [
    "CORRUPTIONS",
    "OFFICIAL",
    "SEVERITIES",
    "Corruption",
    "corrupt",
    "find_official",
    "load_official",
]

Corruption = Callable[[Tensor, int, Generator], Tensor]
"""Images (B, C, H, W) in [0, 1], severity 1 to 5, of what is drawn: images, maybe beyond [0, 1]."""

SEVERITIES = (1, 2, 3, 4, 5)
CHUNK = 500
# Lengths are in pixels of an image of this side; below half of it they shrink no more.
SIDE = 32
TAPS = 11
MUD = (0.38, 0.28, 0.18)
OFFICIAL_ROWS = 10_000
OFFICIAL_FOLDERS = {"cifar10": "CIFAR-10-C", "cifar100": "CIFAR-100-C"}
WHERE = "https://zenodo.org/records/2535967"


def corrupt(x: Tensor, family: str, severity: int, seed: int, levels: int = 256) -> Tensor:
    """Corrupt images (N, 1 or 3, H, W) of integer grey levels 0..levels-1, uint8 as x.

    What is drawn (noise, directions, where drops lie) depends on seed, family and the image's
    place in x, and is the same at every severity, 1 (weak) to 5.

    Raises:
        UserError: a family not in `CORRUPTIONS`, a severity that is none of 1 to 5, or no such
            images.
    """
    _check_family(family, severity, CORRUPTIONS)
    if x.ndim != 4 or x.dtype != torch.uint8 or x.shape[1] not in (1, 3):
        raise UserError(
            f"expected grey or RGB images (N, C, H, W) in uint8, got {tuple(x.shape)} in {x.dtype}"
        )
    out = torch.empty_like(x)
    for start in range(0, len(x), CHUNK):
        unit = x[start : start + CHUNK].cpu().float() / (levels - 1)
        generator = generator_for(seed, f"corruption {family}", start)
        unit = CORRUPTIONS[family](unit, severity, generator).clamp(0, 1)
        out[start : start + CHUNK] = (unit * (levels - 1)).round().to(x)
    return out


def _check_family(
    family: str, severity: int, known: dict[str, Corruption] | tuple[str, ...]
) -> None:
    """Raise a UserError for an unknown family, or a severity that is none of 1 to 5."""
    if family not in known:
        raise UserError(f"expected a corruption out of {', '.join(known)}, got {family!r}")
    if severity not in SEVERITIES:
        raise UserError(f"expected a severity from 1 to 5, got {severity}")


def load_official(folder: Path | str, family: str, severity: int, classes: int = 100) -> Split:
    """Load the 10,000 corrupted test images of CIFAR-10-C or CIFAR-100-C, with labels.

    Args:
        folder: CIFAR-10-C with `gaussian_noise.npy` (50000, 32, 32, 3), five severities of 10,000,
            and `labels.npy`; or the folder that CIFAR-10-C lies in.
        family: a name of `OFFICIAL`.
        severity: 1 to 5.
        classes: K.

    Raises:
        UserError: no such file, family or severity, arrays of another shape, or labels that are
            not 0..K-1.
    """
    _check_family(family, severity, OFFICIAL)
    folder = Path(folder)
    nested = folder / "CIFAR-10-C"
    folder = nested if nested.is_dir() else folder
    rows = slice(OFFICIAL_ROWS * (severity - 1), OFFICIAL_ROWS * severity)
    images = _official(folder / f"{family}.npy", np.uint8, (32, 32, 3))[rows]
    labels = _official(folder / "labels.npy", np.int64)[rows]
    y = torch.from_numpy(labels.astype(np.int64))
    check_labels(y, classes, str(folder / "labels.npy"))
    return Split(torch.from_numpy(images.transpose(0, 3, 1, 2).astype(np.uint8, order="C")), y)


def find_official(dataset: str, roots: Iterable[Path]) -> Path | None:
    """Return the first root's folder of a data set's official corrupted images."""
    name = OFFICIAL_FOLDERS.get(dataset)
    places = (root / name for root in roots if name)
    return next((place for place in places if (place / "labels.npy").is_file()), None)


def _official(
    path: Path, kind: type[np.uint8 | np.int64], shape: tuple[int, ...] = ()
) -> np.ndarray:
    """Map the five severities of an official file; they stay on disk until sliced."""
    if not path.is_file():
        raise UserError(f"expected {path}, found no such file; unpack CIFAR-10-C.tar of {WHERE}")
    try:
        array: np.ndarray = np.lib.format.open_memmap(path, mode="r")
    # numpy's parser of headers fails in ways of its own.
    except Exception as error:
        raise UserError(
            f"{path}: expected an intact .npy file, got {type(error).__name__}; fetch it again"
        ) from error
    expected = (len(SEVERITIES) * OFFICIAL_ROWS, *shape)
    if array.shape != expected or not np.can_cast(array.dtype, kind):
        raise UserError(
            f"{path}: expected {kind.__name__} of shape {expected}, got {array.dtype} of shape "
            f"{array.shape}; fetch it again"
        )
    return array


# Noise.


def _gaussian_noise(u: Tensor, severity: int, generator: Generator) -> Tensor:
    """Return u + σ n."""
    return u + _of(severity, 0.04, 0.06, 0.09, 0.12, 0.15) * _normal(u.shape, generator)


def _shot_noise(u: Tensor, severity: int, generator: Generator) -> Tensor:
    """Return Poisson(λ u)/λ: λ photons make white."""
    photons = _of(severity, 200, 100, 55, 32, 20)
    return torch.poisson(u * photons, generator=generator) / photons


def _impulse_noise(u: Tensor, severity: int, generator: Generator) -> Tensor:
    """Turn a share of the values black or white."""
    drawn = torch.rand(u.shape, generator=generator)
    share = _of(severity, 0.02, 0.04, 0.07, 0.12, 0.18)
    return torch.where(drawn < share / 2, 0.0, torch.where(drawn > 1 - share / 2, 1.0, u))


def _speckle_noise(u: Tensor, severity: int, generator: Generator) -> Tensor:
    """Return u (1 + σ n)."""
    return u * (1 + _of(severity, 0.1, 0.17, 0.25, 0.35, 0.5) * _normal(u.shape, generator))


# Blur.


def _gaussian_blur(u: Tensor, severity: int, generator: Generator) -> Tensor:
    return _smooth(u, _of(severity, 0.5, 0.7, 0.9, 1.2, 1.6) * _scale(u))


def _defocus_blur(u: Tensor, severity: int, generator: Generator) -> Tensor:
    """Average over a disk with an anti-aliased edge."""
    radius = _of(severity, 0.9, 1.2, 1.6, 2.1, 2.7) * _scale(u)
    margin = int(radius + 1)
    across = torch.arange(-margin, margin + 1).float()
    kernel = (radius + 0.5 - torch.hypot(across[:, None], across)).clamp(0, 1)
    return _filtered(u, kernel / kernel.sum())


def _glass_blur(u: Tensor, severity: int, generator: Generator) -> Tensor:
    """Displace every pixel at random, then smooth."""
    bumps = _normal((len(u), 2, *u.shape[2:]), generator)
    spread = _of(severity, 0.4, 0.6, 0.8, 1.05, 1.4) * _scale(u)
    return _smooth(_displaced(u, spread * bumps), 0.4 * _scale(u))


def _motion_blur(u: Tensor, severity: int, generator: Generator) -> Tensor:
    """Average along a straight line of random direction."""
    length = _of(severity, 2.5, 3.5, 5.0, 6.5, 8.0) * _scale(u)
    return _streaked(u, length, torch.pi * torch.rand(len(u), generator=generator))


def _zoom_blur(u: Tensor, severity: int, generator: Generator) -> Tensor:
    """Average over growing enlargements about the centre."""
    strongest = _of(severity, 1.1, 1.16, 1.24, 1.34, 1.46)
    zooms = torch.linspace(1, strongest, TAPS).tolist()
    shown = [_sampled(u, _plain_grid(u) / zoom) for zoom in zooms]
    return torch.stack(shown).mean(0)


# Weather.


def _snow(u: Tensor, severity: int, generator: Generator) -> Tensor:
    """Add flakes that fall in streaks to a paler image."""
    share = _of(severity, 0.01, 0.018, 0.027, 0.037, 0.05)
    pale = _of(severity, 0.12, 0.2, 0.27, 0.34, 0.42)
    drawn = torch.rand(len(u), 1, *u.shape[2:], generator=generator)
    downward = torch.pi * (0.35 + 0.3 * torch.rand(len(u), generator=generator))
    streaks = _streaked((drawn < share).float(), 3 * _scale(u), downward)
    grey = u.mean(1, keepdim=True)
    paler = u.lerp(torch.maximum(u, 0.5 + 0.5 * grey), pale)
    return paler + 2.2 * _smooth(streaks, 0.4 * _scale(u))


def _fog(u: Tensor, severity: int, generator: Generator) -> Tensor:
    """Scatter light by a mist m of all scales: (u + a m)/(1 + a), up to the image's own white."""
    amount = _of(severity, 0.3, 0.55, 0.85, 1.2, 1.7)
    white = u.amax((1, 2, 3), keepdim=True)
    return (u + amount * _mist(u, generator)) * white / (white + amount).clamp_min(1e-6)


def _spatter(u: Tensor, severity: int, generator: Generator) -> Tensor:
    """Hide a share of the image by drops of mud."""
    share = _of(severity, 0.05, 0.09, 0.14, 0.2, 0.28)
    drops = _unit_variance(_smooth(_normal((len(u), 1, *u.shape[2:]), generator), 1.3 * _scale(u)))
    edge = drops.flatten(1).quantile(1 - share, dim=1)[:, None, None, None]
    mud = torch.tensor(MUD)[:, None, None]
    return u.lerp(
        mud if u.shape[1] == 3 else mud.mean(0, keepdim=True),
        (4 * (drops - edge) + 0.5).clamp(0, 1),
    )


# Light.


def _brightness(u: Tensor, severity: int, generator: Generator) -> Tensor:
    """Add b to the value V of HSV; hue and saturation are kept."""
    value = u.amax(1, keepdim=True)
    brighter = (value + _of(severity, 0.08, 0.15, 0.23, 0.31, 0.4)).clamp_max(1)
    return torch.where(value > 0, u * brighter / value.clamp_min(1e-6), brighter)


def _contrast(u: Tensor, severity: int, generator: Generator) -> Tensor:
    """Return m + c (u - m), with m the average of each channel."""
    mean = u.mean((2, 3), keepdim=True)
    return mean.lerp(u, _of(severity, 0.7, 0.5, 0.36, 0.24, 0.14))


# Digital.


def _elastic_transform(u: Tensor, severity: int, generator: Generator) -> Tensor:
    """Displace by a smooth random field."""
    noise = _normal((len(u), 2, *u.shape[2:]), generator)
    field = _unit_variance(_smooth(noise, 3.0 * _scale(u)))
    return _displaced(u, _of(severity, 0.6, 0.9, 1.25, 1.65, 2.1) * _scale(u) * field)


def _pixelate(u: Tensor, severity: int, generator: Generator) -> Tensor:
    """Average to fewer, larger pixels."""
    height, width = u.shape[2:]
    kept = _of(severity, 0.75, 0.6, 0.48, 0.38, 0.3)
    small = F.adaptive_avg_pool2d(u, (max(1, round(kept * height)), max(1, round(kept * width))))
    return F.interpolate(small, (height, width), mode="nearest")


def _jpeg_compression(u: Tensor, severity: int, generator: Generator) -> Tensor:
    """Compress and decompress as JPEG, by Pillow."""
    from PIL import Image

    quality = int(_of(severity, 70, 50, 35, 22, 12))
    images = (255 * u).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    decoded = []
    for image in images:
        file = BytesIO()
        grey = image.shape[2] == 1
        Image.fromarray(image[..., 0] if grey else image).save(file, "JPEG", quality=quality)
        with Image.open(file) as opened:
            decoded.append(np.asarray(opened).reshape(image.shape))
    return torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2).float() / 255


CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": _gaussian_noise, "shot_noise": _shot_noise, "impulse_noise": _impulse_noise,
    "defocus_blur": _defocus_blur, "glass_blur": _glass_blur, "motion_blur": _motion_blur,
    "zoom_blur": _zoom_blur, "snow": _snow, "fog": _fog, "brightness": _brightness,
    "contrast": _contrast, "elastic_transform": _elastic_transform, "pixelate": _pixelate,
    "jpeg_compression": _jpeg_compression, "speckle_noise": _speckle_noise,
    "gaussian_blur": _gaussian_blur, "spatter": _spatter,
}  # fmt: skip
"""By the names of the official files."""

OFFICIAL = (*CORRUPTIONS, "frost", "saturate")
"""The families that CIFAR-10-C has files of."""


# What they are made of.


def _of(severity: int, *values: float) -> float:
    return values[severity - 1]


def _scale(u: Tensor) -> float:
    """Return the factor by which lengths grow with the image."""
    return max(min(u.shape[2:]) / SIDE, 0.5)


def _normal(shape: tuple[int, ...], generator: Generator) -> Tensor:
    return torch.randn(shape, generator=generator)


def _smooth(u: Tensor, sigma: float) -> Tensor:
    """Blur by a Gaussian; edge values continue outside."""
    radius = int(3 * sigma + 1)
    weights = (-0.5 * (torch.arange(-radius, radius + 1) / sigma).square()).exp()
    weights = weights / weights.sum()
    return _filtered(_filtered(u, weights[:, None]), weights[None])


def _filtered(u: Tensor, kernel: Tensor) -> Tensor:
    """Filter each channel by a kernel (h, w) of odd sides; edge values continue outside."""
    rows, columns = (side // 2 for side in kernel.shape)
    padded = F.pad(u, (columns, columns, rows, rows), mode="replicate")
    channels = padded.flatten(0, 1)[:, None]
    return F.conv2d(channels, kernel[None, None]).reshape(u.shape)


def _plain_grid(u: Tensor) -> Tensor:
    """Return the pixels' places (1, H, W, 2): x and y in units of half the width and height."""
    identity = torch.eye(2, 3)[None]
    return F.affine_grid(identity, [1, 1, *u.shape[2:]], align_corners=False)


def _sampled(u: Tensor, grid: Tensor) -> Tensor:
    """Sample bilinearly at a grid; edge values continue outside."""
    grid = grid.expand(len(u), -1, -1, -1)
    return F.grid_sample(u, grid, padding_mode="border", align_corners=False)


def _displaced(u: Tensor, field: Tensor) -> Tensor:
    """Displace every pixel by a field (B, 2, H, W) of x and y, in pixels."""
    units = torch.tensor([u.shape[3], u.shape[2]]) / 2
    return _sampled(u, _plain_grid(u) + field.permute(0, 2, 3, 1) / units)


def _streaked(u: Tensor, length: float, angle: Tensor) -> Tensor:
    """Average along a line of that length in pixels, at angles (B,)."""
    direction = torch.stack((angle.cos(), angle.sin()), dim=1)[:, :, None, None]
    field = direction.expand(-1, -1, *u.shape[2:])
    places = torch.linspace(-length / 2, length / 2, TAPS).tolist()
    return torch.stack([_displaced(u, place * field) for place in places]).mean(0)


def _unit_variance(field: Tensor) -> Tensor:
    """Divide each sample's field (B, C, H, W) by its root mean square."""
    return field / field.square().mean((1, 2, 3), keepdim=True).sqrt().clamp_min(1e-6)


def _mist(u: Tensor, generator: Generator) -> Tensor:
    """Draw noise of half the amplitude at twice the frequency, from 0.4 to 1: (B, 1, H, W)."""
    mist, size, amplitude = torch.zeros(len(u), 1, *u.shape[2:]), 2, 1.0
    while size <= min(u.shape[2:]):
        noise = torch.rand(len(u), 1, size, size, generator=generator)
        mist += amplitude * F.interpolate(noise, list(u.shape[2:]), mode="bilinear")
        size, amplitude = 2 * size, amplitude / 2
    low, high = mist.amin((1, 2, 3), keepdim=True), mist.amax((1, 2, 3), keepdim=True)
    return 0.4 + 0.6 * (mist - low) / (high - low).clamp_min(1e-6)
