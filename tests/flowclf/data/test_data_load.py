"""Known data sets and paths to load, where files are found, and downloads with checksums."""

import gzip
import hashlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

from flowclf.data import DATASETS, TextOptions, load_dataset, locate, source
from flowclf.data.catalog import FILES, OfficialFile
from flowclf.data.source import DataSource
from flowclf.support.errors import UserError


@pytest.mark.usefixtures("_global_rng_untouched")
def test_digits_are_always_the_same() -> None:
    data = load_dataset("digits", download=False)
    info = DATASETS["digits"]
    assert (len(data.train), len(data.test)) == (info.train_size, info.test_size)
    assert len(data.train) + len(data.test) == 1_797
    assert (data.shape, data.classes, data.levels) == ((1, 8, 8), 10, 17)
    assert data.train.x.dtype == torch.uint8
    assert data.train.x.max() == 16
    assert torch.equal(load_dataset("digits").test.x, data.test.x)
    assert {name for name in DATASETS if locate(name)} == {"digits"}  # no other without data


@pytest.mark.parametrize("name", DATASETS)
def test_the_table_agrees_with_the_data(real: Path, name: str) -> None:
    info = DATASETS[name]
    assert info.name == name
    found = locate(name, real)
    if found is None:
        pytest.skip(f"{name} is not among the real data")
    assert found.exists()
    if name not in ("digits", "cifar10"):
        return
    data = load_dataset(name, real, download=False)
    assert (data.shape, data.classes, len(data.test)) == (info.shape, info.classes, info.test_size)


def test_a_path_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = np.zeros((2, 3)), np.array([0, 1])
    np.savez(tmp_path / "mine.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    monkeypatch.chdir(tmp_path)
    assert load_dataset("mine.npz").shape == (3,)
    with pytest.raises(UserError, match="expected class folders"):
        load_dataset(".")
    Path("mine.tsv").write_text("1,2")
    with pytest.raises(
        UserError, match=r"mine\.tsv: expected an \.npz, \.csv or \.parquet.*got \.tsv"
    ):
        load_dataset("mine.tsv")


def test_texts_are_loaded_as_their_options_say(tmp_path: Path) -> None:
    path = tmp_path / "mine.CSV"
    path.write_text("label,text,title\n" + "a,red green,lion\nb,blue,tiger\n" * 5)
    assert load_dataset(str(path)).shape == (3,)
    data = load_dataset(str(path), text=TextOptions("title", train_size=4))
    assert (data.shape, len(data.train), len(data.test)) == ((2,), 4, 6)


@pytest.mark.parametrize("name", ["mnits", "MNIST"])
def test_an_unknown_name_is_answered_with_the_known_ones(name: str) -> None:
    with pytest.raises(UserError, match="digits, mnist, .*did you mean 'mnist'") as caught:
        load_dataset(name)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="did you mean"):
        locate(name)


def test_importing_is_cheap() -> None:
    heavy = "{'sklearn', 'pooch', 'kornia', 'PIL', 'requests'}"
    check = f"import sys, flowclf.data; print({heavy} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


CONTENT = b"the official content"
MD5 = hashlib.md5(CONTENT).hexdigest()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    folder = tmp_path / "served"
    (folder / "bad").mkdir(parents=True)
    (folder / "thing.bin").write_bytes(CONTENT)
    (folder / "bad" / "thing.bin").write_bytes(b"something else")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    serving = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{serving.server_port}"
    serving.shutdown()
    serving.server_close()
    thread.join()


def _file(*urls: str) -> OfficialFile:
    return OfficialFile("thing.bin", MD5, urls)


def test_tries_mirrors_in_order_until_the_checksum_fits(server: str, cache: Path) -> None:
    urls = (f"{server}/missing.bin", f"{server}/bad/thing.bin", f"{server}/thing.bin")
    found = DataSource().fetch("things", _file(*urls))
    assert found.path == cache / "things" / "thing.bin"
    assert found.path.read_bytes() == CONTENT
    assert found.notices == ()
    assert DataSource(download=False).fetch("things", _file()).official


def test_a_wrong_checksum_leaves_nothing_behind(server: str, cache: Path) -> None:
    with pytest.raises(UserError, match="thing.bin of things.*1 hosts.*wrong checksum") as caught:
        DataSource().fetch("things", _file(f"{server}/bad/thing.bin"))
    assert "\n" not in str(caught.value)
    assert not [path for path in cache.rglob("*") if path.is_file()]


@pytest.mark.parametrize(("limit", "value"), [("MOST_BYTES", 3), ("MOST_SECONDS", -1)])
def test_a_host_that_sends_too_much_or_for_too_long_is_left(
    server: str, cache: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    monkeypatch.setattr(source, limit, value)
    with pytest.raises(UserError, match="could not download thing.bin .* hosts .*: OSError"):
        DataSource().fetch("things", _file(f"{server}/thing.bin"))
    assert not any(path.is_file() for path in cache.rglob("*"))


def test_every_address_is_encrypted() -> None:
    addresses = [url for files in FILES.values() for file in files for url in file.urls]
    assert all(url.startswith("https://") for url in addresses)


def test_no_network_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> str:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr("pooch.retrieve", refuse)
    with pytest.raises(UserError, match="from any of 4 hosts|from any of 2 hosts") as caught:
        DataSource(tmp_path).fetch("mnist", FILES["mnist"][0])
    message = str(caught.value)
    assert f"into {tmp_path / 'mnist'} or set FLOWCLF_DATA" in message
    assert "\n" not in message


def test_a_forbidden_download_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pooch.retrieve", lambda *a, **k: pytest.fail("must not download"))
    with pytest.raises(UserError, match="or allow the download"):
        DataSource(download=False).fetch("mnist", FILES["mnist"][0])


def test_search_order(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    roots = [tmp_path / "given", tmp_path / "env", cache]
    for root in roots:
        (root / "things").mkdir(parents=True)
        (root / "things" / "thing.bin").write_bytes(CONTENT)
    monkeypatch.setenv("FLOWCLF_DATA", str(roots[1]))
    search = DataSource(roots[0], download=False)
    assert list(search.roots()) == roots
    for root in roots:
        found = search.find("things", _file())
        assert found
        assert found.path == root / "things" / "thing.bin"
        found.path.unlink()
    assert search.find("things", _file()) is None


def test_a_file_that_differs_is_noted_and_an_unpacked_one_serves_for_its_gz(tmp_path: Path) -> None:
    (tmp_path / "thing.bin").write_bytes(b"resorted")
    found = DataSource(tmp_path).find("things", _file())
    assert found
    assert found.notices == ("thing.bin: differs from the official file (checksum), read as it is",)
    file = OfficialFile("x.gz", hashlib.md5(gzip.compress(b"x")).hexdigest(), (), unpacked_md5="0")
    (tmp_path / "x").write_bytes(b"x")
    found = DataSource(tmp_path).find("things", file)
    assert found
    assert found.path == tmp_path / "x"


def test_missing_roots_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="the data folder to be an existing folder"):
        list(DataSource(tmp_path / "nowhere").roots())
    monkeypatch.setenv("FLOWCLF_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"\$FLOWCLF_DATA to be an existing folder"):
        list(DataSource().roots())


@pytest.mark.parametrize("folder", FILES)
def test_every_official_file_has_a_checksum_and_two_addresses(folder: str) -> None:
    for file in FILES[folder]:
        assert len(bytes.fromhex(file.md5)) == 16
        assert len(file.urls) >= 2
        assert all(url.endswith("/" + file.name) for url in file.urls)
