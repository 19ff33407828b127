"""Decoder of one untrusted picture file to 8-bit grey or RGB."""

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import numpy.typing as npt

from flowclf.support.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "MOST_PIXELS",
    "decode",
    "describe",
    "is_picture",
    "picture_shape",
    "read_picture",
    "visible_files",
]

MOST_PIXELS = 2**24
"""16.7 million: more is taken for a decompression bomb."""
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
_ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".webp"}
# A picture whose brightest of 65,536 levels is darker was taken with 12 bits or fewer, or for 8.
LEAST_OF_16_BITS = 2**12
_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)  # of EXIF: on its side

_Pixels = npt.NDArray[np.uint8]


def is_picture(path: Path) -> bool:
    """Return True if a name ends as a picture's does, and is not hidden."""
    return path.suffix.lower() in _ENDINGS and not path.name.startswith(".")


def visible_files(path: Path) -> list[Path]:
    """Return the files below a folder that are not hidden, sorted; another path as it is."""
    if not path.is_dir():
        return [path]
    found = (each.relative_to(path).parts for each in sorted(path.rglob("*")))
    shown = (path.joinpath(*parts) for parts in found if not any(p[0] == "." for p in parts))
    return [each for each in shown if not each.is_dir()]


def read_picture(path: Path) -> _Pixels:
    """Read one picture: (C, H, W), uint8.

    Raises:
        UserError: a damaged picture.
    """
    pixels = np.asarray(decode(path, str(path)), dtype=np.uint8)
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def picture_shape(path: Path) -> tuple[int, int, int]:
    """Return the shape (C, H, W) that `read_picture` will give, from the file's head alone.

    Raises:
        UserError: as `read_picture`, but for damage beyond the head.
    """
    channels, height, width = 0, 0, 0

    def look(image: "Image") -> "Image":
        nonlocal channels, height, width
        channels = 1 if _is_grey(image) else 3
        width, height = image.size
        if image.getexif().get(_ORIENTATION) in _TURNED:
            width, height = height, width
        return image

    decode(path, str(path), convert=look, whole=False)
    return channels, height, width


def describe(shape: tuple[int, ...]) -> str:
    """Return the size and kind of images (C, H, W), for a message."""
    channels, height, width = shape
    return f"{width}×{height} {({1: 'grey', 3: 'RGB'}).get(channels, f'{channels}-channel')}"


def decode(
    file: Path | BinaryIO,
    where: str,
    most_pixels: int = MOST_PIXELS,
    convert: Callable[["Image"], "Image"] | None = None,
    whole: bool = True,
) -> "Image":
    """Decode a picture, by default to mode L or RGB.

    1-bit, 16-bit and grey pictures become L (16 bits lose the lower 8); all others become RGB.

    The file is a path, or a stream from its beginning, which messages call `where`; `convert` is to
    another mode. The picture is turned as its EXIF orientation says. Unless it is read `whole`, its
    end is not looked at. More than `most_pixels` are refused before any is decoded.

    Raises:
        UserError: no intact PNG, JPEG, WebP or BMP file, or one of more than `most_pixels` pixels;
            by default also transparent pixels, or 16 bits of which 12 or fewer are used.
    """
    from PIL import Image, ImageOps

    convert = convert or partial(_to_grey_or_rgb, where=where)
    # A pipe would be waited for.
    if isinstance(file, Path) and not file.is_file():
        raise UserError(
            f"{where}: expected a picture file, got a folder, a broken link or a device; remove it"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=_FORMATS) as image:
                if image.width * image.height > most_pixels:
                    raise UserError(
                        f"{where}: expected at most {most_pixels:,} pixels, got "
                        f"{image.width}×{image.height}; remove or shrink it"
                    )
                if not whole:
                    return convert(image)
                # Decoding stops at the last pixel and so misses wrong checksums and a lost end.
                image.verify()
            if not isinstance(file, Path):
                file.seek(0)
            with Image.open(file, formats=_FORMATS) as image:
                return convert(ImageOps.exif_transpose(image))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise UserError(
            f"{where}: expected at most {most_pixels:,} pixels, got many more; remove or shrink it"
        ) from error
    except UserError:
        raise
    # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, zlib.error and others.
    except Exception as error:
        raise UserError(
            f"{where}: expected a readable PNG, JPEG, WebP or BMP picture, got "
            f"{type(error).__name__}; replace or remove it"
        ) from error


def _to_grey_or_rgb(image: "Image", where: str) -> "Image":
    from PIL import Image

    if image.mode.startswith("I"):
        levels = np.asarray(image).astype(np.int64)
        if 0 < levels.max() < LEAST_OF_16_BITS:
            raise UserError(
                f"{where}: expected 16 bits that are used, got grey levels up to {levels.max()}; "
                "convert the pictures to 8 bits, or to the full range of 16"
            )
        return Image.fromarray((levels >> 8).clip(0, 255).astype(np.uint8))
    clear = np.asarray(image.convert("RGBA"))[..., 3].min() if image.has_transparency_data else 255
    if clear < 255:
        raise UserError(
            f"{where}: expected an opaque picture, got one with transparent pixels; flatten it "
            "onto a background"
        )
    if _is_grey(image):
        return image.convert("L")
    # Straight from P to RGB, Pillow warns about transparent palettes.
    return (image.convert("RGBA") if image.mode == "P" else image).convert("RGB")


def _is_grey(image: "Image") -> bool:
    """Tell whether a picture becomes grey, of 1, 8 or 16 bits."""
    return image.mode in ("1", "L", "LA") or image.mode.startswith("I")
