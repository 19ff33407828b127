"""The user's own pictures: `train/CLASS/*.png` and `test/CLASS/*.png`."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from flowclf.data.dataset import Dataset, Split, validate
from flowclf.data.pictures import decode
from flowclf.support.devices import check_fits
from flowclf.support.errors import UserError

__all__ = ["is_picture", "load_folder", "read_picture"]

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
    _check_same_classes(path, names, tuple(files["test"]))
    first = next(iter(files["train"].values()))[0]
    model = read_picture(first)
    count = sum(len(pictures) for part in files.values() for pictures in part.values())
    check_fits(count * model.nbytes, str(path))
    train, test = (_to_split(files[part], first, model) for part in _PARTS)
    data = Dataset(path.name, train, test, names, levels=256, notices=_ignored(path))
    return validate(data, path)


def _pictures_by_class(folder: Path) -> dict[str, list[Path]]:
    classes = sorted(p for p in folder.iterdir() if _visible_dir(p)) if folder.is_dir() else []
    if not classes:
        raise UserError(
            f"expected class folders {folder / 'CLASS'}, got none; sort the pictures into "
            "train/CLASS/ and test/CLASS/"
        )
    return {each.name: _pictures(each) for each in classes}


def _visible_dir(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".")


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


def _check_same_classes(path: Path, train: tuple[str, ...], test: tuple[str, ...]) -> None:
    lone = sorted(set(train) ^ set(test))
    if lone:
        side = "train" if lone[0] in train else "test"
        raise UserError(
            f"{path}: expected the same classes in train and test, got {lone[0]!r} in {side} alone "
            f"({len(lone)} such in all); add or remove its folder"
        )


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
        for picture in pictures:
            images.append(_matching(picture, first, model))
            labels.append(number)
    return Split(torch.from_numpy(np.stack(images)), torch.tensor(labels, dtype=torch.int64))


def _matching(path: Path, first: Path, model: _Pixels) -> _Pixels:
    pixels = read_picture(path)
    if pixels.shape != model.shape:
        raise UserError(
            f"{path}: expected {_describe(model)} as {first.name} has, got {_describe(pixels)}; "
            "give all pictures one size and mode"
        )
    return pixels


def read_picture(path: Path) -> _Pixels:
    """Read one picture: (C, H, W), uint8.

    Raises:
        UserError: a damaged picture.
    """
    pixels = np.asarray(decode(path, str(path)), dtype=np.uint8)
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _describe(pixels: _Pixels) -> str:
    channels, height, width = pixels.shape
    return f"{width}×{height} {'grey' if channels == 1 else 'RGB'}"
