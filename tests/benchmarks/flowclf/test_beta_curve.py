"""The picture of the trade-off on CIFAR-10 has each recorded training once."""

from math import inf
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.flowclf import beta_curve


def test_each_beta_is_a_point_and_the_resnet_a_line() -> None:
    betas = [row["beta"] for row in beta_curve.rows()]
    assert betas.count(None) == 1
    values = sorted(beta for beta in betas if beta is not None)
    assert values == [0, 0.02, 0.1, 0.5, 1, 2, 5, 10, 50, inf]


def test_it_is_drawn_where_it_should_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "curve.png"
    monkeypatch.setattr(beta_curve, "PICTURE", path)
    beta_curve.main()
    with Image.open(path) as picture:
        assert picture.width > 500
