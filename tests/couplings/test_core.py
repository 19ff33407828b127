"""Chain, Inverse and the checks that the base class makes."""

from functools import partial

import pytest
import torch
from torch import Generator, Tensor

from couplings import (
    DCT,
    MLP,
    Chain,
    ConvNet,
    Coupling,
    DownsamplingCoupling,
    Flatten,
    Inverse,
    Invertible,
    Permutation,
    Rotation,
    ShapeError,
    SpaceToDepth,
)
from couplings.core import constant_log_det, sum_log_det
from couplings.memory import MODES
from couplings.testing import autograd_log_det, randomize


def conditional(generator: Generator, context_features: int) -> Coupling:
    conditioner = partial(MLP, generator=generator, zero_last=False)
    return Coupling((4,), conditioner, context_features=context_features).double()


def test_chain_refuses_stages_that_do_not_fit(generator: Generator) -> None:
    with pytest.raises(ShapeError) as error:
        Chain([SpaceToDepth((3, 4, 4)), DCT((3, 4, 4))])
    message = "stage 1 (DCT) takes (3, 4, 4), but stage 0 (SpaceToDepth) gives (12, 2, 2)"
    assert message in str(error.value)
    with pytest.raises(ShapeError, match="expected at least one stage, got none"):
        Chain([])
    with pytest.raises(ShapeError, match="expected at least one stage"):
        Chain.grow((3, 4, 4), [])
    stages = [conditional(generator, 2), conditional(generator, 3)]
    with pytest.raises(ShapeError, match=r"one width of context for all stages, got \[2, 3\]"):
        Chain(stages)
    with pytest.raises(ShapeError) as error:
        Chain.grow((3, 6, 6), [SpaceToDepth, SpaceToDepth])
    assert "Chain: stage 1, built for (12, 3, 3): SpaceToDepth: expected height" in str(error.value)


def test_chain_hides_the_context_from_stages_that_take_none(generator: Generator) -> None:
    plain, with_context = conditional(generator, 0), conditional(generator, 3)
    chain = Chain([plain, with_context])
    x, context = torch.randn(2, 4).double(), torch.randn(2, 3).double()
    z, log_det = chain(x, context)
    middle, first = plain(x)
    expected, second = with_context(middle, context)
    torch.testing.assert_close((z, log_det), (expected, first + second))
    torch.testing.assert_close(chain.inverse(z, context)[0], x)


def test_grow_hands_on_the_shapes(generator: Generator) -> None:
    permutation = partial(Permutation, generator=generator)
    chain = Chain.grow((3, 4, 4), [SpaceToDepth, Flatten, permutation])
    assert [stage.in_shape for stage in chain] == [(3, 4, 4), (12, 2, 2), (48,)]
    assert (chain.in_shape, chain.out_shape, chain.dims, len(chain)) == ((3, 4, 4), (48,), 48, 3)
    assert isinstance(chain[1], Flatten)


def test_log_dets_of_a_chain_add_up(generator: Generator) -> None:
    stages = [randomize(Rotation((4,), generator), generator) for _ in range(3)]
    x = torch.randn(2, 4, generator=generator)
    total = sum(float(stage.log_scale.detach().sum()) for stage in stages)
    torch.testing.assert_close(Chain(stages)(x)[1], torch.full((2,), total))
    torch.testing.assert_close(Chain(stages).inverse(x)[1], torch.full((2,), -total))


class Known(Invertible):
    """The identity, said to have this log-determinant."""

    def __init__(self, log_det: float) -> None:
        super().__init__((1,))
        self.log_det = log_det

    def _forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return x, constant_log_det(x, self.log_det)

    def _inverse(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return z, constant_log_det(z, -self.log_det)


def test_a_deep_chain_rounds_its_log_det_once() -> None:
    chain = Chain([Known(0.1)] * 1024)
    exact = 1024 * float(torch.tensor(0.1))
    x = torch.zeros(3, 1, requires_grad=True)
    for memory in MODES:  # a running sum is off by 1e-3
        _, log_det = chain.set_memory(memory, 1024)(x)
        assert (log_det - exact).abs().max() < 5e-5, memory
    _, log_det = chain.inverse(x)
    assert (log_det + exact).abs().max() < 5e-5


def test_inverse_swaps_shapes_and_directions() -> None:
    turned = Inverse(map_ := SpaceToDepth((1, 2, 2)))
    assert (turned.in_shape, turned.out_shape) == ((4, 1, 1), (1, 2, 2))
    z = torch.randn(2, 4, 1, 1)
    assert torch.equal(turned(z)[0], map_.inverse(z)[0])
    assert torch.equal(Inverse(turned)(map_.inverse(z)[0])[0], z)


def test_a_map_keeps_the_number_of_dimensions() -> None:
    class Wider(Invertible):
        def _forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
            raise NotImplementedError

        _inverse = _forward

    with pytest.raises(ShapeError, match=r"Wider: .* got \(4,\) -> \(5,\)"):
        Wider((4,), (5,))


@pytest.mark.parametrize("shape", [(1,), (1, 4, 4)])
def test_one_channel_cannot_be_coupled(shape: tuple[int, ...], generator: Generator) -> None:
    conditioner = partial(ConvNet, generator=generator)
    with pytest.raises(ShapeError, match="Coupling: expected at least 2 channels") as error:
        Coupling(shape, conditioner)
    assert "put SpaceToDepth or Haar before it" in str(error.value)
    with pytest.raises(ShapeError, match="DownsamplingCoupling: .* put SpaceToDepth or Haar"):
        DownsamplingCoupling(shape, conditioner, conditioner)
    with pytest.raises(ShapeError, match=r"divisible by \(2, 2\), got shape \(2, 5, 4\)"):
        DownsamplingCoupling((2, 5, 4), conditioner, conditioner)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_log_dets_are_summed_in_float32_or_wider(dtype: torch.dtype) -> None:
    wide = torch.promote_types(dtype, torch.float32)
    # 0.001 · 10000 summed in bfloat16 would stop growing near 0.5.
    values = torch.full((2, 100, 100), 1e-3, dtype=dtype)
    total = sum_log_det(values)
    assert total.dtype == wide
    torch.testing.assert_close(total, torch.full((2,), 1e4, dtype=wide) * values[0, 0, 0].to(wide))
    constant = constant_log_det(values, 0.1)
    assert constant.dtype == wide
    assert constant.tolist() == [torch.tensor(0.1, dtype=wide).item()] * 2


def test_autograd_log_det_of_a_known_matrix() -> None:
    matrix = torch.tensor([[2.0, 1.0], [1.0, -3.0]], dtype=torch.float64)
    x = torch.randn(3, 2, dtype=torch.float64)
    got = autograd_log_det(lambda v, _: v @ matrix.T, x)
    torch.testing.assert_close(got, torch.full((3,), 7.0, dtype=torch.float64).log())


def test_randomize_leaves_fixed_parameters_alone(generator: Generator) -> None:
    layer = torch.nn.Linear(2, 2)
    layer.bias.requires_grad_(False)
    weight, bias = layer.weight.detach().clone(), layer.bias.clone()
    randomize(layer, generator)
    assert torch.equal(layer.bias, bias)
    assert not torch.equal(layer.weight, weight)


def test_repr_shows_the_shapes() -> None:
    assert "(3, 4, 4) -> (12, 2, 2)" in repr(SpaceToDepth((3, 4, 4)))
