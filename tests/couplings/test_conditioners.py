"""The subnetworks: where their weights come from, what they start as, what they refuse."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

from couplings import MLP, ConvNet, Coupling, ShapeError, TokenNet
from couplings.conditioners import kaiming_conv, kaiming_linear
from couplings.testing import randomize

NETS = {
    "MLP": (MLP, (4,)),
    "MLP with BatchNorm and Dropout": (partial(MLP, batch_norm=True, dropout=0.3), (4,)),
    "ConvNet": (ConvNet, (4, 6, 6)),
    "ConvNet with SiLU": (partial(ConvNet, activation="silu"), (4, 6, 6)),
    "TokenNet": (partial(TokenNet, width=32), (4, 6, 6)),
    "TokenNet of MLPs, patches": (partial(TokenNet, mixing="mlp", patch=3, blocks=2), (4, 6, 6)),
    "ConvNet without BatchNorm": (partial(ConvNet, batch_norm=False, dropout=0.3), (4, 6, 6)),
}
Make = Callable[..., nn.Module]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(params=NETS.values(), ids=list(NETS))
def net_and_shape(request: pytest.FixtureRequest) -> tuple[Make, tuple[int, ...]]:
    return request.param


def test_weights_come_from_the_generator(net_and_shape: tuple[Make, tuple[int, ...]]) -> None:
    make, shape = net_and_shape
    before = torch.get_rng_state()
    one, same, other = (make(shape, 6, 0, generator=seeded(s)) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    first, second, third = (list(net.parameters()) for net in (one, same, other))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, third, strict=True))
    assert all(bool(p.isfinite().all()) for p in first)


def test_zero_last_starts_as_the_identity(net_and_shape: tuple[Make, tuple[int, ...]]) -> None:
    make, shape = net_and_shape
    x = torch.randn(3, *shape)
    z, log_det = Coupling(shape, partial(make, generator=seeded()))(x)
    assert torch.equal(z, x)
    assert log_det.tolist() == [0.0] * 3
    other = Coupling(shape, partial(make, generator=seeded(), zero_last=False))
    assert not torch.allclose(other(x)[0], x)


def test_context_changes_the_output(net_and_shape: tuple[Make, tuple[int, ...]]) -> None:
    make, shape = net_and_shape
    net = randomize(make(shape, 6, 2, generator=seeded()), seeded(1)).eval()
    x, context = torch.randn(3, *shape), torch.randn(3, 2)
    out = net(x, context)
    assert out.shape == (3, 6, *shape[1:])
    changed = net(x, context + torch.tensor([[1.0], [0.0], [0.0]]))
    assert not torch.allclose(changed[0], out[0])
    assert torch.equal(changed[1:], out[1:])


def test_context_reaches_every_position_of_an_image() -> None:
    net = ConvNet((1, 5, 5), 2, 3, generator=seeded(), batch_norm=False, zero_last=False)
    x, context = torch.zeros(1, 1, 5, 5), torch.randn(1, 3)
    inner = net(x, context)[0, :, 2:3, 2:3]
    torch.testing.assert_close(net(x, context)[0, 0, 2, 2], inner[0, 0, 0])
    assert bool((net(x, context) != net(x, context + 1)).all())


def test_stride_halves_the_resolution_and_a_leading_relu_ignores_negative_inputs() -> None:
    net = ConvNet((2, 6, 4), 5, generator=seeded(), stride=2)
    assert net(torch.randn(2, 2, 6, 4)).shape == (2, 5, 3, 2)
    net = ConvNet((2, 4, 4), 3, generator=seeded(), leading_relu=True, zero_last=False).eval()
    x = torch.randn(2, 2, 4, 4)
    assert torch.equal(net(x), net(x.relu()))


@pytest.mark.parametrize("gain", [1.0, 0.5])
def test_weights_are_kaiming_normal(gain: float) -> None:
    linear = kaiming_linear(400, 300, seeded(), gain)
    assert float(linear.weight.detach().std()) == pytest.approx(gain * (2 / 400) ** 0.5, rel=0.02)
    assert not linear.bias.any()
    conv = kaiming_conv(40, 60, 3, seeded(), gain=gain)
    assert float(conv.weight.detach().std()) == pytest.approx(gain * (2 / 360) ** 0.5, rel=0.02)
    assert conv(torch.randn(1, 40, 5, 5)).shape == (1, 60, 5, 5)


def test_batch_norm_options_are_passed_on() -> None:
    net = ConvNet((2, 4, 4), 3, generator=seeded(), norm_eps=1e-3, norm_momentum=0.3)
    norms = [layer for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert [(norm.eps, norm.momentum) for norm in norms] == [(1e-3, 0.3)] * 2
    convolutions = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d)]
    assert [conv.bias is None for conv in convolutions] == [True, True, False]


def test_wrong_shapes_are_refused_with_a_remedy() -> None:
    with pytest.raises(ShapeError, match=r"MLP: expected features \(F,\), got \(3, 4, 4\)"):
        MLP((3, 4, 4), 2, generator=seeded())
    with pytest.raises(ShapeError, match=r"got \(12,\); use MLP for features"):
        ConvNet((12,), 2, generator=seeded())


@pytest.mark.parametrize(
    ("side", "tokens"), [(4, 16), (8, 64), (14, 49), (16, 64), (28, 49), (11, 1), (64, 64)]
)
def test_patches_leave_64_tokens_at_most(side: int, tokens: int) -> None:
    net = TokenNet((2, side, side), 4, generator=seeded(), width=4)
    assert net.positions.shape == (tokens, 4)
