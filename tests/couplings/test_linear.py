"""Rotations, permutations and fixed elementwise scales against their formulas."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from couplings import ElementwiseAffine, Permutation, Rotation, ShapeError, random_rotation
from couplings.testing import randomize


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def distance_from_orthogonal(matrix: Tensor) -> float:
    eye = torch.eye(len(matrix), dtype=torch.float64)
    return float((matrix @ matrix.T - eye).abs().max())


@pytest.mark.parametrize("size", [1, 2, 3, 16, 48])
@pytest.mark.parametrize("seed", range(4))
def test_random_rotation_is_in_so(size: int, seed: int) -> None:
    matrix = random_rotation(size, seeded(seed))
    assert matrix.dtype == torch.float64
    assert distance_from_orthogonal(matrix) < 1e-14
    assert float(torch.linalg.det(matrix)) == pytest.approx(1.0, abs=1e-13)


def test_random_rotation_comes_from_the_seed() -> None:
    assert torch.equal(random_rotation(5, seeded(1)), random_rotation(5, seeded(1)))
    assert not torch.equal(random_rotation(5, seeded(1)), random_rotation(5, seeded(2)))


def test_random_rotations_are_uniform() -> None:
    generator = seeded()
    matrices = torch.stack([random_rotation(3, generator) for _ in range(2000)])
    # Haar measure: every entry has mean 0 and variance 1/3.
    assert float(matrices.mean(0).abs().max()) < 0.06
    assert float((matrices.square().mean(0) - 1 / 3).abs().max()) < 0.04


def test_the_rotation_survives_a_cast_to_float32_and_back() -> None:
    map_ = Rotation((16,), seeded())
    before = map_.rotation.clone()
    for cast in (map_.float, map_.half, map_.bfloat16, map_.double):
        cast()
        assert map_.rotation.dtype == torch.float64
    assert torch.equal(map_.rotation, before)
    assert distance_from_orthogonal(map_.rotation) < 1e-14
    assert map_.log_scale.dtype == torch.float64


def test_rotation_is_its_formula() -> None:
    map_ = Rotation((3, 2, 4), seeded(), scale=0.75).double()
    assert torch.allclose(map_.log_scale.exp(), torch.tensor(0.75).double())
    randomize(map_, seeded(1))
    x = torch.randn(2, 3, 2, 4, dtype=torch.float64, generator=seeded(2))
    z, log_det = map_(x)
    turned = torch.einsum("ij,bjhw->bihw", map_.rotation, x)
    expected = map_.log_scale.exp()[:, None, None] * turned + map_.offset[:, None, None]
    torch.testing.assert_close(z, expected)
    torch.testing.assert_close(log_det, (2 * 4 * map_.log_scale.sum()).expand(2))


def test_permutation_moves_whole_channels() -> None:
    map_ = Permutation((6, 2, 2), seeded())
    x = torch.randn(3, 6, 2, 2)
    assert torch.equal(map_(x)[0], x[:, map_.order])
    assert sorted(map_.order.tolist()) == list(range(6))
    assert map_(x)[1].tolist() == [0.0] * 3


def test_elementwise_affine_is_standardisation() -> None:
    shift, scale = torch.randn(3, 1, 1), torch.rand(3, 1, 1) + 0.5
    map_ = ElementwiseAffine((3, 2, 4), shift, scale)
    x = torch.randn(2, 3, 2, 4)
    z, log_det = map_(x)
    torch.testing.assert_close(z, (x - shift) / scale)
    torch.testing.assert_close(log_det, (-8 * scale.log().sum()).expand(2))


def test_elementwise_affine_set_replaces_the_numbers() -> None:
    map_ = ElementwiseAffine((2,), torch.zeros(()), torch.ones(())).double()
    map_.set(torch.tensor([1.0, 2.0]), torch.tensor(4.0))
    assert map_(torch.tensor([[5.0, 6.0]]).double())[0].tolist() == [[1.0, 1.0]]
    assert map_.scale.dtype == torch.float64


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_elementwise_affine_refuses_a_scale(scale: float) -> None:
    with pytest.raises(ValueError, match="expected a positive, finite scale"):
        ElementwiseAffine((2,), torch.zeros(()), torch.tensor([1.0, scale]))


def test_elementwise_affine_refuses_another_shape() -> None:
    with pytest.raises(ShapeError, match=r"shift that broadcasts to \(3, 2, 2\), got .* \(5,\)"):
        ElementwiseAffine((3, 2, 2), torch.zeros(5), torch.ones(()))
