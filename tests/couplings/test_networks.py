"""The ready networks: any size of image, tables of any width, and the paper's own."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from couplings import (
    Chain,
    Coupling,
    Invertible,
    Rotation,
    ShapeError,
    Split,
    Whitening,
    fit_whitening,
)
from couplings.memory import Memory
from couplings.networks import conv_network, mlp_network, paper_network
from couplings.networks.default import squeeze_factor
from couplings.ops import native
from couplings.testing import assert_invertible, randomize

SIZES = [
    (8, 8),
    (9, 9),
    (11, 13),
    (28, 28),
    (15, 8),
    (13, 12),
    (2, 3),
    (5, 5),
    (4, 4),
    (3, 3),
    (5, 7),
]

small_conv = partial(conv_network, blocks=(1, 1), width=4, dense_hidden=(8,))


def randomized(map_: Chain, generator: torch.Generator) -> Chain:
    return randomize(map_.double().eval(), generator, 0.2)  # type: ignore[return-value]


def assert_round_trip(
    map_: Invertible, generator: torch.Generator, tolerance: float = 1e-9
) -> None:
    x = torch.randn(2, *map_.in_shape, generator=generator, dtype=torch.float64)
    z, log_det = map_(x)
    back, back_log_det = map_.inverse(z)
    assert z.shape == (2, map_.dims)
    assert_close(back, x, rtol=0, atol=tolerance)
    assert_close(back_log_det, -log_det, rtol=1e-9, atol=1e-9)
    assert float((z - x.flatten(1)).detach().abs().max()) > 0.1


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_any_image_becomes_a_vector_and_comes_back(
    size: tuple[int, int], channels: int, generator: torch.Generator
) -> None:
    network = small_conv((channels, *size), generator)
    assert network.out_shape == (channels * size[0] * size[1],)
    assert_round_trip(randomized(network, generator), generator)
    if network.dims <= 50:
        x = torch.randn(2, *network.in_shape, generator=generator, dtype=torch.float64)
        assert_invertible(network, x, tolerance=1e-10)


@pytest.mark.parametrize(
    ("shape", "factor"),
    [
        ((1, 28, 28), (2, 2)), ((1, 9, 9), (3, 3)), ((3, 15, 8), (3, 2)), ((1, 13, 12), (1, 2)),
        ((1, 11, 13), (11, 1)), ((2, 11, 13), (1, 1)), ((4, 2, 3), (1, 1)), ((1, 2, 3), (2, 1)),
    ],
)  # fmt: skip
def test_squeeze_factor(shape: tuple[int, ...], factor: tuple[int, int]) -> None:
    assert squeeze_factor(shape) == factor


def test_whitened_levels_couple_their_halves_in_turn(generator: torch.Generator) -> None:
    network = conv_network((3, 8, 8), generator, blocks=(3, 2), width=4, whiten=0.5, dense_blocks=0)
    kinds = [type(stage).__name__ for stage in network]
    level = ["SpaceToDepth", "Whitening", "Coupling", "Coupling"]
    assert kinds == [*level, "Coupling", *level, "Flatten"]
    couplings = [stage for stage in network if isinstance(stage, Coupling)]
    assert [c.active for c in couplings] == ["second", "first", "second", "second", "first"]
    whitening = [stage for stage in network if isinstance(stage, Whitening)]
    assert [stage.power for stage in whitening] == [0.5, 0.5]
    fit_whitening(network, torch.randn(20, 3, 8, 8, generator=generator))
    assert_round_trip(randomized(network, generator), generator)


@pytest.mark.parametrize(
    ("mixing", "stage"), [("permutation", "Permutation"), ("plu", "ChannelMixing")]
)
def test_whitened_levels_can_exchange_their_halves(
    mixing: str, stage: str, generator: torch.Generator
) -> None:
    options: dict[str, Any] = {"whiten": 0.5, "mixing": mixing, "spatial": 4, "width": 4}
    network = conv_network((3, 8, 8), generator, blocks=(4, 3), dense_blocks=0, **options)
    kinds = [type(stage).__name__ for stage in network]
    level, pair = ["SpaceToDepth", "Whitening"], ["Coupling", "Coupling"]
    first = [*level, *pair, stage, *pair, "Chain"]
    assert kinds == [*first, *level, *pair, stage, "Coupling", "Flatten"]
    assert_round_trip(randomized(network, generator), generator)


@pytest.mark.parametrize("conditioner", ["conv", "attention", "mixer"])
@pytest.mark.parametrize("mixing", ["rotation", "plu", "permutation"])
def test_levels_can_be_split_and_channels_mixed_by_learning(
    conditioner: Any, mixing: Any, generator: torch.Generator
) -> None:
    options: dict[str, Any] = {"conditioner": conditioner, "mixing": mixing, "width": 4}
    network = conv_network((1, 8, 8), generator, blocks=(1, 1, 1), split=True, **options)
    splits = [module for module in network.modules() if isinstance(module, Split)]
    assert [split.in_shape for split in splits] == [(4, 4, 4), (8, 2, 2)]
    assert [split.inner.dims for split in splits] == [32, 16]
    assert_round_trip(randomized(network, generator), generator)
    x = torch.randn(1, 1, 8, 8, generator=generator, dtype=torch.float64)
    assert_invertible(network, x, tolerance=1e-10)


def test_fields_of_a_checkerboard_can_be_coupled(generator: torch.Generator) -> None:
    network = conv_network((1, 8, 8), generator, blocks=(4, 1), width=4, spatial=2, dense_blocks=0)
    level = ["Coupling", "Rotation"] * 2 + ["Chain"]
    kinds = [type(stage).__name__ for stage in network]
    across = [stage for stage in network if isinstance(stage, Chain)]
    assert [type(stage).__name__ for stage in across[0]] == ["Checkerboard", "Coupling", "Inverse"]
    assert [stage[1].active for stage in across] == ["second", "first"]
    assert kinds == ["SpaceToDepth", *level * 2, "SpaceToDepth", "Coupling", "Rotation", "Flatten"]
    assert_round_trip(randomized(network, generator), generator)


def test_one_width_serves_all_levels(generator: torch.Generator) -> None:
    def parameters(width: Any) -> int:
        network = conv_network((1, 8, 8), generator, blocks=(1, 1), width=width)
        return sum(p.numel() for p in network.parameters())

    assert parameters(8) == parameters((8,)) == parameters((8, 8)) != parameters((8, 16))
    for width in ((8, 8, 8), ()):
        with pytest.raises(ShapeError, match=f"got {len(width)} widths and blocks at 2 levels"):
            parameters(width)


@pytest.mark.parametrize("features", [2, 3, 7])
def test_tables_of_any_width_come_back(features: int, generator: torch.Generator) -> None:
    network = randomized(mlp_network((features,), generator, blocks=2, hidden=(8,)), generator)
    assert_round_trip(network, generator)
    x = torch.randn(2, features, generator=generator, dtype=torch.float64)
    assert_invertible(network, x, tolerance=1e-10)


@pytest.mark.parametrize("make", [small_conv, mlp_network])
def test_every_dimension_reaches_every_latent(make: Any, generator: torch.Generator) -> None:
    network = randomized(make((1, 4, 4), generator), generator)
    x = torch.randn(1, 1, 4, 4, generator=generator, dtype=torch.float64)
    jacobian = torch.func.jacrev(lambda v: network(v)[0])(x).reshape(16, 16)
    assert (jacobian.abs().detach() > 1e-12).all()


@pytest.mark.parametrize("make", [small_conv, mlp_network])
def test_default_networks_start_volume_preserving(make: Any, generator: torch.Generator) -> None:
    """Couplings start as the identity, which leaves rotations and permutations."""
    network = make((1, 4, 4), generator).eval()
    x = torch.randn(3, 1, 4, 4, generator=generator)
    z, log_det = network(x)
    assert_close(log_det, torch.zeros(3), rtol=0, atol=1e-4)
    assert_close(z.norm(dim=1), x.flatten(1).norm(dim=1))


def test_paper_mnist_is_built_for_mnist(generator: torch.Generator) -> None:
    network = paper_network((1, 28, 28), generator, variant="mnist").eval()
    assert network.out_shape == (784,)
    rotations = [stage for stage in network if isinstance(stage, Rotation)]
    assert [r.in_shape for r in rotations] == 24 * [(4, 14, 14)] + 24 * [(16, 7, 7)]
    assert_close(rotations[0].log_scale.exp(), torch.full((4,), 0.8))
    assert_round_trip(network.double(), generator, 1e-6)


@pytest.mark.parametrize("variant", ["cifar", "mnist"])
def test_fixed_actnorm_has_no_trainable_scale(variant: str) -> None:
    shape = (3, 8, 8) if variant == "cifar" else (1, 8, 8)

    def rotations(actnorm: str) -> list[Rotation]:
        generator = torch.Generator().manual_seed(0)
        network = paper_network(shape, generator, variant=variant, actnorm=actnorm)
        return [stage for stage in network if isinstance(stage, Rotation)]

    fixed, learned = rotations("fixed"), rotations("learned")
    assert len(fixed) == (56 if variant == "cifar" else 48)
    assert not any(p.requires_grad for stage in fixed for p in stage.parameters())
    assert all(p.requires_grad for stage in learned for p in stage.parameters())


def test_the_number_of_blocks_a_level_can_be_chosen(generator: torch.Generator) -> None:
    network = paper_network((3, 8, 8), generator, variant="cifar").double().eval()
    assert_round_trip(network, generator, 1e-6)
    network = paper_network((3, 8, 8), generator, variant="cifar", blocks=(1, 2, 3))
    rotations = [stage.in_shape for stage in network if isinstance(stage, Rotation)]
    assert rotations == [(3, 8, 8)] + 2 * [(12, 4, 4)] + 3 * [(48, 2, 2)]
    with pytest.raises(ShapeError, match="blocks at 2 levels, got 3"):
        paper_network((1, 8, 8), generator, variant="mnist", blocks=(1, 2, 3))


def test_a_cosine_transform_puts_averages_of_channels_first(generator: torch.Generator) -> None:
    network = conv_network((1, 8, 8), generator, blocks=(1, 1), width=4, dense_blocks=0, dct=True)
    flat = torch.full((1, 1, 8, 8), 3.0, dtype=torch.float64)
    z, _ = network.double().eval()(flat)
    assert_close(z[:, 16:], torch.zeros(1, 48, dtype=torch.float64), rtol=0, atol=1e-12)
    assert_close(z[:, :16].norm(), flat.norm())
    assert_round_trip(randomized(network, generator), generator)


@pytest.mark.skipif(not native.COMPILED, reason=native.description())
@pytest.mark.parametrize("memory", ["store", "recompute"])
def test_channels_stay_innermost_from_squeeze_to_flatten(
    memory: Memory, generator: torch.Generator
) -> None:
    network = conv_network((3, 16, 16), generator, blocks=(2, 2), width=8).set_memory(memory)
    seen: list[Tensor] = []

    def look(module: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
        output = output[0] if isinstance(output, tuple) else output
        seen.append(output)
        if output.requires_grad:
            output.register_hook(seen.append)

    for module in network.modules():
        if isinstance(module, Coupling | Rotation | nn.Conv2d | nn.BatchNorm2d):
            module.register_forward_hook(look)
    z, log_det = network(torch.randn(2, 3, 16, 16, generator=generator).requires_grad_())
    (z.square().sum() - log_det.sum()).backward()
    images = [tensor for tensor in seen if tensor.dim() == 4]
    assert len(images) > 50
    # Only gradients that come through a flatten or a squeeze are laid out as its result was.
    others = [x for x in images if not x.is_contiguous(memory_format=torch.channels_last)]
    assert len(others) <= 2
