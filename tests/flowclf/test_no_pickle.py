"""No file that anybody may hand over is ever unpickled, by any reader or verb.

Every pickle here makes a folder where it is run. torch's weights_only is forced off as far as its
environment can.
"""

import gzip
import io
import pickle
import re
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import torch
import yaml

import flowclf
from flowclf.cli.app import run as command
from flowclf.data import load_dataset, load_outliers
from flowclf.data.corruptions import load_official
from flowclf.many import Sweep, plan_sweep, read_plan, states
from flowclf.runs import Run
from flowclf.sklearn import GenerativeClassifier
from flowclf.support.errors import UserError

SMALL = {
    "network": {"kind": "mlp", "blocks": 1, "hidden": [8]},
    "data": {"train_size": 100, "test_size": 20},
    "train": {"epochs": 1, "batch_size": 50},
}


class Mark:
    """Makes a folder where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.mkdir, (self.path,))


def written(write: Callable[[io.BytesIO], object]) -> bytes:
    """Return what is written to a stream."""
    stream = io.BytesIO()
    write(stream)
    return stream.getvalue()


def raw(mark: Mark) -> bytes:
    return pickle.dumps(mark, protocol=2)


def of_torch(mark: Mark) -> bytes:
    return written(lambda stream: torch.save({"model": mark}, stream))


def of_joblib(mark: Mark) -> bytes:
    return written(lambda stream: joblib.dump(mark, stream))


def npy(mark: Mark) -> bytes:
    return written(lambda stream: np.save(stream, np.array([mark], dtype=object)))


def npz(mark: Mark) -> bytes:
    arrays = {"x_train": np.array([mark]), "x_test": np.zeros((2, 3))}
    return written(lambda stream: np.savez(stream, y_train=[0, 1], y_test=[0, 1], **arrays))


def yaml_tag(mark: Mark) -> bytes:
    return f"data_facts: !!python/object/apply:os.mkdir [{str(mark.path)!r}]".encode()


def gzipped(mark: Mark) -> bytes:
    return gzip.compress(raw(mark))


def batch(mark: Mark) -> bytes:
    """Return a batch of CIFAR's Python version."""
    return pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": mark}, protocol=2)


def tar_of_batches(mark: Mark) -> bytes:
    info = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
    info.size = len(batch(mark))
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        tar.addfile(info, io.BytesIO(batch(mark)))
    return stream.getvalue()


def zip_of_pictures(mark: Mark) -> bytes:
    name, stream = "images_background/Greek/character01/0001_01.png", io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(name, raw(mark))
    return stream.getvalue()


def careless_zip(content: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        pickle.loads(archive.read(archive.namelist()[0]))


def careless_tar(content: bytes) -> None:
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        member = tar.extractfile(tar.getnames()[0])
        assert member
        pickle.load(member)


Make = Callable[[Mark], bytes]
CARELESS: dict[Make, Callable[[bytes], object]] = {
    raw: pickle.loads,
    batch: pickle.loads,
    of_torch: lambda content: torch.load(io.BytesIO(content), weights_only=False),
    of_joblib: lambda content: joblib.load(io.BytesIO(content)),
    npy: lambda content: np.load(io.BytesIO(content), allow_pickle=True),
    npz: lambda content: np.load(io.BytesIO(content), allow_pickle=True)["x_train"],
    yaml_tag: lambda content: yaml.unsafe_load(content.decode()),
    gzipped: lambda content: pickle.loads(gzip.decompress(content)),
    tar_of_batches: careless_tar,
    zip_of_pictures: careless_zip,
}

# Readers: what they read, of which kinds, and how.
Read = Callable[[Path], object]
BATCHES = [f"cifar-10-batches-py/{name}" for name in ("data_batch_1", "test_batch")]
HUNDRED = [f"cifar-100-python/{name}" for name in ("train", "test")]
IDX = [f"mnist/{part}-{kind}" for part in ("train", "t10k")
       for kind in ("images-idx3-ubyte.gz", "labels-idx1-ubyte.gz")]  # fmt: skip
ZIPS = [f"omniglot/images_{part}.zip" for part in ("background", "evaluation")]
PICTURES = [f"{part}/{name}/1.png" for part in ("train", "test") for name in ("ant", "cat")]
FAILURE = "sweep/ib-inn-beta=1-seed=0/failed.json"
WEIGHTS, SAVED = "run/model.safetensors", "saved/model.safetensors"


def named(name: str) -> Read:
    return lambda root: load_dataset(name, root, download=False)


def at(path: str) -> Read:
    return lambda root: load_dataset(str(root / path))


def outliers(path: str) -> Read:
    return lambda root: load_outliers(str(root / path), load_dataset("digits"))


def model(path: str) -> Read:
    return lambda root: flowclf.load(root / path)


def sweep_states(root: Path) -> object:
    return states(read_plan(root / "sweep"))


READERS: dict[str, tuple[list[str], tuple[Make, ...], Read]] = {
    "npz": (["x.npz"], (npz, npy, raw, of_torch, of_joblib), at("x.npz")),
    "csv": (["x.csv"], (raw, of_torch), at("x.csv")),
    "pictures": (PICTURES, (raw, npy, of_torch), at("")),
    "mnist": (IDX, (raw, gzipped, npy), named("mnist")),
    "cifar10": (BATCHES, (raw, batch, of_joblib), named("cifar10")),
    "cifar10 archive": (["cifar-10-python.tar.gz"], (tar_of_batches, gzipped), named("cifar10")),
    "cifar100": (HUNDRED, (batch, of_torch), named("cifar100")),
    "omniglot": (ZIPS, (zip_of_pictures, of_torch), named("omniglot")),
    "outliers": (["x.npz"], (npz, npy, raw), outliers("x.npz")),
    "pictured outliers": (["more/1.png"], (raw, npy), outliers("more")),
    "corruptions": (["fog.npy"], (npy, npz, raw), lambda root: load_official(root, "fog", 1)),
    "failure": ([FAILURE], (raw, of_torch, of_joblib), sweep_states),
    "load of a run": ([WEIGHTS], (raw, of_torch, of_joblib), model("run")),
    "load of a run's settings": (["run/config.yaml"], (yaml_tag, raw), model("run")),
    "load of a saved model": ([SAVED], (raw, of_torch), model("saved")),
    "load of its settings": (["saved/config.json"], (raw, yaml_tag), model("saved")),
    "load from the Hub": ([SAVED], (raw, of_torch), lambda root: from_hub(root)),
    "load of a forest": (["forest/model.safetensors"], (of_joblib, raw), model("forest")),
    "estimator": (["estimator/estimator.yaml"], (yaml_tag, raw, of_joblib),
                  lambda root: GenerativeClassifier.load(root / "estimator")),
}  # fmt: skip

# Verbs of the command line: the file, of which kinds, and the arguments.
CHECKPOINT = "run/checkpoint/state.safetensors"
QUICK = ["train", "ib-inn", "--out", "new", "--no-baselines"]
STUDY = ["study", "low-data", "ib-inn", "--sizes", "50", "--seeds", "0", "--out", "study",
         "--workers", "1"]  # fmt: skip
VERBS: list[tuple[str, tuple[Make, ...], list[str]]] = [
    ("x.npz", (npz, raw, of_torch), [*QUICK, "--data", "x.npz"]),
    ("x.csv", (raw,), [*QUICK, "--data", "x.csv"]),
    ("cifar-10-python.tar.gz", (tar_of_batches,), [*QUICK, "--data", "cifar10", "--data-dir", "."]),
    ("x.yaml", (yaml_tag, raw), [*QUICK, "--config", "x.yaml"]),
    (CHECKPOINT, (raw, of_torch), ["train", "--resume", "run"]),
    ("run/config.yaml", (yaml_tag, raw), ["train", "--resume", "run"]),
    (WEIGHTS, (raw, of_torch, of_joblib), ["evaluate", "run"]),
    ("run/config.yaml", (yaml_tag,), ["evaluate", "run"]),
    ("run/summary.json", (raw, yaml_tag), ["evaluate", "run"]),
    ("run/evaluation.json", (raw,), ["evaluate", "run"]),
    ("x.npz", (npz,), ["evaluate", "run", "--suite", "ood", "--outliers", "x.npz"]),
    (WEIGHTS, (of_torch,), ["sample", "run", "--out", "x.png"]),
    (WEIGHTS, (of_torch,), ["interpolate", "run", "--out", "x.png"]),
    (WEIGHTS, (of_torch,), ["export", "run"]),
    ("run/config.yaml", (yaml_tag,), ["report", "run"]),
    ("run/summary.json", (raw,), ["report", "run"]),
    ("run/evaluation.json", (raw,), ["report", "run"]),
    ("run/figures/latent.png", (raw, npy), ["report", "run"]),
    ("results.csv", (raw,), ["report", "."]),
    ("sweep/sweep.yaml", (yaml_tag, raw), ["sweep", "sweep"]),
    ("sweep/sweep.yaml", (yaml_tag, raw), ["sweep", "sweep", "--status"]),
    (FAILURE, (raw, of_joblib), ["sweep", "sweep", "--workers", "1"]),
    (FAILURE, (raw,), ["sweep", "sweep", "--status"]),
    ("study/baselines-50-0.json", (raw,), STUDY),
    ("study/ib-inn-50-0/config.yaml", (yaml_tag,), STUDY),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a run, an estimator, saved models and a sweep not begun."""
    root = tmp_path_factory.mktemp("made")
    rows = np.arange(240.0).reshape(60, 4) % 7
    flow = GenerativeClassifier(epochs=1, random_state=0).fit(rows, np.arange(60) % 2)
    flow.save(root / "estimator")
    flowclf.build("ib-inn", shape=(4,), classes=2).save(root / "saved")
    forest = {"branch": {"kind": "forest"}, "objective": {"branch": 0}}
    flowclf.build("bvae", shape=(4,), classes=2, **forest).save(root / "forest")
    plan_sweep(Sweep("ib-inn", "digits", root / "sweep", (1.0,), overrides=SMALL))
    data = load_dataset("digits")
    config = flowclf.make_config("ib-inn", "digits", data.shape, overrides=[SMALL])
    flowclf.train(config, data, Run(root / "run"), device="cpu")
    (root / "study").mkdir()
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work in fresh copies, and check that no pickle left a mark beside them."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    monkeypatch.delenv("FLOWCLF_DATA", raising=False)
    monkeypatch.setattr("flowclf.data.source.user_cache", lambda: tmp_path / "cache")
    folder = Path(shutil.copytree(made, tmp_path / "root"))
    monkeypatch.chdir(folder)
    yield folder
    assert not (tmp_path / "mark").exists()


def put(root: Path, name: str, make: Make) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(make(Mark(root.parent / "mark")))


def from_hub(root: Path) -> object:
    """Load the folder that a download leaves."""
    with pytest.MonkeyPatch.context() as patch:
        module = pytest.importorskip("huggingface_hub", reason="flowclf[hub] is not installed")
        patch.setattr(module, "snapshot_download", lambda *_, **__: str(root / "saved"))
        return flowclf.load("owner/name")


@pytest.mark.parametrize("make", CARELESS, ids=lambda make: make.__name__)
def test_a_careless_reader_would_run_it(make: Make, tmp_path: Path) -> None:
    CARELESS[make](make(Mark(tmp_path / "mark")))
    assert (tmp_path / "mark").is_dir()


KINDS = [(name, make) for name, (_, makes, _) in READERS.items() for make in makes]


@pytest.mark.parametrize(("name", "make"), KINDS, ids=lambda v: getattr(v, "__name__", v))
def test_no_reader_runs_a_pickle(root: Path, name: str, make: Make) -> None:
    files, _, read = READERS[name]
    for file in files:
        put(root, file, make)
    with pytest.raises(UserError) as caught:
        read(root)
    assert str(caught.value).isprintable()


ASKED = [(file, make, arguments) for file, makes, arguments in VERBS for make in makes]


@pytest.mark.parametrize(
    ("file", "make", "arguments"), ASKED, ids=lambda v: getattr(v, "__name__", None)
)
def test_no_verb_runs_a_pickle(
    root: Path, file: str, make: Make, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    put(root, file, make)
    assert command(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("flowclf: ")


CAN_RUN = re.compile(
    r"pickle\.(_?Unpickler|loads?)\b|torch\.load\(|joblib\.load|allow_pickle=True|shelve|marshal"
    r"|(?<!\.)\b(eval|exec)\(|yaml\.(unsafe_|full_)?load|export\.load\("
)
# Restricted; of an installed package, and weights alone; of what was just written; with a loader of
# plain values.
KNOWN = {"data/pickled.py", "data/extractors.py", "export.py", "support/parse.py"}


def test_no_other_source_names_what_can_run() -> None:
    package = Path(flowclf.__file__).parent
    found = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if CAN_RUN.search(re.sub(r'(?s:""".*?""")|#.*', "", path.read_text("utf-8")))
    }
    assert found <= KNOWN
