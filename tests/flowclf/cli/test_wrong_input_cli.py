"""Wrong command lines of every verb: one line that says what to do, status 2, nothing left."""

import re
import shutil
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image

from flowclf.cli.app import run

QUICK = (
    "--set", "data.train_size=100", "--set", "data.test_size=20", "--epochs", "1",
    "--device", "cpu",
)  # fmt: skip
IDX = ("images-idx3-ubyte", "labels-idx1-ubyte")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a flow and a system that cannot generate, beside wrong data, in one folder."""
    folder = tmp_path_factory.mktemp("wrong")
    flow = ["--set", "network={kind: mlp, blocks: 1, hidden: [8]}"]
    plain = ["--set", "network={kind: mlp, hidden: [8]}"]
    assert run(["train", "ib-inn", "--out", str(folder / "flow"), *flow, *QUICK]) == 0
    assert run(["train", "ce", "--out", str(folder / "plain"), *plain, *QUICK]) == 0
    rng, y = np.random.default_rng(0), np.arange(60) % 3
    x = rng.normal(size=(60, 4))
    right = {"x_train": x, "y_train": y, "x_test": x, "y_test": y}
    for name, wrong in {
        "table": {},
        "inf": {"x_train": np.where(x > 2, np.inf, x)},
        "complex": {"x_train": x + 1j},
        "fewer": {"y_train": y[:50]},
        "narrow": {"x_test": x[:, :3]},
        "one": {"y_train": 0 * y, "y_test": 0 * y},
        "sevens": {"y_train": 0 * y + 7, "y_test": 0 * y + 7},
        "none": {"x_train": x[:0], "y_train": y[:0]},
        "negative": {"y_train": y - 5},
        "gap": {"y_train": 2 * y},
        "halves": {"y_train": y + 0.5},
        "nan": {"x_train": np.where(x > 2, np.nan, x)},
        "objects": {"x_train": np.array([{}], object)},
    }.items():
        np.savez(folder / f"{name}.npz", **{**right, **wrong})
    np.savez(folder / "missing.npz", **{name: right[name] for name in right if name != "y_test"})
    (folder / "idx" / "mnist").mkdir(parents=True)
    for name in ("train", "t10k"):
        images, labels = (folder / "idx" / "mnist" / f"{name}-{of}" for of in IDX)
        images.write_bytes(b"\0\0\x08\x03\0\0\0\x05")
        labels.write_bytes(b"\0\0\x08\x01\0\0\0\x05\0\0\0\0\0")
    for split, name in product(("train", "test"), ("c0", "c1", "c2")):
        (folder / "images" / split / name).mkdir(parents=True)
        for number in range(0 if (split, name) == ("train", "c1") else 4):
            pixels = rng.integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / split / name / f"{number}.png")
    (folder / "file").write_text("x")
    (folder / "list.yaml").write_text("- 1\n")
    (folder / "empty").mkdir()
    return folder


@pytest.fixture(autouse=True)
def in_that_folder(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(trained)
    before = sorted(trained.rglob("*"))
    yield
    left = [path for path in sorted(trained.rglob("*")) if path not in before]
    shutil.rmtree("new", ignore_errors=True)
    assert left == []


NEW = ["--out", "new"]
PICTURE = ["--out", "a.png"]
TRAIN = ["train", "ib-inn", *NEW, "--data", "digits"]
SWEEP = ["sweep", "ib-inn", *NEW]
STUDY = ["study", "low-data", "ce", *NEW]
DIGITS = [*STUDY, "--data", "digits"]
SAMPLE = ["sample", "flow", *PICTURE]
WALK = ["interpolate", "flow", *PICTURE]
RESUME = ["train", "--resume", "flow"]
CASES = {
    "unknown system": (["train", "ib-in"], "ib-inn"),
    "no system": (["train"], "flowclf systems"),
    "unknown verb": (["trian"], "trian"),
    "unknown option": ([*TRAIN, "--bata", "1"], "--bata"),
    "unknown key": ([*TRAIN, "--set", "network.widht=3"], "did you mean"),
    "no value of a key": ([*TRAIN, "--set", "network.width"], "key=value"),
    "wrong type": ([*TRAIN, "--set", "train.epochs=many"], "train.epochs"),
    "out of range": ([*TRAIN, "--set", "train.lr=-1"], "train.lr"),
    "negative beta": ([*TRAIN, "--beta", "-1"], "beta"),
    "beta not a number": ([*TRAIN, "--beta", "x"], "--beta"),
    "unknown preset": ([*TRAIN, "--preset", "huge"], "huge"),
    "unknown device": ([*TRAIN, "--device", "tpu"], "tpu"),
    "no CUDA": ([*TRAIN, "--device", "cuda"], "cpu or auto"),
    "no config file": ([*TRAIN, "--config", "none.yaml"], "none.yaml"),
    "widths": ([*TRAIN, "--data", "digits", "--set", "network.width=[8,8,8]"], "3 widths"),
    "conv on a table": (
        [*TRAIN, "--data", "table.npz", "--set", "network={kind: conv}"], "image"
    ),
    "images augmented as tables": ([*TRAIN, "--set", "data.augment=paper-cifar"], "RGB"),
    "a class left out": ([*TRAIN, "--set", "data.train_size=5"], "data.train_size"),
    "not a run": (["evaluate", "."], "config.yaml"),
    "no folder": (["sample", "nowhere", "--out", "a.png"], "nowhere"),
    "resume nothing": (["train", "--resume", "nowhere"], "nowhere"),
    "bench": (["bench", "mnist99"], "mnist14"),
    "no passes": ([*TRAIN, "--epochs", "0"], "train.epochs: .*greater than 0, got 0"),
    "half a pass": ([*TRAIN, "--epochs", "1.5"], "--epochs.*valid integer"),
    "negative seed": ([*TRAIN, "--seed", "-1"], "seed: .*greater than or equal to 0, got -1"),
    "endless seed": ([*TRAIN, "--seed", "9" * 30], "seed: .*less than .*, got 9999"),
    "NaN for β̃": ([*TRAIN, "--beta", "nan"], "objective.beta: .*got nan"),
    "no processes": ([*TRAIN, "--devices", "0"], "--devices.*greater than or equal to 1"),
    "endless steps": ([*TRAIN, "--set", "train.lr=.inf"], "train.lr: .*finite.* got inf"),
    "endless noise": ([*TRAIN, "--set", "noise.sigma=.inf"], "noise.sigma: .*finite.* got inf"),
    "a word that turns a line round": ([*TRAIN, "a\u202eb"], r"unexpected .* \(a\\u202eb\)"),
    "a network beyond memory": (
        [*TRAIN, "--set", "network={kind: mlp, hidden: [100000000]}"],
        "a model whose training fits into the .* bytes of memory, got one that needs",
    ),
    "no such width": (
        [*TRAIN, "--set", "network={kind: mlp, hidden: 1000000000000}"],
        "network.hidden.0: .*less than or equal to 1000000000, got 1000000000000",
    ),
    "endless layers": ([*TRAIN, "--set", "network.blocks=1001"], "blocks.0: .*equal to 1000, got"),
    "endless threads": ([*TRAIN, "--set", "train.threads=9999"], "threads: .*1024 or 'auto', got"),
    "no precision": ([*TRAIN, "--set", "train.precision=8"], "precision: .*should be 'auto'"),
    "no section": ([*TRAIN, "--set", "network=3"], "network: .*got 3"),
    "no key": ([*TRAIN, "--set", "=3"], "expected --set key=value, got '=3'"),
    "settings in a list": ([*TRAIN, "--config", "list.yaml"], "list.yaml.*mapping"),
    "data without a name": ([*TRAIN, "--data", ""], "expected a known data set .*, got ''"),
    "infinite data": ([*TRAIN, "--data", "inf.npz"], "expected finite numbers, got"),
    "complex data": ([*TRAIN, "--data", "complex.npz"], "numbers, got complex128"),
    "too few labels": ([*TRAIN, "--data", "fewer.npz"], "got 60 rows and 50 labels"),
    "another width": ([*TRAIN, "--data", "narrow.npz"], r"got \(4,\) and \(3,\)"),
    "one class": ([*TRAIN, "--data", "one.npz"], "at least 2 classes, got 1"),
    "one class of a high number": ([*TRAIN, "--data", "sevens.npz"], "class"),
    "no samples": ([*TRAIN, "--data", "none.npz"], r"at least one row .*, got \(0, 4\)"),
    "negative labels": ([*TRAIN, "--data", "negative.npz"], "labels 0..2, .*got -5"),
    "no such data": ([*TRAIN, "--data", "mnits"], "mnist"),
    "corrupt idx": ([*TRAIN, "--data", "mnist", "--data-dir", "idx"], "idx3"),
    "an empty class": ([*TRAIN, "--data", "images"], "c1"),
    "labels with a gap": ([*TRAIN, "--data", "gap.npz"], "labels"),
    "float labels": ([*TRAIN, "--data", "halves.npz"], "label"),
    "NaN": ([*TRAIN, "--data", "nan.npz"], "NaN"),
    "a missing array": ([*TRAIN, "--data", "missing.npz"], "y_test"),
    "pickled objects": ([*TRAIN, "--data", "objects.npz"], "npz"),
    "a run for a new one": (["train", "ib-inn", "--out", "flow"], "--resume"),
    "other passes": ([*RESUME, "--epochs", "7"], "other settings"),
    "other data": ([*RESUME, "--data", "mnist"], "other settings"),
    "another folder": ([*RESUME, "--out", "elsewhere"], "other settings"),
    "a file for a folder": (["train", "ib-inn", "--out", "file"], "new or empty folder, got file"),
    "no run": (["evaluate"], "folder of a trained run, got none"),
    "a file for a run": (["evaluate", "file"], "expected a run folder .*, got file"),
    "the last is no run": (["evaluate", "flow", "empty"], "expected a run folder .*, got empty"),
    "no suite": (["evaluate", "flow", "--suite", ","], "unknown suite ''"),
    "unknown outliers": (
        ["evaluate", "flow", "--suite", "ood", "--outliers", "no-such-thing"], "no-such-thing"
    ),
    "outliers without a name": (
        ["evaluate", "flow", "--suite", "ood", "--outliers", ""], "--outliers .*got an empty one"
    ),
    "noise that is no number": (
        ["evaluate", "flow", "--suite", "ood", "--outliers", "noise:warm"], "got 'warm'"
    ),
    "β̃ of a run for one": (["evaluate", "flow", "--betas", ""], "network.condition=beta"),
    "unknown suite": (["evaluate", "flow", "--suite", "accuracy,magic"], "magic"),
    "a bitmap": (["sample", "flow", "--out", "a.bmp"], r"\.png"),
    "warm": ([*SAMPLE, "--temperature", "warm"], "expected --temperature of at least 0"),
    "below zero": ([*SAMPLE, "--temperature", "-1"], "expected --temperature of at least 0"),
    "too many pairs": ([*WALK, "--pairs", "900"], "pairs"),
    "no pair": ([*WALK, "--classes", "4,9"], "expected --classes like 4-9,3-5"),
    "two runs between means": (
        [*WALK, "flow", "--between", "means"], "expected one run for --between means"
    ),
    "no images": ([*SAMPLE, "--per-class", "0"], "--per-class.*equal to 1"),
    "endless images": ([*SAMPLE, "--per-class", "999"], "-class.*equal to 256"),
    "endless workers": ([*SWEEP, "--betas", "1", "--workers", "9999"], "--workers.*equal to 1024"),
    "NaN for a temperature": ([*SAMPLE, "--temperature", "nan"], "got 'nan'"),
    "boiling": ([*SAMPLE, "--temperature", "inf"], "temperature .*, got inf"),
    "too hot": ([*SAMPLE, "--temperature", "1e38"], "expected (z|decoded x) "),
    "cannot generate": (["sample", "plain", *PICTURE], "a system that can generate, got"),
    "negative seed of draws": ([*SAMPLE, "--seed", "-1"], "--seed.*equal to 0"),
    "around nothing": ([*SAMPLE, "--around", "mode"], "'mode' is not one of"),
    "one image": ([*WALK, "--steps", "1"], "--steps.*equal to 2"),
    "an unknown class": (
        [*WALK, "--between", "means", "--classes", "4-99"],
        "expected --classes of 0 to 9, got 99 in '4-99'",
    ),
    "a class and itself": (
        [*WALK, "--between", "means", "--classes", "4-4"],
        "--classes like 4-9,3-5, got '4-4'",
    ),
    "classes of images": (
        [*WALK, "--classes", "4-9"], "--between means or classes .*images"
    ),
    "no β̃": ([*SWEEP, "--betas", ""], "expected --betas .*, got ''"),
    "endless β̃": ([*SWEEP, "--betas", "1:2:99999"], "a COUNT from 2 to 10,000, .*'1:2:99999'"),
    "endless runs": (
        [*SWEEP, "--betas", "1:2:5001", "--seeds", "0,1"], "at most 10,000 runs, got 10,002"
    ),
    "no seeds": ([*SWEEP, "--betas", "1", "--seeds", ""], "expected --seeds .*, got ''"),
    "negative seeds": ([*SWEEP, "--betas", "1", "--seeds", "-1"], "seed: .*got -1"),
    "no value": ([*SWEEP, "--grid", "train.lr="], "expected --grid .*, got 'train.lr='"),
    "no folder of a sweep": (["sweep", "ib-inn", "--betas", "1,2"], "expected --out DIR"),
    "β̃ that go down": ([*SWEEP, "--betas", "2:1:3"], "expected --betas FIRST:LAST:COUNT"),
    "a grid without values": ([*SWEEP, "--grid", "lr"], "expected --grid key=value,value"),
    "unknown key of a grid": ([*SWEEP, "--grid", "train.lrr=1"], r"did you mean train\.lr\?"),
    "a system without β̃": (
        ["sweep", "gm", "--betas", "1,2", *NEW], "gm has no information-bottleneck beta"
    ),
    "unknown system of a sweep": (["sweep", "nothing", *NEW], "'nothing' is not a system"),
    "unknown engine": ([*SWEEP, "--engine", "cloud"], "out of local, ray, slurm"),
    "no such sweep": ([*SWEEP, "--status"], "a sweep's folder with a sweep.yaml"),
    "a file for a sweep": (
        ["sweep", "ib-inn", "--betas", "1", "--out", "file"], "a folder .*, but file is a file"
    ),
    "nothing to report": (["report", "empty"], "expected folders of runs, got empty"),
    "no page": (["report", "flow", "--out", "a.txt"], "ending in .html, got a.txt"),
    "NaN for a tolerance": (["export", "flow", "--tolerance", "nan"], "--tolerance.*equal to 0"),
    "no format": (["export", "flow", "--format", "x"], "'x' is not one of"),
    "no sizes": ([*DIGITS, "--sizes", "0"], "expected sizes from 10.*, got 0"),
    "a size that is a word": ([*DIGITS, "--sizes", "50,many"], "--sizes"),
    "sizes of nothing": ([*DIGITS, "--sizes", ""], "--sizes"),
    "half a sample": ([*DIGITS, "--sizes", "5.5"], "--sizes"),
    "a negative size": ([*DIGITS, "--sizes", "-5"], "expected sizes from 10"),
    "more than there are": ([*DIGITS, "--sizes", "5000"], "1,347"),
    "seeds of a study": ([*DIGITS, "--seeds", "a"], "--seeds"),
    "no updates": ([*DIGITS, "--updates", "0"], "--updates"),
    "no workers": ([*DIGITS, "--workers", "0"], "--workers"),
    "updates and passes": ([*DIGITS, "--updates", "5", "--epochs", "5"], "leave one out"),
    "unknown preset of a study": ([*DIGITS, "--preset", "huge"], "huge"),
    "unknown system of a study": ([*DIGITS, "gmm"], "'gmm' is not a system"),
    "no data": ([*STUDY, "--data", ""], "expected a known data set .*, got ''"),
    "no bench": (["bench", "x"], "unknown bench 'x'"),
    "seeds that are none": (["bench", "digits", "--seeds", "x"], "expected --seeds .*, got 'x'"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_one_line_and_nothing_left(case: str, refused: Callable[..., str]) -> None:
    if case == "no CUDA" and torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    arguments, message = CASES[case]
    line = refused(*arguments)
    assert re.search(message, line), line


@pytest.mark.parametrize("arguments", [[], ["study"]])
def test_nothing_asked_is_answered_with_the_help(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert "Usage: " in captured.out
    assert captured.err == ""


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("no room"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: no room\nmore"),
        RuntimeError("std::bad_alloc: no room"),
    ],
)
def test_want_of_memory_is_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("flowclf.report.write_report", Mock(side_effect=error))
    assert run(["report", "flow"]) == 1
    said = capsys.readouterr().err
    assert re.fullmatch("flowclf: not enough memory: .*no room\n", said), said


def test_what_is_wrong_with_us_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = Mock(side_effect=RuntimeError("no matter"))
    monkeypatch.setattr("flowclf.report.write_report", ours)
    with pytest.raises(RuntimeError, match="no matter"):
        run(["report", "flow"])
