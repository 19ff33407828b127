"""The table of cases that every contract test runs over, and how a case is built."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import pytest
import torch
from FrEIA.framework import GraphINN, InputNode, Node, OutputNode, SequenceINN
from FrEIA.modules import (
    AllInOneBlock,
    GLOWCouplingBlock,
    HaarDownsampling,
    IRevNetDownsampling,
    PermuteRandom,
)
from nflows.transforms import (
    CompositeTransform,
    LULinear,
    PiecewiseRationalQuadraticCouplingTransform,
)
from torch import Generator, Tensor, nn

from couplings import (
    DCT,
    MLP,
    Affine,
    Chain,
    ChannelMixing,
    Checkerboard,
    Conditioner,
    ConvNet,
    Coupling,
    DownsamplingCoupling,
    ElementwiseAffine,
    Flatten,
    Haar,
    Inverse,
    Invertible,
    LogisticMixture,
    Permutation,
    PiecewiseLinear,
    RationalQuadratic,
    Rotation,
    SoftClamp,
    SpaceToDepth,
    Split,
    TokenNet,
    Whitening,
    YeoJohnson,
    two_sided_coupling,
)
from couplings.core import sum_log_det
from couplings.interop import FromFrEIA, FromNFlows, ToFrEIA, ToNFlows
from couplings.testing import randomize

CONTEXT = 3
ATAN = Affine(SoftClamp(2.0, 0.5, "atan"))
SPLINE = RationalQuadratic(bins=4, bound=1.5)


@dataclass(frozen=True)
class Scaling:
    """Map y = x · exp(tanh(raw)) as a user writes one: two directions, nothing fused."""

    parameters_per_dim: int = 1

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Return y and log|dy/dx| summed to (B,)."""
        return x * parameters.tanh().exp(), sum_log_det(parameters.tanh())

    def inverse(self, y: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Return x and log|dx/dy| summed to (B,)."""
        return y * (-parameters.tanh()).exp(), -sum_log_det(parameters.tanh())


@dataclass(frozen=True)
class Case:
    """Factory of a map, and what may be asked of it."""

    make: Callable[[torch.Generator], Invertible]
    tolerance: float = 1e-9
    picklable: bool = True

    def build(self, seed: int = 0, dtype: torch.dtype = torch.float64) -> Invertible:
        """Build it in eval mode, with random weights and random BatchNorm statistics."""
        generator = torch.Generator().manual_seed(seed)
        map_ = self.make(generator).to(dtype).eval()
        randomize(map_, generator)
        for name, buffer in map_.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(generator=generator)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2.0, generator=generator)
        return map_

    def at(
        self, batch: int = 2, dtype: torch.dtype = torch.float64
    ) -> tuple[Invertible, Tensor, Tensor | None]:
        """Build it, and draw points of its input space and a context, where it takes one."""
        map_ = self.build(dtype=dtype)
        draw = partial(torch.randn, dtype=dtype, generator=torch.Generator().manual_seed(1))
        width = map_.context_features
        return map_, draw(batch, *map_.in_shape), draw(batch, width) if width else None


def mlp(generator: Generator, **options: object) -> Conditioner:
    return partial(MLP, generator=generator, hidden=(8,), **options)  # type: ignore[arg-type]


def conv(generator: Generator, **options: object) -> Conditioner:
    return partial(ConvNet, generator=generator, width=6, **options)  # type: ignore[arg-type]


def tokens(generator: Generator, **options: Any) -> Conditioner:
    return partial(TokenNet, generator=generator, width=6, **options)


def strided(generator: Generator) -> Conditioner:
    return conv(generator, stride=2, leading_relu=True)


def elementwise_affine(generator: Generator) -> Invertible:
    scale = torch.rand(3, 1, 1, generator=generator) + 0.5
    return ElementwiseAffine((3, 2, 2), torch.randn(3, 2, 2, generator=generator), scale)


def yeo_johnson(generator: Generator) -> Invertible:
    map_, names = YeoJohnson((3, 2, 2)), ("shift", "scale", "power", "mean", "std")
    values = {name: torch.rand(3, 2, 2, generator=generator) + 0.4 for name in names}
    map_.set(**values)
    return map_


def piecewise_linear(shape: tuple[int, ...]) -> Callable[[torch.Generator], Invertible]:
    def make(generator: Generator) -> Invertible:
        steps = torch.rand(torch.Size(shape).numel(), 5, generator=generator) + 0.1
        return PiecewiseLinear(shape, torch.tensor([-1.0, -0.3, 0.0, 0.4, 1.0]), steps.cumsum(1))

    return make


def fitted(map_: Whitening, g: torch.Generator) -> Whitening:
    map_.fit(torch.randn(50, *map_.in_shape, generator=g).cumsum(1))
    return map_


def long_chain(g: torch.Generator) -> Invertible:
    return Chain.grow(
        (1, 8, 8),
        [
            SpaceToDepth,
            lambda shape: two_sided_coupling(shape, conv(g, leading_relu=True)),
            lambda shape: Rotation(shape, g, scale=0.75),
            lambda shape: DownsamplingCoupling(shape, strided(g), conv(g), ATAN),
            lambda shape: Coupling(shape, conv(g), context_features=CONTEXT),
            lambda shape: DCT(shape, scale=0.5),
            lambda shape: Inverse(Chain([Haar((4, 4, 4), scale=0.5)])),
            lambda shape: Flatten(shape, channels_last=True),
            lambda shape: Permutation(shape, g),
            lambda shape: Coupling(shape, mlp(g), ATAN, "first", CONTEXT),
        ],
    )


# FrEIA and nflows call a subnetwork's constructor with widths, not with shapes.
def mlp_of_width(generator: Generator) -> Callable[[int, int], nn.Module]:
    return lambda inputs, outputs: mlp(generator)((inputs,), outputs, 0)


def conv_of_width(generator: Generator) -> Callable[[int, int], nn.Module]:
    return lambda inputs, outputs: conv(generator)((inputs, 4, 4), outputs, 0)


def spline_coupling(context: int) -> Callable[[torch.Generator], Invertible]:
    def make(generator: Generator) -> Invertible:
        def net(inputs: int, outputs: int) -> nn.Module:
            module = mlp(generator)((inputs,), outputs, context)
            # nflows scales the softmax by it, and warns where it is missing.
            module.hidden_features = 8  # type: ignore[assignment]
            return module

        transform = PiecewiseRationalQuadraticCouplingTransform(
            [1, 0, 1, 0, 0], net, num_bins=4, tails="linear", tail_bound=1.5
        )
        return FromNFlows(transform, (5,), context_features=context)

    return make


def freia(
    block: Callable[..., nn.Module],
    shape: tuple[int, ...],
    subnet: Callable[[torch.Generator], Callable[[int, int], nn.Module]] | None = None,
    context_features: int = 0,
    tolerance: float = 1e-9,
    **options: object,
) -> Case:
    """Build a block of FrEIA; those with a subnetwork hold lambdas and cannot be pickled."""

    def make(generator: Generator) -> Invertible:
        nets = {} if subnet is None else {"subnet_constructor": subnet(generator)}
        seed = int(torch.randint(1000, (), generator=generator))
        return FromFrEIA.build(
            block, shape, seed=seed, context_features=context_features, **nets, **options
        )

    return Case(make, tolerance, picklable=subnet is None)


def coupling_in_sequence(generator: Generator) -> Invertible:
    inn = SequenceINN(2, 4, 4)
    inn.append(ToFrEIA, make=lambda shape: Coupling(shape, conv(generator)))
    inn.append(HaarDownsampling)
    make = partial(Coupling, conditioner=conv(generator), context_features=CONTEXT)
    inn.append(ToFrEIA, cond=0, cond_shape=(CONTEXT,), make=make)
    return FromFrEIA(inn, (2, 4, 4), CONTEXT)


def coupling_in_graph(generator: Generator) -> Invertible:
    start = InputNode(4)
    middle = Node(start, ToFrEIA, {"make": partial(Coupling, conditioner=mlp(generator))})
    return FromFrEIA(GraphINN([start, middle, OutputNode(middle)]), (4,))


def coupling_in_composite(generator: Generator) -> Invertible:
    coupling = Coupling((4,), mlp(generator), context_features=CONTEXT)
    composite = CompositeTransform([ToNFlows(coupling), LULinear(4)])
    return FromNFlows(composite, (4,), context_features=CONTEXT)


def own(
    cls: Callable[..., Invertible],
    shape: tuple[int, ...],
    *nets: Callable[[torch.Generator], Conditioner],
    context: int = 0,
    **options: Any,
) -> Case:
    options |= {"context_features": context}
    return Case(lambda g: cls(shape, *(net(g) for net in nets), **options))


OWN = {
    "Coupling (second active)": own(Coupling, (4, 4, 2), conv),
    "Coupling (first active)": own(Coupling, (4, 4, 2), conv, active="first"),
    "Coupling (atan)": own(Coupling, (4, 2, 2), conv, univariate=ATAN),
    "Coupling (3 channels)": own(Coupling, (3, 2, 2), conv),
    "Coupling (3 channels, first)": own(Coupling, (3, 2, 2), conv, univariate=ATAN, active="first"),
    "Coupling (no BatchNorm)": own(Coupling, (4, 2, 2), partial(conv, batch_norm=False)),
    "Coupling (Dropout2d)": own(Coupling, (4, 2, 2), partial(conv, dropout=0.5)),
    "Coupling (image, context)": own(Coupling, (4, 2, 2), conv, context=3),
    "Coupling (features)": own(Coupling, (6,), mlp),
    "Coupling (5 features)": own(Coupling, (5,), mlp, univariate=ATAN, active="first"),
    "Coupling (features, BatchNorm)": own(Coupling, (4,), partial(mlp, batch_norm=True)),
    "Coupling (features, Dropout)": own(Coupling, (4,), partial(mlp, dropout=0.5)),
    "Coupling (features, context)": own(Coupling, (4,), mlp, context=3),
    "Coupling (not fused)": own(Coupling, (4, 2, 2), conv, univariate=Scaling()),
    "Coupling (not fused, first)": own(
        Coupling, (5,), mlp, univariate=Scaling(), active="first", context=3
    ),
    "Coupling (spline, features, first)": own(
        Coupling, (5,), mlp, univariate=SPLINE, active="first"
    ),
    "Coupling (spline, image, context)": own(
        Coupling, (4, 2, 2), conv, univariate=SPLINE, context=3
    ),
    "Coupling (spline, features, context)": own(Coupling, (4,), mlp, univariate=SPLINE, context=3),
    "Coupling (logistics, features, first)": own(
        Coupling, (5,), mlp, univariate=LogisticMixture(3), active="first"
    ),
    "Coupling (logistics, image, context)": own(
        Coupling, (4, 2, 2), conv, univariate=LogisticMixture(2), context=3
    ),
    "Coupling (attention, context)": own(Coupling, (4, 4, 2), tokens, context=3),
    "Coupling (mixer of patches)": own(Coupling, (4, 4, 2), partial(tokens, mixing="mlp", patch=2)),
    "Split": own(partial(Split, inner=SpaceToDepth), (3, 4, 2), conv),
    "Split (coupled further, context)": Case(
        lambda g: Split(
            (5, 2, 2), conv(g), lambda shape: Coupling(shape, conv(g), context_features=3), ATAN
        )
    ),
    "two_sided_coupling": own(two_sided_coupling, (5, 2, 2), conv),
    "two_sided_coupling (spline)": own(two_sided_coupling, (5, 2, 2), conv, univariate=SPLINE),
    "two_sided_coupling (context)": own(two_sided_coupling, (5,), mlp, univariate=ATAN, context=3),
    "DownsamplingCoupling (2 channels)": own(DownsamplingCoupling, (2, 4, 4), strided, conv),
    "DownsamplingCoupling (spline)": own(
        DownsamplingCoupling, (2, 4, 4), strided, conv, univariate=SPLINE
    ),
    "DownsamplingCoupling (3 channels, context)": own(
        DownsamplingCoupling, (3, 4, 2), strided, conv, univariate=ATAN, context=3
    ),
    "Rotation (image)": Case(lambda g: Rotation((5, 2, 3), g)),
    "Rotation (features)": Case(lambda g: Rotation((6,), g)),
    "Rotation (scale 0.75)": Case(lambda g: Rotation((4, 2, 2), g, scale=0.75)),
    "Whitening": Case(lambda g: fitted(Whitening((5, 2, 3)), g)),
    "Whitening (features, half)": Case(lambda g: fitted(Whitening((6,), 0.5), g)),
    "ChannelMixing (image)": Case(lambda g: ChannelMixing((5, 2, 3), g)),
    "ChannelMixing (features)": Case(lambda g: ChannelMixing((6,), g)),
    "Permutation (image)": Case(lambda g: Permutation((5, 2, 2), g)),
    "Permutation (features)": Case(lambda g: Permutation((7,), g)),
    "ElementwiseAffine": Case(elementwise_affine),
    "YeoJohnson": Case(yeo_johnson),
    "PiecewiseLinear (features)": Case(piecewise_linear((8,))),
    "PiecewiseLinear (image)": Case(piecewise_linear((3, 2, 2))),
    "SpaceToDepth": Case(lambda g: SpaceToDepth((3, 4, 4))),
    "SpaceToDepth (3 x 1, not square)": Case(lambda g: SpaceToDepth((2, 6, 2), (3, 1))),
    "Checkerboard": Case(lambda g: Checkerboard((2, 3, 4))),
    "Haar": Case(lambda g: Haar((2, 4, 4))),
    "Haar (scale 0.5, not square)": Case(lambda g: Haar((3, 2, 4), scale=0.5)),
    "DCT": Case(lambda g: DCT((2, 4, 4))),
    "DCT (scale 0.5, not square)": Case(lambda g: DCT((2, 3, 5), scale=0.5)),
    "Flatten": Case(lambda g: Flatten((2, 3, 4))),
    "Flatten (channels last)": Case(lambda g: Flatten((2, 3, 4), channels_last=True)),
    "Inverse": Case(lambda g: Inverse(DownsamplingCoupling((2, 4, 4), strided(g), conv(g)))),
    "Inverse (context)": Case(
        lambda g: Inverse(Coupling((4,), mlp(g), ATAN, context_features=CONTEXT))
    ),
    "Chain of many": Case(long_chain),
}

ADAPTERS = {
    "FrEIA AllInOneBlock": freia(AllInOneBlock, (4, 4, 4), conv_of_width),
    # FrEIA draws the rotation and stores it in float32: .double() does not make it orthogonal.
    "FrEIA AllInOneBlock (soft)": freia(
        AllInOneBlock, (6,), mlp_of_width, tolerance=1e-5, permute_soft=True
    ),
    "FrEIA AllInOneBlock (GIN)": freia(AllInOneBlock, (5,), mlp_of_width, gin_block=True),
    "FrEIA AllInOneBlock (image, context)": freia(AllInOneBlock, (4, 4, 4), conv_of_width, CONTEXT),
    "FrEIA GLOWCouplingBlock": freia(GLOWCouplingBlock, (5, 4, 4), conv_of_width),
    "FrEIA GLOWCouplingBlock (features, context)": freia(
        GLOWCouplingBlock, (5,), mlp_of_width, CONTEXT
    ),
    "FrEIA IRevNetDownsampling": freia(IRevNetDownsampling, (2, 4, 4)),
    "FrEIA HaarDownsampling": freia(HaarDownsampling, (2, 4, 2)),
    "FrEIA HaarDownsampling (rebalance 0.5)": freia(HaarDownsampling, (2, 4, 4), rebalance=0.5),
    "ToFrEIA in SequenceINN": Case(coupling_in_sequence),
    "ToFrEIA in GraphINN": Case(coupling_in_graph),
    "nflows spline coupling": Case(spline_coupling(0)),
    "nflows spline coupling (context)": Case(spline_coupling(CONTEXT)),
    "nflows LULinear": Case(lambda g: FromNFlows(LULinear(5), (5,))),
    "ToNFlows in CompositeTransform": Case(coupling_in_composite),
    # Its permutation is no part of the state: the seed alone brings it back.
    "FrEIA PermuteRandom": Case(lambda g: FromFrEIA.build(PermuteRandom, (5,), seed=3)),
}

CASES = OWN | ADAPTERS


@cache
def tables() -> dict[str, dict[str, Case]]:
    conditional = {n: case for n, case in CASES.items() if case.build().context_features}
    return {"case": CASES, "own_case": OWN, "conditional_case": conditional}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test with an argument `case`, `own_case`, … once for every case of that table."""
    for fixture in metafunc.fixturenames:
        if fixture.endswith("case"):
            table = tables()[fixture]
            metafunc.parametrize(fixture, list(table.values()), ids=list(table))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
