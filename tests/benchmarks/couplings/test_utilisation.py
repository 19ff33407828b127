"""FLOPs of a step are exact, shares of its time add up, and a row has both."""

import pytest
import torch

from benchmarks.couplings.utilisation import KINDS, flops, line, shares, utilisation
from couplings import Rotation


def test_flops_of_a_convolution() -> None:
    x = torch.ones(2, 3, 8, 8, requires_grad=True)
    weight = torch.ones(5, 3, 3, 3, requires_grad=True)

    def step() -> None:
        torch.conv2d(x, weight, padding=1).sum().backward()

    assert flops(step) == 3 * 2 * (2 * 8 * 8) * 5 * 3 * 9


def test_flops_of_products() -> None:
    a, b = torch.ones(4, 5), torch.ones(5, 6)
    assert flops(lambda: a @ b) == flops(lambda: torch.addmm(b[0], a, b)) == 2 * 4 * 5 * 6
    assert flops(lambda: torch.bmm(a[None].repeat(3, 1, 1), b[None].repeat(3, 1, 1))) == 720


@pytest.mark.parametrize("channels", [4, 192])  # a kernel's, and operators within the operator
def test_flops_of_a_rotation(channels: int) -> None:
    rotation = Rotation((channels, 4, 4), torch.Generator().manual_seed(0))
    x = torch.ones(2, channels, 4, 4, requires_grad=True)

    def step() -> None:
        rotation(x)[0].sum().backward()

    assert flops(step) == 2 * (2 * (2 * 4 * 4) * channels**2)
    found = shares(step)
    assert found["rotations"] > 0
    assert found["convolutions"] == 0


def test_a_row_of_a_tiny_network() -> None:
    rows = list(utilisation(quick=True, seconds=0))
    assert [row["dtype"] for row in rows] in (["float32"], ["float32", "bfloat16"])
    for row in rows:
        assert sum(row[kind] for kind in (*KINDS, "rest")) == pytest.approx(1)
        assert all(row[kind] > 0 for kind in KINDS)
        assert row["utilisation"] > 0
        assert line(row).startswith(f"image {row['dtype']}: ")
