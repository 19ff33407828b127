"""One way to load anything, the table of known data sets, and what it costs to import."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from flowclf.data import DATASETS, TextOptions, load_dataset, locate
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


def test_locate_finds_nothing_without_data() -> None:
    assert {name for name in DATASETS if locate(name)} == {"digits"}


def test_a_path_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = np.zeros((2, 3)), np.array([0, 1])
    np.savez(tmp_path / "mine.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    monkeypatch.chdir(tmp_path)
    assert load_dataset("mine.npz").shape == (3,)
    with pytest.raises(UserError, match="expected class folders"):
        load_dataset(".")


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "mine.tsv").write_text("1,2")
    with pytest.raises(UserError, match=r"mine\.tsv: expected an \.npz file, a \.csv.*got \.tsv"):
        load_dataset(str(tmp_path / "mine.tsv"))


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
