"""The backbones' sizes, outputs, seeds and refusals."""

from typing import Any, get_args

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from couplings import Whitening
from couplings.core import Shape
from flowclf import build
from flowclf.nn.plain import CNNSettings, PlainSettings, blobs, class_means, feature_count
from flowclf.nn.resnet import CifarResNetSettings as CifarResNet
from flowclf.nn.resnet import Forward
from flowclf.nn.resnet import PaperResidualSettings as PaperResidual
from flowclf.nn.resnet import ResidualSettings as Residual
from flowclf.nn.resnet import WideResNetSettings as WideResNet
from flowclf.nn.whitened_cnn import WhitenedCNNSettings as WhitenedCNN
from flowclf.support.errors import UserError

Backbone = PlainSettings | CNNSettings | CifarResNet | WideResNet | Residual | PaperResidual

CIFAR, MNIST, SMALL = (3, 32, 32), (1, 28, 28), (1, 8, 8)

# Settings of a backbone, a shape, and the number of features that it makes of it.
NETWORKS: dict[str, tuple[Backbone, Shape, int]] = {
    "mlp-table": (PlainSettings(hidden=(7, 5)), (4,), 5),
    "mlp-image": (PlainSettings(hidden=(7,), dropout=0.5), SMALL, 7),
    "mlp-bare": (PlainSettings(hidden=()), SMALL, 64),
    "cnn": (CNNSettings(width=(4, 6), hidden=(9,), dropout=0.5), SMALL, 9),
    "cnn-no-dense": (CNNSettings(width=(4, 6), hidden=()), (2, 8, 12), 6 * 2 * 3),
    "cnn-tiny": (CNNSettings(width=(4, 4, 4), hidden=()), (1, 2, 5), 4 * 1 * 2),
    "resnet-10": (CifarResNet(depth=10, width=4), SMALL, 32),
    "resnet-34": (CifarResNet(depth=34, width=2), SMALL, 16),
    "resnet-50": (CifarResNet(depth=50, width=2), (3, 9, 7), 64),
    "wide-resnet": (WideResNet(depth=10, width=1, dropout=0.3), SMALL, 64),
    "residual": (Residual(blocks=(1, 2), width=(4,)), SMALL, 16),
    "residual-widths": (  # sides of three stay
        Residual(blocks=(1, 1), width=(4, 6), dense_blocks=2, dense_hidden=(5,)), (3, 6, 6), 12,
    ),
    "residual-whitened": (
        Residual(blocks=(1, 1), width=(4,), dense_blocks=0, whiten=0.5, activation="silu"),
        SMALL, 16,
    ),
    "whitened-cnn": (WhitenedCNN(width=(4, 6)), (2, 9, 8), 6),
    "paper-cifar": (PaperResidual(variant="cifar"), CIFAR, 48),
    "paper-mnist": (PaperResidual(variant="mnist"), MNIST, 16),
}  # fmt: skip
every_network = pytest.mark.parametrize("name", NETWORKS)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make(name: str, seed: int = 0) -> nn.Module:
    settings, shape, _ = NETWORKS[name]
    return settings.build(shape, seeded(seed))


def count(*modules: nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


@pytest.mark.parametrize(
    ("settings", "features", "parameters"),
    [
        pytest.param(CifarResNet(depth=18), 512, 11_173_962, id="resnet-18"),
        pytest.param(CifarResNet(depth=50), 2048, 23_520_842, id="resnet-50"),
        pytest.param(WideResNet(), 640, 36_479_194, id="wrn-28-10"),
        pytest.param(PaperResidual(variant="cifar"), 48, 2_213_110, id="ib-inn"),
    ],
)
def test_with_a_softmax_layer_they_have_the_published_sizes(
    settings: Backbone, features: int, parameters: int
) -> None:
    head = nn.utils.skip_init(nn.Linear, features, 10)
    assert count(settings.build(CIFAR, seeded()), head) == parameters


@pytest.mark.parametrize(("system", "parameters"), [("resnet", 2_213_110), ("vib", 2_226_454)])
def test_so_have_the_systems_built_of_them(system: str, parameters: int) -> None:
    """IB-INN's authors count 2.213 M, and 2.226 M with VIB's layer to 2 x 128 numbers."""
    model = build(system, shape=CIFAR, classes=10, preset="paper-cifar10")
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == parameters


@every_network
def test_outputs_are_finite_rows_of_the_expected_length(name: str) -> None:
    network, (_, shape, features) = make(name), NETWORKS[name]
    assert feature_count(network, shape) == features
    assert network.training
    x = torch.randn(3, *shape, generator=seeded(1)).requires_grad_()
    out = network.eval()(x)
    assert out.shape == (3, features)
    assert bool(out.isfinite().all())
    assert float(out.detach().std()) > 0
    out.square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in network.parameters())
    assert x.grad is not None
    assert bool(x.grad.any())


@every_network
def test_rows_do_not_see_each_other_in_evaluation(name: str) -> None:
    network, (_, shape, _) = make(name).eval(), NETWORKS[name]
    x = torch.randn(3, *shape, generator=seeded(1))
    torch.testing.assert_close(network(x)[:1], network(x[:1]), rtol=1e-4, atol=1e-5)


@every_network
def test_weights_come_from_the_seed_alone(name: str) -> None:
    before = torch.get_rng_state()
    first, again, other = (make(name, seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, again[key]) for key, value in first.items())
    if first:
        assert any(not torch.equal(value, other[key]) for key, value in first.items())


@pytest.mark.parametrize(
    "settings",
    [settings() for settings in get_args(Backbone) if settings is not PlainSettings],
    ids=lambda settings: settings.kind,
)
def test_tables_are_no_images(settings: Backbone) -> None:
    message = rf"{settings.kind}: expected images .* shape \(5,\); use network.kind=mlp"
    with pytest.raises(UserError, match=f"network.kind={message}"):
        settings.build((5,), seeded())


@pytest.mark.parametrize(
    ("settings", "shape", "message"),
    [
        (WideResNet(depth=4), CIFAR, r"6n \+ 4 .*, got 4"),
        (WideResNet(depth=12), CIFAR, r"6n \+ 4 .*, got 12"),
        (WideResNet(depth=27), CIFAR, r"6n \+ 4 .*, got 27"),
        (Residual(blocks=(1, 1, 1), width=(4, 4)), SMALL, "got 2 widths and blocks at 3 l"),
        (WhitenedCNN(), (3, 8, 32), r"sides of 9 at least .* 3 times, got \(3, 8, 32\)"),
        (Residual(blocks=(1,)), (1, 4, 9), r"both divide by 2 or by 3, got \(1, 4, 9\)"),
    ],
)
def test_impossible_sizes_are_refused(settings: Backbone, shape: Shape, message: str) -> None:
    with pytest.raises(UserError, match=message):
        settings.build(shape, seeded())


@pytest.mark.parametrize("name", ["residual-whitened", "whitened-cnn"])
def test_whitened_networks_decorrelate_what_their_convolutions_see(name: str) -> None:
    settings, shape, features = NETWORKS[name]
    model = build("resnet", shape=shape, classes=3, network=settings.model_dump())
    x = (40 * torch.rand(300, *shape, generator=seeded()).cumsum(1).cumsum(2)).to(torch.uint8)
    seen = []
    for module in model.encoder.network.modules():
        if isinstance(module, Forward) and isinstance(module.of, Whitening):
            module.register_forward_hook(lambda module, arguments, out: seen.append(out))
    model.fit_statistics(x, torch.arange(len(x)) % 3)
    assert len(seen) == 1
    seen.clear()
    model.encode(x)
    (z,) = seen
    rows = z.detach().double().movedim(1, -1).flatten(0, -2)
    covariance = rows.T.cov(correction=0)
    scale = covariance.diagonal().sqrt()
    correlation = covariance / scale[:, None] / scale
    torch.testing.assert_close(correlation, torch.eye(len(scale)).double(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("depth", [0, 17, 101])
def test_resnets_of_other_depths_are_refused(depth: Any) -> None:
    with pytest.raises(ValidationError, match="10, 18, 34 or 50"):
        CifarResNet(depth=depth)


@pytest.mark.parametrize(
    ("network", "got"),
    [
        (nn.Identity(), r"\(2, 1, 8, 8\)"),
        (nn.Flatten(0), r"\(128,\)"),
        (nn.Flatten(0, 1), r"\(2, 8, 8\)"),
        (nn.GRU(8, 4), "tuple"),
    ],
)
def test_only_rows_of_features_are_accepted(network: nn.Module, got: str) -> None:
    shape = (3, 8) if isinstance(network, nn.GRU) else SMALL
    with pytest.raises(UserError, match=rf"to \(B, D\), got {got} for B = 2"):
        feature_count(network, shape)


def test_class_means_are_averages() -> None:
    x, y = torch.arange(24, dtype=torch.uint8).view(6, 1, 2, 2), torch.tensor([0, 1, 0, 1, 1, 1])
    torch.testing.assert_close(class_means(x, y, 2)[1], x[y == 1].float().mean(0))


def test_blobs_lie_apart_within_the_image() -> None:
    images = blobs((3, 28, 20), 10, top=255.0)
    assert images.shape == (10, 3, 28, 20)
    assert images.max() <= 255
    assert images.amax((1, 2, 3)).min() > 200
    flat = torch.nn.functional.normalize(images.flatten(1), dim=1)
    assert (flat @ flat.T - torch.eye(10)).max() < 0.2
