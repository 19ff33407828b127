"""The table of known data sets, and the one way to load any data set."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowclf.data.catalog import FILES
from flowclf.data.cifar import find_cifar10, find_cifar100, load_cifar10, load_cifar100
from flowclf.data.dataset import Dataset, Reading
from flowclf.data.digits import find_digits, load_digits
from flowclf.data.folder import load_folder
from flowclf.data.idx import load_fashion_mnist, load_mnist, load_rotated_mnist
from flowclf.data.npz import load_npz
from flowclf.data.omniglot import load_omniglot
from flowclf.data.shard_folder import is_sharded, load_shards
from flowclf.data.source import DataSource
from flowclf.data.table import load_table
from flowclf.data.text import TextOptions, load_text
from flowclf.support.errors import UserError

__all__ = ["DATASETS", "DatasetInfo", "absolute_name", "load_dataset", "locate", "public_name"]


@dataclass(frozen=True)
class DatasetInfo:
    """Facts of a known data set, and how it is loaded."""

    name: str  # its key in `DATASETS`, and what `--data` takes
    summary: str  # one line for a table
    shape: tuple[int, ...]  # (C, H, W) of a sample
    classes: int
    train_size: int  # rows of the official (or our fixed) splits
    test_size: int
    folder: str  # below a data root, where its files are looked for; empty if it needs none
    load: Callable[[DataSource], Dataset]
    find: Callable[[DataSource], Path | None]  # where `load` would read it; never downloads


def _find_all(folder: str) -> Callable[[DataSource], Path | None]:
    def find(source: DataSource) -> Path | None:
        found = [source.find(folder, file) for file in FILES[folder]]
        first = found[0]
        return first.path.parent if first and all(found) else None

    return find


_KNOWN = (
    DatasetInfo("digits", "handwritten digits of scikit-learn, no download",
        (1, 8, 8), 10, 1_347, 450, "", load_digits, find_digits),
    DatasetInfo("mnist", "handwritten digits",
        (1, 28, 28), 10, 60_000, 10_000, "mnist", load_mnist, _find_all("mnist")),
    DatasetInfo("rotated-mnist", "MNIST, each digit rotated by an angle of its own",
        (1, 28, 28), 10, 60_000, 10_000, "mnist", load_rotated_mnist, _find_all("mnist")),
    DatasetInfo("fashion-mnist", "articles of clothing",
        (1, 28, 28), 10, 60_000, 10_000, "fashion-mnist", load_fashion_mnist,
        _find_all("fashion-mnist")),
    DatasetInfo("cifar10", "photographs of vehicles and animals",
        (3, 32, 32), 10, 50_000, 10_000, "cifar-10-batches-bin", load_cifar10, find_cifar10),
    DatasetInfo("cifar100", "photographs, the 100 fine classes",
        (3, 32, 32), 100, 50_000, 10_000, "cifar-100-binary", load_cifar100, find_cifar100),
    DatasetInfo("omniglot", "characters of 50 alphabets, the alphabet is the class",
        (1, 28, 28), 50, 24_345, 8_115, "omniglot", load_omniglot, _find_all("omniglot")),
)  # fmt: skip
DATASETS = {info.name: info for info in _KNOWN}


def load_dataset(
    name_or_path: str,
    data_dir: Path | None = None,
    download: bool = True,
    text: TextOptions | None = None,
    **reading: Any,
) -> Dataset:
    """Load a known data set, or the user's own: a file or a folder.

    A file is an `.npz`, a `.csv` or `.parquet` table (`load_dataset("my.csv", target="species")`),
    or, without a target, a `.csv` file of texts.

    A known name goes before a path of the same spelling; write `./mnist` for a folder mnist.
    A folder holds pictures (`load_folder`), or what `write_shards` wrote. Files are looked for in
    `data_dir`, $FLOWCLF_DATA and the user's cache, then downloaded into the cache if `download`
    allows it. `text` says how to read a `.csv` file of texts; `reading`, fields of `Reading`, how
    other data of one's own.

    Raises:
        UserError: no such name or path, files that are missing, damaged or not as expected.
    """
    known = DATASETS.get(name_or_path)
    if known:
        return known.load(DataSource(data_dir, download))
    path, how = Path(name_or_path).expanduser(), Reading(**reading)
    if name_or_path and path.is_dir():
        folder = path.resolve()
        return load_shards(folder) if is_sharded(folder) else load_folder(folder, how)
    if path.is_file():
        ending = path.suffix.lower()
        if ending == ".npz":
            return load_npz(path, how)
        if ending in (".csv", ".parquet") and how.target is not None:
            return load_table(path, how)
        if ending == ".csv":
            return load_text(path, text or TextOptions())
        if ending == ".parquet":
            raise UserError(
                f"{path}: expected data.target=NAME, the column of the labels, got none"
            )
        raise UserError(
            f"{path}: expected an .npz, .csv or .parquet file or a folder with CLASS/ or "
            f"train/CLASS/ and test/CLASS/, got {path.suffix or 'no'} file ending; convert the "
            "data with numpy.savez"
        )
    raise UserError(_unknown(name_or_path))


def absolute_name(name: str) -> str:
    """Return the path of existing data from the root, as it is read from any working directory.

    Known names, and names of nothing that is there, stay what they are.
    """
    path = Path(name).expanduser() if name and name not in DATASETS else None
    return str(path.absolute()) if path and path.exists() else name


def public_name(name: str) -> str:
    """Return the name of data, or the last part of an absolute path to them."""
    path = Path(name)
    if not path.is_absolute():
        return name
    # A known name goes before a path of the same spelling.
    return f"./{path.name}" if path.name in DATASETS else path.name


def locate(name: str, data_dir: Path | None = None) -> Path | None:
    """Return the folder (or archive) with all that loading a known data set needs, or None.

    Never downloads, and does not read the data.

    Raises:
        UserError: `name` is not a known data set.
    """
    if name not in DATASETS:
        raise UserError(_unknown(name))
    return DATASETS[name].find(DataSource(data_dir, download=False))


def _unknown(name: str) -> str:
    close = difflib.get_close_matches(name.lower(), DATASETS, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return (
        f"expected a known data set ({', '.join(DATASETS)}) or an existing .npz, .csv or "
        f".parquet file or folder, got {name!r}{hint}, which is neither; correct the name or the "
        "path"
    )
