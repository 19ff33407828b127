"""The user's own pictures: `train/CLASS/*.png` and `test/CLASS/*.png`."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from flowclf.data.dataset import Dataset, Split, validate
from flowclf.data.pictures import decode
from flowclf.support.devices import check_fits
from flowclf.support.errors import UserError

__all__ = ["describe", "is_picture", "load_folder", "read_picture"]

_ENDINGS = {".png", ".jpg", ".jpeg", ".bmp"}
_PARTS = ("train", "test")

_Pixels = npt.NDArray[np.uint8]


def load_folder(path: Path) -> Dataset:
    """Load PNG, JPEG or BMP files; the class names are the folders' names, sorted.

    All pictures must have one size, and all be grey (images (1, H, W)) or all coloured
    (images (3, H, W)). Hidden files are ignored.

    Raises:
        UserError: a class without pictures or in one split alone, or a picture that is damaged,
            too large, or differs from the first.
    """
    files = {part: _pictures_by_class(path / part) for part in _PARTS}
    names = tuple(files["train"])
    lone = sorted(set(names) ^ set(files["test"]))
    if lone:
        side = "train" if lone[0] in names else "test"
        raise UserError(
            f"{path}: expected the same classes in train and test, got {lone[0]!r} in {side} alone "
            f"({len(lone)} such in all); add or remove its folder"
        )
    first = next(iter(files["train"].values()))[0]
    model = read_picture(first)
    count = sum(len(pictures) for part in files.values() for pictures in part.values())
    check_fits(count * model.nbytes, str(path))
    train, test = (_to_split(files[part], first, model) for part in _PARTS)
    data = Dataset(path.name, train, test, names, levels=256, notices=_ignored(path))
    return validate(data, path)


def _pictures_by_class(folder: Path) -> dict[str, list[Path]]:
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    classes = [path for path in found if path.is_dir() and not path.name.startswith(".")]
    if not classes:
        raise UserError(
            f"expected class folders {folder / 'CLASS'}, got none; sort the pictures into "
            "train/CLASS/ and test/CLASS/"
        )
    return {each.name: _pictures(each) for each in classes}


def _pictures(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.iterdir() if is_picture(path))
    if not found:
        raise UserError(
            f"{folder}: expected at least one .png, .jpg or .bmp picture of this class, got none; "
            "add one or remove the folder"
        )
    return found


def is_picture(path: Path) -> bool:
    """Return True if a name ends as a picture's does, and is not hidden."""
    return path.suffix.lower() in _ENDINGS and not path.name.startswith(".")


def _ignored(path: Path) -> tuple[str, ...]:
    parts = [path / part for part in _PARTS]
    beside = [entry for part in parts for entry in part.iterdir() if not entry.is_dir()]
    within = [entry for part in parts for entry in part.glob("*/*") if not is_picture(entry)]
    strange = sum(not entry.name.startswith(".") for entry in beside + within)
    found = f"{strange} files or folders that are not .png, .jpg or .bmp are ignored"
    return (found,) if strange else ()


def _to_split(files: dict[str, list[Path]], first: Path, model: _Pixels) -> Split:
    images, labels = [], []
    for number, pictures in enumerate(files.values()):
        for path in pictures:
            pixels = read_picture(path)
            if pixels.shape != model.shape:
                raise UserError(
                    f"{path}: expected {describe(model.shape)} as {first.name} has, got "
                    f"{describe(pixels.shape)}; give all pictures one size and mode"
                )
            images.append(pixels)
            labels.append(number)
    return Split(torch.from_numpy(np.stack(images)), torch.tensor(labels, dtype=torch.int64))


def read_picture(path: Path) -> _Pixels:
    """Read one picture: (C, H, W), uint8.

    Raises:
        UserError: a damaged picture.
    """
    pixels = np.asarray(decode(path, str(path)), dtype=np.uint8)
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def describe(shape: tuple[int, ...]) -> str:
    """Return the size and kind of images (C, H, W), for a message."""
    channels, height, width = shape
    return f"{width}×{height} {({1: 'grey', 3: 'RGB'}).get(channels, f'{channels}-channel')}"
