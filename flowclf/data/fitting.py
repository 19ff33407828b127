"""Images of any size and kind, made to fit the shape and the grey levels that a model takes."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from flowclf.data.pictures import describe, is_picture, read_picture, visible_files
from flowclf.support.errors import UserError

__all__ = [
    "fitted",
    "made_to_fit",
    "read_pictures",
    "rescaled",
    "to_levels",
    "with_channels",
]

# Images resized at once.
CHUNK = 1024
# ITU-R BT.601, as Pillow has them.
LUMINANCE = (0.299, 0.587, 0.114)


def read_pictures(
    paths: Sequence[Path], shape: tuple[int, ...], levels: int, resize: bool = True
) -> tuple[tuple[str, ...], Tensor, tuple[str, ...]]:
    """Read pictures, and all below folders: their names, images (N, *shape) uint8, and notices.

    Raises:
        UserError: no picture, a damaged one, or one that does not fit and may not be made to.
    """
    visible = [file for path in paths for file in visible_files(path)]
    pictures = [file for file in visible if is_picture(file)]
    if not pictures:
        where = ", ".join(map(str, paths[:3]))
        raise UserError(
            f"{where}: expected at least one .png, .jpg, .webp or .bmp picture, got none; add one "
            "or name another folder"
        )
    images: list[Tensor] = []
    changed: list[str] = []
    for file in pictures:
        picture = torch.from_numpy(read_picture(file).copy())[None]
        image, notice = made_to_fit(str(file), picture, 256, shape, levels, resize)
        images.append(image)
        changed += notice
    notices = []
    if changed:
        others = f" ({len(changed)} pictures in all)" if len(changed) > 1 else ""
        notices.append(changed[0] + others)
    if ignored := len(visible) - len(pictures):
        notices.append(f"{ignored} files that are not .png, .jpg, .webp or .bmp are ignored")
    return tuple(map(str, pictures)), torch.cat(images), tuple(notices)


def made_to_fit(
    what: str, x: Tensor, had: int, shape: tuple[int, ...], levels: int, resize: bool
) -> tuple[Tensor, tuple[str, ...]]:
    """Return images of `had` grey levels in a shape and levels, and a notice if the shape changes.

    Raises:
        UserError: another shape that may not be changed, or a number of channels as of `fitted`.
    """
    notice = _notice_of_change(what, tuple(x.shape[1:]), shape, resize)
    return rescaled(fitted(x, shape), had, levels), notice


def fitted(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Fit images (N, c, h, w) to (N, *shape), uint8, by the largest central crop and resizing.

    Resized by bilinear interpolation with antialiasing; grey is repeated, colour weighed by BT.601.

    Raises:
        UserError: another number of channels that is not 1 or 3.
    """
    parts = x.split(CHUNK)
    return torch.cat([_resized(with_channels(part, shape[0]), *shape[1:]) for part in parts])


def _notice_of_change(
    what: str, found: tuple[int, ...], wanted: tuple[int, ...], resize: bool
) -> tuple[str, ...]:
    """Return a notice of how `found` is changed, if it is."""
    if found == wanted:
        return ()
    before, after = describe(found), describe(wanted)
    if not resize:
        raise UserError(
            f"{what}: expected {after} images, got {before}; convert them, or allow resizing"
        )
    return (f"{what}: made {after} from {before}",)


def rescaled(x: Tensor, levels: int, wanted: int) -> Tensor:
    """Return grey levels 0..levels-1 as 0..wanted-1, uint8."""
    return x if levels == wanted else to_levels(x * ((wanted - 1) / (levels - 1)), wanted)


def to_levels(x: Tensor, levels: int) -> Tensor:
    """Round to grey levels 0..levels-1, uint8."""
    return x.round().clamp(0, levels - 1).byte()


def with_channels(x: Tensor, channels: int) -> Tensor:
    """Return grey images in RGB, or RGB ones in grey: (N, channels, H, W), uint8.

    Raises:
        UserError: another number of channels that is not 1 or 3.
    """
    match x.shape[1], channels:
        case found, wanted if found == wanted:
            return x
        case 1, 3:
            return x.expand(-1, 3, -1, -1)
        case 3, 1:
            weights = torch.tensor(LUMINANCE).view(3, 1, 1)
            return (x * weights).sum(1, keepdim=True).round().byte()
    raise UserError(
        f"expected images with {channels} channels, or grey or RGB ones to convert, got "
        f"{x.shape[1]} channels; convert them"
    )


def _resized(x: Tensor, height: int, width: int) -> Tensor:
    found_height, found_width = x.shape[2:]
    if (found_height, found_width) == (height, width):
        return x
    kept_height = max(1, min(found_height, round(found_width * height / width)))
    kept_width = max(1, min(found_width, round(found_height * width / height)))
    top, left = (found_height - kept_height) // 2, (found_width - kept_width) // 2
    centre = x[:, :, top : top + kept_height, left : left + kept_width]
    size = (height, width)
    return to_levels(F.interpolate(centre.float(), size, mode="bilinear", antialias=True), 256)
