"""Maps between couplings against their formulas, torch, numpy, scipy and FrEIA."""

from math import log

import numpy as np
import pytest
import scipy.fft
import torch
from FrEIA.modules import HaarDownsampling
from scipy.stats import multivariate_normal
from torch import Generator, Tensor
from torch.nn.functional import pixel_unshuffle
from torch.testing import assert_close

from couplings import (
    DCT,
    Chain,
    ChannelMixing,
    Checkerboard,
    ElementwiseAffine,
    Flatten,
    Haar,
    Logistic,
    Permutation,
    PiecewiseLinear,
    Rotation,
    ShapeError,
    SpaceToDepth,
    Whitening,
    YeoJohnson,
    fit_whitening,
    random_rotation,
)
from couplings.testing import assert_invertible, randomize

KNOTS = torch.tensor([-1.0, -0.5, 0.25, 1.0], dtype=torch.float64)
VALUES = torch.tensor([[-2.0, 0.0, 0.5, 3.0], [0.0, 0.1, 4.0, 4.5]], dtype=torch.float64)
# A point in the left tail, one in each piece, and one in the right tail.
POINTS = torch.tensor([-2.5, -0.8, 0.1, 0.7, 1.9], dtype=torch.float64)


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


def test_black_fields_come_before_white_ones() -> None:
    x = torch.arange(8.0).reshape(1, 1, 2, 4)
    z, _ = Checkerboard((1, 2, 4))(x)
    assert z.tolist() == [[[[0, 2], [5, 7]], [[1, 3], [4, 6]]]]
    with pytest.raises(ShapeError, match=r"expected an even width, got shape \(1, 2, 3\)"):
        Checkerboard((1, 2, 3))


@torch.no_grad()
def test_channels_are_mixed_by_a_matrix_that_starts_as_a_rotation(generator: Generator) -> None:
    layer = ChannelMixing((5,), generator).double()
    weight, log_det = layer(torch.eye(5, dtype=torch.float64))
    assert_close(weight @ weight.T, torch.eye(5, dtype=torch.float64), rtol=0, atol=1e-6)
    assert_close(log_det, torch.zeros(5, dtype=torch.float64), rtol=0, atol=1e-6)
    randomize(layer, generator)
    weight = layer(torch.eye(5, dtype=torch.float64))[0] - layer.offset
    assert_close(layer(torch.ones(1, 5).double())[1][0], torch.linalg.slogdet(weight).logabsdet)
    assert distance_from_orthogonal(weight) > 0.1


@torch.no_grad()
def test_mixing_is_as_exact_in_float32_as_its_matrix_is_well_conditioned(
    generator: Generator,
) -> None:
    layer = randomize(ChannelMixing((64, 3, 3), generator), generator, 0.02)
    x = torch.randn(8, 64, 3, 3, generator=generator)
    back, _ = layer.inverse(layer(x)[0])
    assert float((back - x).abs().max()) < 2e-5


def test_random_rotations_come_from_the_seed_and_are_uniform(generator: Generator) -> None:
    assert torch.equal(random_rotation(5, seeded(1)), random_rotation(5, seeded(1)))
    assert not torch.equal(random_rotation(5, seeded(1)), random_rotation(5, seeded(2)))
    matrices = torch.stack([random_rotation(3, generator) for _ in range(2000)])
    # Haar measure: every entry has mean 0 and variance 1/3.
    assert float(matrices.mean(0).abs().max()) < 0.06
    assert float((matrices.square().mean(0) - 1 / 3).abs().max()) < 0.04


def test_the_rotation_survives_a_cast_to_float32_and_back(generator: Generator) -> None:
    map_ = Rotation((16,), generator)
    before = map_.rotation.clone()
    for cast in (map_.float, map_.half, map_.bfloat16, map_.double):
        cast()
        assert map_.rotation.dtype == torch.float64
    assert torch.equal(map_.rotation, before)
    assert distance_from_orthogonal(map_.rotation) < 1e-14
    assert map_.log_scale.dtype == torch.float64


def test_rotation_is_its_formula(generator: Generator) -> None:
    map_ = Rotation((3, 2, 4), generator, scale=0.75).double()
    assert torch.allclose(map_.log_scale.exp(), torch.tensor(0.75).double())
    randomize(map_, generator)
    x = torch.randn(2, 3, 2, 4, dtype=torch.float64, generator=generator)
    z, log_det = map_(x)
    turned = torch.einsum("ij,bjhw->bihw", map_.rotation, x)
    expected = map_.log_scale.exp()[:, None, None] * turned + map_.offset[:, None, None]
    assert_close(z, expected)
    assert_close(log_det, (2 * 4 * map_.log_scale.sum()).expand(2))


def correlated(generator: Generator, channels: int = 5, count: int = 40) -> Tensor:
    mix = torch.randn(channels, channels, dtype=torch.float64, generator=generator)
    x = torch.randn(count, channels, 3, 2, dtype=torch.float64, generator=generator)
    return torch.einsum("ij,bjhw->bihw", mix, x) + torch.arange(5.0)[:, None, None]


def test_whitening_is_the_gaussian_of_the_channels(generator: Generator) -> None:
    x = correlated(generator)
    map_ = Whitening((5, 3, 2)).double()
    assert_close(map_(x)[0], x, rtol=0, atol=1e-15)
    map_.fit(x)
    z, log_det = map_(x)
    rows, latents = (v.movedim(1, -1).reshape(-1, 5) for v in (x, z))
    gaussian = multivariate_normal(rows.mean(0), np.cov(rows.T, ddof=0))
    expected = gaussian.logpdf(rows).reshape(len(x), -1).sum(1)
    standard = -0.5 * (latents.square() + log(2 * np.pi)).reshape(len(x), -1).sum(1)
    assert_close(standard + log_det, torch.from_numpy(expected))
    assert_close(latents.T @ latents / len(latents), torch.eye(5, dtype=torch.float64))
    assert distance_from_orthogonal(map_.rotation) < 1e-13
    assert float(torch.linalg.det(map_.rotation)) == pytest.approx(1.0, abs=1e-12)
    assert_invertible(map_, x[:2])


def test_less_whitening_leaves_coarse_components_stronger_in_both_halves(
    generator: Generator,
) -> None:
    x = correlated(generator)
    rows = x.movedim(1, -1).reshape(-1, 5)
    falling = np.linalg.eigvalsh(np.cov(rows.T, ddof=0))[::-1]
    map_ = Whitening((5, 3, 2), power=0.5).double()
    map_.fit(x)
    latents = map_(x)[0].movedim(1, -1).reshape(-1, 5)
    variances = latents.var(0, correction=0)
    assert_close(variances, torch.from_numpy(falling[[0, 2, 4, 1, 3]] ** 0.5))


def test_whitening_of_channels_without_variance_is_finite(generator: Generator) -> None:
    x = correlated(generator)
    x[:, 3:] = 7
    for values in (x, torch.full_like(x, 3), x[:1, :, :1, :1].expand_as(x)):
        map_ = Whitening((5, 3, 2)).double()
        map_.fit(values)
        z, log_det = map_(values)
        assert bool(z.isfinite().all() and log_det.isfinite().all())
        assert_close(map_.inverse(z)[0], values)


def test_whitening_is_fitted_wherever_it_stands_to_what_reaches_it(generator: Generator) -> None:
    x = correlated(generator)[..., :2, :2]
    first, second = Whitening((5, 2, 2)).double(), Whitening((20, 1, 1)).double()
    network = Chain([first, Chain([SpaceToDepth((5, 2, 2)), second])])
    fit_whitening(network, x)
    z = network(x)[0][:, :, 0, 0]
    assert_close(z.T @ z / len(z), torch.eye(20, dtype=torch.float64), rtol=0, atol=1e-9)
    before = second.rotation.clone()
    network(2 * x)
    assert torch.equal(second.rotation, before)
    with pytest.raises(ShapeError, match="Whitening: expected input of shape"):
        first.fit(x[:, :2])


def test_permutation_moves_whole_channels(generator: Generator) -> None:
    map_, x = Permutation((6, 2, 2), generator), torch.randn(3, 6, 2, 2)
    assert torch.equal(map_(x)[0], x[:, map_.order])
    assert sorted(map_.order.tolist()) == list(range(6))
    assert map_(x)[1].tolist() == [0.0] * 3


def test_elementwise_affine_is_standardisation() -> None:
    shift, scale = torch.randn(3, 1, 1), torch.rand(3, 1, 1) + 0.5
    map_ = ElementwiseAffine((3, 2, 4), shift, scale)
    x = torch.randn(2, 3, 2, 4)
    z, log_det = map_(x)
    assert_close(z, (x - shift) / scale)
    assert_close(log_det, (-8 * scale.log().sum()).expand(2))
    map_.double().set(torch.tensor([[[1.0]], [[2.0]], [[6.0]]]), torch.tensor(4.0))
    x = torch.tensor([[[5.0]], [[6.0]], [[10.0]]]).double().expand(1, 3, 2, 4)
    assert_close(map_(x)[0], torch.ones_like(x))
    assert map_.scale.dtype == torch.float64


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_elementwise_affine_refuses_a_scale_or_another_shape(scale: float) -> None:
    with pytest.raises(ValueError, match="expected a positive, finite scale"):
        ElementwiseAffine((2,), torch.zeros(()), torch.tensor([1.0, scale]))
    with pytest.raises(ShapeError, match=r"shift that broadcasts to \(3, 2, 2\), got shape \(5,\)"):
        ElementwiseAffine((3, 2, 2), torch.zeros(5), torch.ones(()))


@pytest.fixture
def pieces() -> PiecewiseLinear:
    return PiecewiseLinear((2,), KNOTS, VALUES)


def test_inside_it_interpolates(pieces: PiecewiseLinear) -> None:
    x = POINTS[1:-1]
    z, _ = pieces(x[:, None].expand(-1, 2))
    expected = [np.interp(x.numpy(), KNOTS.numpy(), values.numpy()) for values in VALUES]
    np.testing.assert_allclose(z.T.numpy(), expected, atol=1e-14)


def test_the_end_slopes_go_on_in_the_tails(pieces: PiecewiseLinear) -> None:
    z, log_det = pieces(torch.tensor([[-2.0, -2.0], [2.0, 2.0]], dtype=torch.float64))
    first, last = VALUES[:, 1] - VALUES[:, 0], VALUES[:, 3] - VALUES[:, 2]
    assert_close(z[0], VALUES[:, 0] - first / 0.5)
    assert_close(z[1], VALUES[:, 3] + last / 0.75)
    assert_close(log_det, torch.stack((first / 0.5, last / 0.75)).log().sum(1))


def test_contract_at_the_knots_in_every_piece_and_both_tails(pieces: PiecewiseLinear) -> None:
    assert_invertible(pieces, torch.cartesian_prod(POINTS, POINTS))
    knots = KNOTS[:, None].expand(-1, 2)
    assert_close(pieces(knots)[0], VALUES.T)
    assert_close(pieces.inverse(VALUES.T)[0], knots)


def test_dimensions_of_an_image_keep_their_own_values() -> None:
    values = torch.arange(1.0, 5.0)[:, None] * torch.tensor([0.0, 1.0])
    image = PiecewiseLinear((2, 1, 2), torch.tensor([0.0, 1.0]), values)
    assert image(torch.ones(1, 2, 1, 2))[0].tolist() == [[[[1.0, 2.0]], [[3.0, 4.0]]]]


def test_set_replaces_the_values_in_float64(pieces: PiecewiseLinear) -> None:
    x = POINTS[:, None].expand(-1, 2)
    before, _ = pieces(x)
    pieces.float().set(2 * VALUES)
    assert pieces.values.dtype == torch.float64
    assert_close(pieces(x)[0], 2 * before)


@pytest.mark.parametrize(
    ("features", "knots", "values", "error", "message"),
    [
        (3, KNOTS, VALUES, ShapeError, r"values of shape \(3, 4\) .* got \(2, 4\)"),
        (2, KNOTS[:1], VALUES[:, :1], ShapeError, "at least 2 knots"),
        (2, KNOTS, -VALUES, ValueError, "strictly increasing"),
        (2, KNOTS.flip(0), VALUES, ValueError, "strictly increasing"),
    ],
    ids=["dimensions", "knots", "falling values", "falling knots"],
)
def test_piecewise_linear_refuses(
    features: int, knots: Tensor, values: Tensor, error: type[ValueError], message: str
) -> None:
    with pytest.raises(error, match=message):
        PiecewiseLinear((features,), knots, values)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.5, 1.5)])
def test_the_logistic_fills_its_interval(low: float, high: float) -> None:
    points = torch.tensor([-20.0, -3.0, -0.1, 0.0, 2.0, 12.0], dtype=torch.float64)
    map_ = Logistic((2,), low, high)
    z, _ = map_(points[:, None].expand(-1, 2))
    assert_close(z[:, 0], low + (high - low) * points.sigmoid(), rtol=0, atol=1e-15)
    # Where the interval ends, doubles are as far apart as what is left of it.
    assert_invertible(map_, torch.cartesian_prod(points, points), tolerance=1e-6)
    assert_invertible(map_, torch.cartesian_prod(points[1:5], points[1:5]), tolerance=1e-12)
    ends, _ = map_(torch.tensor([[-800.0, 800.0]], dtype=torch.float64))
    assert ends.tolist() == [[low, high]]


def test_an_interval_has_a_length() -> None:
    with pytest.raises(ValueError, match="expected low < high, got 1 and 1"):
        Logistic((2,), 1, 1)


@pytest.mark.parametrize("factor", [2, 3])
def test_space_to_depth_is_pixel_unshuffle(factor: int) -> None:
    x, map_ = torch.randn(2, 3, 6, 12), SpaceToDepth((3, 6, 12), factor)
    z, log_det = map_(x)
    assert torch.equal(z, pixel_unshuffle(x, factor))
    assert torch.equal(map_.inverse(z)[0], x)
    assert log_det.tolist() == [0.0, 0.0]


def test_patches_and_flattened_images_have_their_order() -> None:
    z, _ = SpaceToDepth((1, 3, 2), (3, 1))(torch.arange(6.0).reshape(1, 1, 3, 2))
    assert z.tolist() == [[[[0.0, 1.0]], [[2.0, 3.0]], [[4.0, 5.0]]]]
    x = torch.arange(12.0).reshape(1, 3, 2, 2)
    assert torch.equal(Flatten((3, 2, 2))(x)[0][0], torch.arange(12.0))
    first = Flatten((3, 2, 2), channels_last=True)(x)[0][0]
    assert first.tolist() == [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]


@pytest.mark.parametrize("cls", [SpaceToDepth, Haar, DCT])
def test_features_and_odd_sizes_are_refused(cls: type[SpaceToDepth | Haar | DCT]) -> None:
    with pytest.raises(ShapeError, match=r"expected an image shape \(C, H, W\), got \(12,\)"):
        cls((12,))
    for shape in [(3, 5, 4), (3, 4, 5)] * (cls is not DCT):
        with pytest.raises(ShapeError, match=r"divisible by \(2, 2\), got shape .*pad the images"):
            cls(shape)


@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 3, 5)])
def test_dct_is_scipys(shape: tuple[int, int, int], scale: float) -> None:
    x = torch.randn(2, *shape, dtype=torch.float64)
    z, log_det = DCT(shape, scale)(x)
    expected = scale * scipy.fft.dctn(x.numpy(), axes=(2, 3), norm="ortho")
    assert_close(z, torch.from_numpy(expected), atol=1e-14, rtol=0)
    assert_close(log_det, torch.full((2,), x[0].numel() * log(scale)).double())


def test_dct_keeps_its_matrices_in_float64() -> None:
    map_ = DCT((1, 8, 8)).half().double()
    assert torch.equal(map_.rows, DCT((1, 8, 8)).rows)


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_haar_is_freias(scale: float) -> None:
    x = torch.randn(2, 3, 4, 6, dtype=torch.float64)
    freia = HaarDownsampling([(3, 4, 6)], rebalance=scale).double()
    (expected,), log_det = freia([x])
    assert_close(Haar((3, 4, 6), scale)(x), (expected, torch.full((2,), float(log_det)).double()))
    average, _ = Haar((1, 2, 2), scale)(torch.ones(1, 1, 2, 2))
    assert average.flatten().tolist() == [2.0 * scale, 0.0, 0.0, 0.0]


def test_powers_keep_to_the_line_and_bend_it() -> None:
    map_ = YeoJohnson((2,))
    x = torch.tensor([[3.0, -2.0], [0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(map_(x)[0], x)  # λ = 1
    map_.set(power=torch.tensor([0.5, 1.5]))
    expected = torch.tensor([[2.0, -2 * (3**0.5 - 1)], [0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(map_(x)[0], expected, rtol=1e-6, atol=0)
    for wrong in ({"power": torch.tensor([1.0, 2.0])}, {"std": torch.tensor([0.0, 1.0])}):
        with pytest.raises(ValueError, match="YeoJohnson: expected it to be of"):
            map_.set(**wrong)
    torch.testing.assert_close(map_(x)[0], expected, rtol=1e-6, atol=0)
