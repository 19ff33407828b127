"""Decoder of one untrusted picture file to 8-bit grey or RGB."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from flowclf.support.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["MOST_PIXELS", "decode"]

MOST_PIXELS = 2**24
"""16.7 million: more is taken for a decompression bomb."""
_FORMATS = ("PNG", "JPEG", "BMP")


def decode(
    file: Path | BinaryIO,
    where: str,
    most_pixels: int = MOST_PIXELS,
    convert: Callable[["Image"], "Image"] | None = None,
) -> "Image":
    """Decode a picture, by default to mode L or RGB.

    1-bit, 16-bit and grey-with-alpha pictures become L (16 bits lose the lower 8); all others
    become RGB, without their alpha channel.

    The file is a path, or a stream from its beginning, which messages call `where`; `convert` is to
    another mode. More than `most_pixels` are refused before any is decoded.

    Raises:
        UserError: it is no intact PNG, JPEG or BMP file, or has more than `most_pixels` pixels.
    """
    from PIL import Image

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
                # Decoding stops at the last pixel and so misses wrong checksums and a lost end.
                image.verify()
            if not isinstance(file, Path):
                file.seek(0)
            with Image.open(file, formats=_FORMATS) as image:
                return (convert or _to_grey_or_rgb)(image)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise UserError(
            f"{where}: expected at most {most_pixels:,} pixels, got many more; remove or shrink it"
        ) from error
    except UserError:
        raise
    # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, zlib.error and others.
    except Exception as error:
        raise UserError(
            f"{where}: expected a readable PNG, JPEG or BMP picture, got {type(error).__name__}; "
            "replace or remove it"
        ) from error


def _to_grey_or_rgb(image: "Image") -> "Image":
    from PIL import Image

    if image.mode in ("1", "L", "LA"):
        return image.convert("L")
    if image.mode.startswith("I"):
        high = np.asarray(image).astype(np.int64) >> 8
        return Image.fromarray(high.clip(0, 255).astype(np.uint8))
    # Straight from P to RGB, Pillow warns about transparent palettes.
    return (image.convert("RGBA") if image.mode == "P" else image).convert("RGB")
