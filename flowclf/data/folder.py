"""The user's own pictures in folders by class, with or without `train/` and `test/`."""

from collections import Counter
from pathlib import Path

import torch

from flowclf.data.dataset import Dataset, Reading, Split, draw_test, validate
from flowclf.data.fitting import fitted
from flowclf.data.pictures import is_picture, picture_shape, read_picture, visible_files
from flowclf.support.devices import check_fits
from flowclf.support.errors import UserError

__all__ = ["load_folder"]

# The test split, if there is one: the first of these that is there.
_TESTS = ("test", "val", "valid", "validation")
_USUAL_SIDE = 32
# Larger pictures are trained on as they are, but it takes long.
_LARGE = 64

_Shape = tuple[int, ...]
_Files = dict[str, list[Path]]


def load_folder(path: Path, reading: Reading | None = None) -> Dataset:
    """Load PNG, JPEG, WebP or BMP files; the class names are the folders' names, sorted.

    The folders are `train/CLASS/` and `test/CLASS/` (or `val/CLASS/`), or `CLASS/` alone, of which
    a fifth is drawn for the test; pictures may lie in folders below. Pictures of one size and mode
    stay as they are. `data.size` crops and resizes them, `data.mode` makes them grey or RGB. Where
    sizes differ they become 32×32 (smaller where the pictures are), where modes differ RGB, and a
    notice says so. Hidden files are ignored, and pictures turned as their EXIF orientation says.

    Raises:
        UserError: a class without pictures or in one split alone, or a picture that is damaged or
            too large.
    """
    how = reading or Reading()
    parts = _parts(path)
    names = tuple(parts[0])
    if len(parts) == 2 and (lone := sorted(set(names) ^ set(parts[1]))):
        side = "train" if lone[0] in names else "test"
        raise UserError(
            f"{path}: expected the same classes in train and test, got {lone[0]!r} in {side} alone "
            f"({len(lone)} such in all); add or remove its folder"
        )
    files = [file for part in parts for pictures in part.values() for file in pictures]
    shape, notices = _common_shape(path, files, how)
    check_fits(len(files) * torch.Size(shape).numel(), str(path))
    if strange := len(visible_files(path)) - len(files):
        notices += (f"{strange} files that are no pictures of a class are ignored",)
    train, *rest = [_to_split(part, shape) for part in parts]
    if rest:
        (test,) = rest
    else:
        train, test, drawn = draw_test(train, how, path.name)
        notices += (drawn,)
    return validate(Dataset(path.name, train, test, names, levels=256, notices=notices), path)


def _parts(path: Path) -> list[_Files]:
    """Return the pictures by class, of the training and test split or of all."""
    if not (path / "train").is_dir():
        if (path / "test").is_dir():
            raise UserError(
                f"{path}: expected train/CLASS/ beside test/, got none; sort the pictures into "
                "train/CLASS/ and test/CLASS/, or into CLASS/ alone"
            )
        return [_pictures_by_class(path)]
    tests = [path / name for name in _TESTS if (path / name).is_dir()]
    return [_pictures_by_class(part) for part in (path / "train", *tests[:1])]


def _pictures_by_class(folder: Path) -> _Files:
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    classes = [path for path in found if path.is_dir() and not path.name.startswith(".")]
    if not classes:
        raise UserError(
            f"expected class folders {folder / 'CLASS'}, got none; sort the pictures into CLASS/, "
            "or into train/CLASS/ and test/CLASS/"
        )
    return {each.name: _pictures(each) for each in classes}


def _pictures(folder: Path) -> list[Path]:
    found = [path for path in visible_files(folder) if is_picture(path)]
    if not found:
        raise UserError(
            f"{folder}: expected at least one .png, .jpg, .webp or .bmp picture of this class, got "
            "none; add one or remove the folder"
        )
    return found


def _common_shape(path: Path, files: list[Path], how: Reading) -> tuple[_Shape, tuple[str, ...]]:
    """Return the shape (C, H, W) that all pictures are given, and what is said of it."""
    shapes = [picture_shape(file) for file in files]
    sizes, channels = Counter(s[1:] for s in shapes), {s[0] for s in shapes}
    asked = how.size if isinstance(how.size, tuple | None) else (how.size,)
    notices: tuple[str, ...] = ()
    if asked is not None:
        size = asked if len(asked) == 2 else asked * 2
    elif len(sizes) == 1:
        (size,) = sizes
        if max(size) > _LARGE:
            notices += (
                f"{path.name}: {size[1]}×{size[0]} pictures take long; data.size=32 makes them "
                "small",
            )
    else:
        short = sorted(min(s[1:]) for s in shapes)[len(shapes) // 2]
        size = (min(_USUAL_SIDE, max(8, short // 8 * 8)),) * 2
        least, most = (pick(sizes, key=lambda s: s[0] * s[1]) for pick in (min, max))
        notices += (
            f"{path.name}: pictures of {len(sizes)} sizes, {least[1]}×{least[0]} to "
            f"{most[1]}×{most[0]}, were cropped to the centre and made {size[1]}×{size[0]} "
            "(data.size=H,W for another size)",
        )
    if how.mode != "as-is":
        return ({"grey": 1, "rgb": 3}[how.mode], *size), notices
    if len(channels) > 1:
        notices += (f"{path.name}: grey pictures became RGB as others are (or data.mode=grey)",)
    return (max(channels), *size), notices


def _to_split(files: _Files, shape: _Shape) -> Split:
    images, labels = [], []
    for number, pictures in enumerate(files.values()):
        for file in pictures:
            picture = torch.from_numpy(read_picture(file).copy())[None]
            images.append(fitted(picture, shape))
            labels.append(number)
    return Split(torch.cat(images), torch.tensor(labels, dtype=torch.int64))
