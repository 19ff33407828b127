"""The ready networks: any size of image, the paper's numbers, and weights that the seed decides."""

from __future__ import annotations

import os
from functools import cache, partial
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from couplings import DCT, Chain, Invertible, Rotation
from couplings.testing import assert_invertible, randomize
from flowclf import build
from flowclf.classifier import GenerativeClassifier
from flowclf.data import load_dataset
from flowclf.errors import UserError
from flowclf.networks import conv_network, mlp_network, paper_network
from flowclf.networks.conv import squeeze_factor
from flowclf.seeding import private_rng

SIZES = [(8, 8), (9, 9), (11, 13), (28, 28), (15, 8), (13, 12), (2, 3), (5, 5)]
CIFAR = (3, 32, 32)

small_conv = partial(conv_network, blocks=(1, 1), width=4, dense_hidden=(8,))


def randomized(map_: Chain, generator: torch.Generator) -> Chain:
    map_ = map_.double().eval()
    randomize(map_, generator, 0.2)
    return map_


def assert_round_trip(map_: Invertible, generator: torch.Generator) -> None:
    x = torch.randn(2, *map_.in_shape, generator=generator, dtype=torch.float64)
    z, log_det = map_(x)
    back, back_log_det = map_.inverse(z)
    assert z.shape == (2, map_.dims)
    assert_close(back, x, rtol=0, atol=1e-9)
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


@pytest.mark.parametrize("shape", [(1, 4, 4), (2, 3, 3), (1, 5, 7)])
def test_log_dets_of_odd_images_are_exact(
    shape: tuple[int, ...], generator: torch.Generator
) -> None:
    network = randomized(small_conv(shape, generator), generator)
    x = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    assert_invertible(network, x, tolerance=1e-10)


@pytest.mark.parametrize(
    ("shape", "factor"),
    [
        ((1, 28, 28), (2, 2)),
        ((1, 9, 9), (3, 3)),
        ((3, 15, 8), (3, 2)),
        ((1, 13, 12), (1, 2)),
        ((1, 11, 13), (11, 1)),
        ((2, 11, 13), (1, 1)),
        ((4, 2, 3), (1, 1)),
        ((1, 2, 3), (2, 1)),
    ],
)
def test_squeeze_factor(shape: tuple[int, ...], factor: tuple[int, int]) -> None:
    assert squeeze_factor(shape) == factor


def test_one_width_serves_all_levels(generator: torch.Generator) -> None:
    def parameters(width: Any) -> int:
        network = conv_network((1, 8, 8), generator, blocks=(1, 1), width=width)
        return sum(p.numel() for p in network.parameters())

    assert parameters(8) == parameters((8,)) == parameters((8, 8)) != parameters((8, 16))
    for width in ((8, 8, 8), ()):
        with pytest.raises(UserError, match=f"got {len(width)} widths and blocks at 2 levels"):
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
    """Couplings start as the identity, so there are rotations and permutations alone."""
    network = make((1, 4, 4), generator).eval()
    x = torch.randn(3, 1, 4, 4, generator=generator)
    z, log_det = network(x)
    assert_close(log_det, torch.zeros(3), rtol=0, atol=1e-4)
    assert_close(z.norm(dim=1), x.flatten(1).norm(dim=1))


# The paper's networks.


@cache
def paper_cifar() -> GenerativeClassifier:
    return build("ib-inn", shape=CIFAR, classes=10, preset="paper-cifar10")


def smooth_images(generator: torch.Generator, count: int = 32) -> Tensor:
    coarse = torch.rand(count, 3, 8, 8, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, size=32, mode="bicubic").clamp(0, 1)
    return (255 * fine).to(torch.uint8)


def trainable(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


@torch.no_grad()
def mean_rate(model: GenerativeClassifier, x: Tensor) -> float:
    """The authors' L_X/d in training mode, as at their first step."""
    model.fit_statistics(x, torch.arange(len(x)) % 10)
    model.train()
    with private_rng(0, torch.device("cpu")):
        return float(model.paper_rate_per_dim(x).mean())


def test_paper_cifar_has_the_papers_number_of_parameters() -> None:
    """21.6k + 22.1k + 275.8k + 97.8k + 1.300M + 9.445M, and ten means."""
    model = paper_cifar()
    assert trainable(model.encoder.network) == pytest.approx(11.162e6, abs=500)
    assert model.mixture.means.numel() == 30_720
    conv_part = trainable(model.encoder.network) - trainable(model.encoder.network[-1])
    assert conv_part == pytest.approx(1.717e6, abs=500)


def test_paper_cifar_starts_with_the_papers_rate_and_means(generator: torch.Generator) -> None:
    """About 16.8 + ½ E‖z - μ‖²/d: nearly all of it is 56 scalings by 0.75, and the DCT's ½."""
    model = paper_cifar()
    assert 16.5 < mean_rate(model, smooth_images(generator)) < 18
    assert model.mixture.mean_distance().item() == pytest.approx(5.0, abs=1e-4)


@torch.no_grad()
def test_paper_cifar_starts_with_the_papers_log_det(generator: torch.Generator) -> None:
    model = paper_cifar().train()
    network = model.encoder.network
    u = torch.randn(16, *CIFAR, generator=generator)
    stages = list(network)
    head = next(i for i, stage in enumerate(stages) if isinstance(stage, DCT))
    with private_rng(0, torch.device("cpu")):
        v, conv_part = Chain(stages[:head])(u)
    _, dct = stages[head](v)
    assert_close(conv_part.mean() / model.dims, torch.tensor(-16.1), rtol=0, atol=0.1)
    assert_close(dct / model.dims, torch.full((16,), -log(2)), rtol=0, atol=1e-5)
    scalings = sum(isinstance(stage, Rotation) for stage in stages)
    assert scalings * log(0.75) == pytest.approx(-16.110, abs=1e-3)


@pytest.mark.skipif("FLOWCLF_DATA" not in os.environ, reason="needs CIFAR-10 below FLOWCLF_DATA")
def test_paper_cifar_starts_with_the_papers_rate_on_cifar10() -> None:
    """Their own log has 17.17 in training and 16.77 in validation."""
    train = load_dataset("cifar10", Path(os.environ["FLOWCLF_DATA"]), download=False).train
    assert 16.7 < mean_rate(paper_cifar(), train.x[:128]) < 17.3


def test_paper_mnist_is_built_for_mnist(generator: torch.Generator) -> None:
    network = paper_network((1, 28, 28), generator, variant="mnist").eval()
    assert network.out_shape == (784,)
    rotations = [stage for stage in network if isinstance(stage, Rotation)]
    assert [r.in_shape for r in rotations] == 24 * [(4, 14, 14)] + 24 * [(16, 7, 7)]
    assert_close(rotations[0].log_scale.exp(), torch.full((4,), 0.8))
    x = torch.randn(2, 1, 28, 28, generator=generator, dtype=torch.float64)
    network = network.double()
    z, log_det = network(x)
    back, back_log_det = network.inverse(z)
    assert_close(back, x, rtol=0, atol=1e-6)
    assert_close(back_log_det, -log_det)


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


def test_paper_networks_are_invertible(generator: torch.Generator) -> None:
    network = paper_network((3, 8, 8), generator, variant="cifar").double().eval()
    x = torch.randn(2, 3, 8, 8, generator=generator, dtype=torch.float64)
    z, log_det = network(x)
    back, back_log_det = network.inverse(z)
    assert_close(back, x, rtol=0, atol=1e-6)
    assert_close(back_log_det, -log_det)


# Seeds.

MODELS: dict[str, dict[str, Any]] = {
    "conv": {"shape": (1, 8, 8), "network": {"kind": "conv", "blocks": [1], "width": [4]}},
    "mlp": {"shape": (5,), "network": {"kind": "mlp"}},
    "fewer dimensions than classes": {"shape": (2,), "network": {"kind": "mlp"}},
    "paper": {"shape": (1, 8, 8), "network": {"kind": "paper", "variant": "mnist"}},
}


@pytest.mark.parametrize("kind", MODELS)
def test_the_seed_decides_all_weights(kind: str) -> None:
    def state(seed: int) -> dict[str, Tensor]:
        return build("ib-inn", classes=3, seed=seed, **MODELS[kind]).state_dict()

    first, again, other = state(0), state(0), state(1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    drawn = {name for name in first if name.endswith("rotation")}
    drawn |= {name for name in first if name.endswith("layers.0.weight")}
    assert len(drawn) >= 3
    assert not any(torch.equal(first[name], other[name]) for name in drawn)


@pytest.mark.parametrize("kind", MODELS)
def test_building_leaves_the_global_generators_alone(kind: str) -> None:
    before, before_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    build("ib-inn", classes=3, **MODELS[kind])
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], before_numpy)  # noqa: NPY002
