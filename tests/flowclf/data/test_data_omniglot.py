"""Omniglot's zips, made small, and the real ones."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flowclf.data.omniglot import load_omniglot, read_drawings
from flowclf.data.source import DataSource


def _png() -> bytes:
    """Paper with ink in the upper left 15×15, which is 4×4 resized pixels."""
    bits = np.ones((105, 105), dtype=bool)
    bits[:15, :15] = False
    stream = io.BytesIO()
    Image.fromarray(bits).save(stream, "PNG")
    return stream.getvalue()


def _zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def _name(alphabet: str, drawer: int, part: str = "background") -> str:
    return f"images_{part}/{alphabet}/character01/0123_{drawer:02d}.png"


def test_ink_is_white_and_other_members_are_ignored(tmp_path: Path) -> None:
    members = {_name("Greek", 16): _png(), "../up.png": b"!", "images_background/": b""}
    (drawing,) = read_drawings(_zip(tmp_path / "x.zip", members))
    assert (drawing.alphabet, drawer := drawing.drawer) == ("Greek", 16), drawer
    assert drawing.pixels.shape == (28, 28)
    assert (drawing.pixels[:4, :4] == 255).all()
    assert drawing.pixels.astype(int).sum() == 255 * 16


def test_drawers_make_the_split(tmp_path: Path) -> None:
    image = _png()
    for part, alphabets in (("background", range(30)), ("evaluation", range(30, 50))):
        members = {_name(f"A{a:02d}", d, part): image for a in alphabets for d in (1, 15, 16, 20)}
        _zip(tmp_path / f"images_{part}.zip", members)
    data = load_omniglot(DataSource(tmp_path, download=False))
    assert (len(data.train), len(data.test), data.classes) == (100, 100, 50)
    assert data.class_names[30] == "A30"
    assert data.notices[-1] == "expected 32,460 images, found 200"


@pytest.mark.usefixtures("_global_rng_untouched")
def test_omniglot(real: Path) -> None:
    data = load_omniglot(DataSource(real, download=False))
    assert len(data.train) + len(data.test) == 32_460
    assert (len(data.test), data.shape, data.classes) == (1_623 * 5, (1, 28, 28), 50)
    assert torch.equal(torch.bincount(data.train.y), 3 * torch.bincount(data.test.y))
    assert 5 < float(data.train.x.float().mean()) < 50
