"""Images in shards: the rows that a tensor would have, little memory, and no trust in the files."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from flowclf.cli.app import run
from flowclf.data import Dataset, Split, load_dataset, streamed, write_shards
from flowclf.data.streamed import GROUP, Shards, shuffled
from flowclf.nn.preprocessing import fit_preprocess, make_preprocess
from flowclf.support.errors import UserError
from flowclf.support.seeding import generator_for
from flowclf.training.batches import Batches

SHAPE, ROWS = (1, 8, 8), 500
STATUS = Path("/proc/self/status")


def images(rows: int = ROWS) -> Split:
    generator = torch.Generator().manual_seed(rows)
    x = torch.randint(256, (rows, *SHAPE), generator=generator, dtype=torch.uint8)
    return Split(x, torch.arange(rows) % 3)


def chunks(split: Split, size: int = 70) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(split.x.split(size), split.y.split(size), strict=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_shards(tmp_path / "set", chunks(images()), chunks(images(90)))


@pytest.fixture
def lazy(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """Nothing is small, and a block has 7 rows, so that it may lie in two files."""
    monkeypatch.setattr(streamed, "SMALL", 0)
    monkeypatch.setattr(streamed, "BLOCK", 7 * 64)
    return load_dataset(str(folder))


def test_what_fits_is_read_whole(folder: Path) -> None:
    data = load_dataset(str(folder))
    assert (data.name, data.shape, data.classes, data.levels) == ("set", SHAPE, 3, 256)
    assert type(data.train.x) is Tensor
    assert torch.equal(data.train.x, images().x)
    assert torch.equal(data.test.y, images(90).y)


def test_rows_are_those_of_a_tensor(lazy: Dataset) -> None:
    x, expected = lazy.train.x, images().x
    assert isinstance(x, Shards)
    assert (x.shape, x.dtype, len(x)) == (expected.shape, torch.uint8, ROWS)
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(0))
    for index in (order, order[:9], slice(65, 75), slice(None), order > 300, [3, 1, 3], 499, 0):
        assert torch.equal(x[index], expected[index])
    assert all(map(torch.equal, x.split(64), expected.split(64)))
    assert all(map(torch.equal, x.flatten(1).split(64), expected.flatten(1).split(64)))
    with pytest.raises(IndexError):
        x[torch.tensor([ROWS])]


def test_a_part_stays_in_its_files(lazy: Dataset) -> None:
    held = torch.arange(ROWS) % 5 == 0
    part = lazy.train.take(held).take(slice(10, 90))
    assert isinstance(part.x, Shards)
    assert torch.equal(part.x[[4, 2]], images().x[held][10:90][[4, 2]])
    assert torch.equal(part.y, images().y[held][10:90])


def test_what_needs_all_numbers_is_refused(lazy: Dataset) -> None:
    with pytest.raises(UserError, match=r"a batch at a time.*_to_copy"):
        lazy.train.x.float()
    with pytest.raises(UserError, match="a batch at a time"):
        torch.cat((lazy.train.x, lazy.test.x))


@pytest.mark.parametrize("marginal", [0.0, 0.3])
def test_statistics_are_those_of_a_tensor(lazy: Dataset, marginal: float) -> None:
    found = []
    for x in (lazy.train.x, images().x):
        stage = make_preprocess(SHAPE, 256, marginal)
        fit_preprocess(stage, x, marginal=marginal, floor=0.1, per="dim")
        found.append(stage(images().x[:5].double())[0])
    torch.testing.assert_close(*found, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("count", "block"), [(1000, 3), (7, 10), (GROUP * 8 + 1, 4)])
def test_the_order_is_random_and_follows_the_disk(count: int, block: int) -> None:
    def draw(seed: int) -> Tensor:
        return shuffled(count, generator_for(seed, "order"), block)

    order = draw(0)
    assert torch.equal(order.sort().values, torch.arange(count))
    assert torch.equal(order, draw(0))
    assert not torch.equal(order, draw(1))
    for first in range(0, count, GROUP * block):
        assert len((order[first : first + (GROUP - 1) * block] // block).unique()) <= GROUP


def batches(data: Dataset) -> Batches:
    return Batches(data.train, 32, 0, None, lambda x, _: x.float())


def test_batches_follow_from_their_step_and_read_each_block_once(
    lazy: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    from_disk, reads = streamed.Reader._from_disk, []

    def counted(self: streamed.Reader, first: int, end: int) -> Tensor:
        reads.append(first)
        return from_disk(self, first, end)

    monkeypatch.setattr(streamed.Reader, "_from_disk", counted)
    monkeypatch.setattr(streamed, "GROUP", 8)
    monkeypatch.setattr(streamed, "KEPT", 16)
    one = batches(lazy)
    seen = [one.at(step) for step in range(one.per_epoch)]
    assert len(reads) == len(set(reads)) == -(-ROWS // 7)
    seen += [one.at(step) for step in range(one.per_epoch, 2 * one.per_epoch)]
    rows = torch.cat([batch.index for batch in seen[: one.per_epoch] if batch.index is not None])
    assert len(rows.unique()) == len(rows) == ROWS // 32 * 32
    later = batches(lazy).at(one.per_epoch + 3)
    assert torch.equal(later.x, seen[one.per_epoch + 3].x)
    assert later.index is not None
    assert torch.equal(later.x, images().x[later.index].float())


def test_a_run_on_shards(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(streamed, "SMALL", 64 * 64)
    monkeypatch.setattr(streamed, "BLOCK", 7 * 64)
    out = str(tmp_path / "run")
    options = ["train.epochs=2", "network.kind=mlp", "network.hidden=8", "data.validation=0.2"]
    words = [word for each in options for word in ("--set", each)]
    assert run(["train", "gm", "--data", str(folder), "--out", out, *words]) == 0
    assert run(["evaluate", out, "--json"]) == 0
    assert run(["train", "--resume", out]) == 0
    refused = ["train", "gm", "--data", str(folder), "--set", "data.binarize=resampled"]
    assert run([*refused, "--out", str(tmp_path / "binary")]) == 2
    assert "data.binarize=none" in capsys.readouterr().err


@pytest.mark.skipif(not STATUS.exists(), reason="needs /proc")
def test_reading_takes_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """200 MB, of which 16 MiB are kept: everything resident counts, files' pages, too."""
    monkeypatch.setattr(streamed, "SMALL", 0)
    monkeypatch.setattr(streamed, "KEPT", 16)
    x, y = np.zeros((400, 1, 250, 250), np.uint8), np.arange(400) % 2
    folder = write_shards(tmp_path / "large", [(x, y)] * 8, [(x[:2], y[:2])])
    del x
    data = load_dataset(str(folder))

    def resident() -> int:
        lines = STATUS.read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) // 1024

    first, most = resident(), 0
    for part in data.train.x.split(64):
        assert part.shape == (64, 1, 250, 250)
        most = max(most, resident())
    assert most - first < 60


def edit(**changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        index = json.loads((folder / "shards.json").read_text())
        (folder / "shards.json").write_text(json.dumps(index | changes))

    return change


def save(name: str, array: np.ndarray) -> Callable[[Path], None]:
    return lambda folder: np.save(folder / name, array, allow_pickle=True)


def cut(name: str, by: int) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:by] if by < 0 else content + bytes(by))

    return change


def flip(name: str, place: int) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[place] ^= 1
        (folder / name).write_bytes(content)

    return change


DAMAGED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no JSON": (lambda f: (f / "shards.json").write_text("{"), "shards.json"),
    "another version": (edit(version=2), "version"),
    "an unknown key": (edit(files=["/etc/passwd"]), "files"),
    "no shape": (edit(shape=[1, 8]), "shape"),
    "levels": (edit(levels=1000), "levels"),
    "a negative count": (edit(train=[-70]), "train"),
    "no test": (edit(test=[]), "test"),
    "a count too large": (edit(train=[10**9]), r"shape \(1000000000, 1, 8, 8\)"),
    "a shard too many": (edit(test=[70, 20, 5]), "x_00002.npy: expected a file"),
    "one class": (edit(class_names=["a"]), "at least 2 classes"),
    "classes without rows": (edit(class_names=list("abcd")), "train labels 0..3"),
    "levels below": (edit(levels=17), "grey levels 0..16"),
    "no file": (lambda f: (f / "train" / "x_00003.npy").unlink(), "x_00003.npy: expected a file"),
    "cut": (cut("train/x_00001.npy", -1), "expected 4,608 bytes, got 4,607"),
    "longer": (cut("train/y_00001.npy", 1), "y_00001.npy: expected"),
    "a header alone": (cut("test/x_00001.npy", -1408), "x_00001.npy: expected an array in numpy's"),
    "a pickle": (save("test/y_00000.npy", np.array([print] * 70)), "Python objects"),
    "floats": (save("test/x_00000.npy", np.zeros((70, *SHAPE))), "got float64"),
    "int32": (save("test/y_00000.npy", np.zeros(70, np.int32)), "expected int64"),
    "Fortran": (save("test/x_00000.npy", np.zeros((70, *SHAPE), "u1", "F")), "in Fortran order"),
    "a label": (save("test/y_00000.npy", np.full(70, 3)), "labels or checksums are damaged"),
    "a checksum": (save("train/c_00000.npy", np.zeros(70, np.int64)), "checksums are damaged"),
    "a pixel": (flip("train/x_00001.npy", 1000), r"x_00001\.npy is damaged: the checksum of image"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_shards_are_refused_in_one_line(damage: str, folder: Path) -> None:
    change, message = DAMAGED[damage]
    change(folder)
    with pytest.raises(UserError, match=message) as refusal:
        load_dataset(str(folder))
    assert "\n" not in str(refusal.value)


def test_files_that_change_later_are_refused(lazy: Dataset, folder: Path) -> None:
    path = folder / "train" / "x_00000.npy"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="has changed since"):
        lazy.train.x[:70]
    path.unlink()
    with pytest.raises(UserError, match="cannot be read"):
        lazy.train.x[60:62]


X, Y = torch.zeros(4, *SHAPE, dtype=torch.uint8), torch.arange(4) % 2


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ([(X.float(), Y)], "uint8 images"),
        ([(X[0], Y)], r"\(n, C, H, W\)"),
        ([(X, Y), (X[..., :4], Y)], "of one size"),
        ([(X, Y[:3])], "4 whole numbers"),
        ([(X, Y.float())], "whole numbers"),
        ([], "at least one chunk"),
    ],
)
def test_what_is_no_chunk_is_not_written(
    train: list[tuple[Tensor, Tensor]], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        write_shards(tmp_path / "set", train, [(X, Y)])
    assert not (tmp_path / "set" / "shards.json").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(UserError, match="new or empty"):
        write_shards(tmp_path / "full", [(X, Y)], [(X, Y)])
