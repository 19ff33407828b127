"""Rearrangements against torch, scipy and FrEIA."""

from __future__ import annotations

from math import log

import pytest
import scipy.fft
import torch
from FrEIA.modules import HaarDownsampling

from couplings import DCT, Flatten, Haar, ShapeError, SpaceToDepth


@pytest.mark.parametrize("factor", [2, 3])
def test_space_to_depth_is_pixel_unshuffle(factor: int) -> None:
    x = torch.randn(2, 3, 6, 12)
    map_ = SpaceToDepth((3, 6, 12), factor)
    z, log_det = map_(x)
    assert torch.equal(z, torch.nn.functional.pixel_unshuffle(x, factor))
    assert torch.equal(map_.inverse(z)[0], x)
    assert log_det.tolist() == [0.0, 0.0]


def test_space_to_depth_orders_a_patch_row_by_row() -> None:
    x = torch.arange(6.0).reshape(1, 1, 3, 2)
    assert SpaceToDepth((1, 3, 2), (3, 1))(x)[0].tolist() == [
        [[[0.0, 1.0]], [[2.0, 3.0]], [[4.0, 5.0]]]
    ]


@pytest.mark.parametrize("shape", [(3, 5, 4), (3, 4, 5)])
def test_odd_sizes_are_refused(shape: tuple[int, int, int]) -> None:
    with pytest.raises(ShapeError, match=r"divisible by \(2, 2\), got shape .*pad the images"):
        SpaceToDepth(shape)
    with pytest.raises(ShapeError, match="divisible by"):
        Haar(shape)


@pytest.mark.parametrize("cls", [SpaceToDepth, Haar, DCT])
def test_features_are_refused(cls: type[SpaceToDepth | Haar | DCT]) -> None:
    with pytest.raises(ShapeError, match=r"expected an image shape \(C, H, W\), got \(12,\)"):
        cls((12,))


@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 3, 5)])
def test_dct_is_scipys(shape: tuple[int, int, int], scale: float) -> None:
    x = torch.randn(2, *shape, dtype=torch.float64)
    z, log_det = DCT(shape, scale)(x)
    expected = scale * scipy.fft.dctn(x.numpy(), axes=(2, 3), norm="ortho")
    torch.testing.assert_close(z, torch.from_numpy(expected), atol=1e-14, rtol=0)
    torch.testing.assert_close(log_det, torch.full((2,), x[0].numel() * log(scale)).double())


def test_dct_keeps_its_matrices_in_float64() -> None:
    map_ = DCT((1, 8, 8)).half().double()
    assert torch.equal(map_.rows, DCT((1, 8, 8)).rows)


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_haar_is_freias(scale: float) -> None:
    x = torch.randn(2, 3, 4, 6, dtype=torch.float64)
    freia = HaarDownsampling([(3, 4, 6)], rebalance=scale).double()
    (expected,), expected_log_det = freia([x])
    z, log_det = Haar((3, 4, 6), scale)(x)
    torch.testing.assert_close(z, expected)
    torch.testing.assert_close(log_det, torch.full((2,), float(expected_log_det)).double())


def test_haar_of_a_constant_image_is_its_average() -> None:
    z, _ = Haar((1, 2, 2))(torch.ones(1, 1, 2, 2))
    assert z.flatten().tolist() == [2.0, 0.0, 0.0, 0.0]


def test_flatten_orders() -> None:
    x = torch.arange(12.0).reshape(1, 3, 2, 2)
    assert torch.equal(Flatten((3, 2, 2))(x)[0][0], torch.arange(12.0))
    first = Flatten((3, 2, 2), channels_last=True)(x)[0][0]
    assert first.tolist() == [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]
