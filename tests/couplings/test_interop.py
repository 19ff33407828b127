"""The adapters against the packages that they adapt."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from FrEIA.framework import ConditionNode, GraphINN, InputNode, Node, OutputNode, SequenceINN
from FrEIA.modules import (
    AllInOneBlock,
    Concat,
    GLOWCouplingBlock,
    HaarDownsampling,
    InvertibleModule,
    InvertibleSigmoid,
    PermuteRandom,
    Split,
)
from nflows.distributions import StandardNormal
from nflows.flows import Flow
from nflows.transforms import LULinear, SqueezeTransform
from torch import Tensor, nn

from couplings import MLP, Coupling, ElementwiseAffine, Permutation, Rotation, ShapeError
from couplings.interop import FromFrEIA, FromNFlows, ToFrEIA, ToNFlows
from couplings.testing import assert_invertible, randomize


def plain_net(inputs: int, outputs: int) -> nn.Module:
    """Build a network from torch's global generator, as users of FrEIA do."""
    return nn.Sequential(nn.Linear(inputs, 8), nn.ReLU(), nn.Linear(8, outputs))


def coupling(shape: tuple[int, ...] = (4,), context_features: int = 0) -> Coupling:
    generator = torch.Generator().manual_seed(0)
    conditioner = partial(MLP, generator=generator, hidden=(8,))
    map_ = Coupling(shape, conditioner, context_features=context_features).double()
    return randomize(map_, generator)  # type: ignore[return-value]


class Scaling(InvertibleModule):
    """Scaling z = 2 x, with the log-determinant in a given form."""

    def __init__(self, form: Any) -> None:
        super().__init__([(3,)])
        self.form = form

    def forward(
        self, x_or_z: list[Tensor], c: None = None, rev: bool = False, jac: bool = True
    ) -> tuple[tuple[Tensor], Any]:
        log_det = (-1 if rev else 1) * 3 * np.log(2.0)
        factor = 0.5 if rev else 2.0
        return (factor * x_or_z[0],), self.form(log_det, len(x_or_z[0]))

    def output_dims(self, input_dims: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
        return input_dims


FORMS = {
    "float": lambda value, _: float(value),
    "numpy float": lambda value, _: np.float64(value),
    "numpy (B,)": lambda value, batch: np.full(batch, value),
    "0-dim": lambda value, _: torch.tensor(value),
    "(1,)": lambda value, _: torch.tensor([value]),
    "(B,)": lambda value, batch: torch.full((batch,), value, dtype=torch.float64),
    "(B, 1)": lambda value, batch: torch.full((batch, 1), value, dtype=torch.float64),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))
def test_every_form_of_log_det_becomes_one_per_sample(form: Any) -> None:
    map_ = FromFrEIA(Scaling(form), (3,))
    assert_invertible(map_, torch.randn(2, 3, dtype=torch.float64), tolerance=1e-7)


def test_a_low_precision_log_det_is_widened() -> None:
    map_ = FromFrEIA(Scaling(lambda value, batch: torch.full((batch,), value).bfloat16()), (3,))
    assert map_(torch.ones(2, 3))[1].dtype == torch.float32
    assert map_(torch.ones(2, 3).bfloat16())[1].dtype == torch.float32


def test_a_log_det_per_position_is_refused() -> None:
    # InvertibleSigmoid of FrEIA 0.2 does not sum over the positions of an image.
    map_ = FromFrEIA(InvertibleSigmoid([(2, 3, 3)]), (2, 3, 3))
    with pytest.raises(ShapeError, match=r"InvertibleSigmoid\): expected a log-det.* \(4,\), got"):
        map_(torch.randn(4, 2, 3, 3))


def test_from_freia_refuses_what_does_not_fit() -> None:
    with pytest.raises(ShapeError, match=r"FromFrEIA\(Concat\): .* with one input, got 2"):
        FromFrEIA(Concat([(2,), (3,)]), (5,))
    with pytest.raises(ShapeError, match=r"FromFrEIA\(Split\): .* with one output, got 2"):
        FromFrEIA.build(Split, (4, 2, 2), seed=0)
    with pytest.raises(ShapeError, match=r"expected input of shape \(5,\), got \(3,\)"):
        FromFrEIA(PermuteRandom([(3,)]), (5,))
    module = GLOWCouplingBlock([(4,)], dims_c=[(3,)], subnet_constructor=plain_net)
    with pytest.raises(ShapeError, match=r"one condition of 0 features, got \[\(3,\)\]"):
        FromFrEIA(module, (4,))
    with pytest.raises(ShapeError, match=r"GLOWCoupling.* of 2 features, got \[\(3,\)\]; pass"):
        FromFrEIA(module, (4,), context_features=2)
    with pytest.raises(ShapeError, match=r"one condition of 2 features, got \[\]"):
        FromFrEIA(PermuteRandom([(4,)]), (4,), context_features=2)


def test_from_freia_is_the_module() -> None:
    map_ = FromFrEIA.build(
        GLOWCouplingBlock, (5,), seed=0, context_features=3, subnet_constructor=plain_net
    )
    x, context = torch.randn(2, 5), torch.randn(2, 3)
    (z,), log_det = map_.module([x], [context])
    assert torch.equal(map_(x, context)[0], z)
    assert torch.equal(map_(x, context)[1], log_det)
    (back,), inverse_log_det = map_.module([z], [context], rev=True)
    assert torch.equal(map_.inverse(z, context)[0], back)
    assert torch.equal(map_.inverse(z, context)[1], inverse_log_det)


def test_an_image_block_sees_the_context_at_every_position() -> None:
    options = {"context_features": 2, "subnet_constructor": partial(nn.Conv2d, kernel_size=1)}
    map_ = FromFrEIA.build(AllInOneBlock, (4, 3, 3), seed=0, **options)
    x, context = torch.randn(1, 4, 3, 3), torch.randn(1, 2)
    assert map_.condition_shape == (2, 3, 3)
    planes = context[:, :, None, None].expand(1, 2, 3, 3)
    assert torch.equal(map_(x, context)[0], map_.module([x], [planes])[0][0])


@pytest.mark.parametrize("soft", [False, True])
def test_build_is_reproducible_and_leaves_the_generators_alone(soft: bool) -> None:
    build = partial(FromFrEIA.build, AllInOneBlock, (6,), permute_soft=soft)
    torch_state, numpy_state = torch.get_rng_state(), str(np.random.get_state())  # noqa: NPY002
    one, other = (build(seed=seed, subnet_constructor=plain_net) for seed in (1, 2))
    with pytest.raises(ValueError, match="subnet_constructor"):
        build(seed=1)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert str(np.random.get_state()) == numpy_state  # noqa: NPY002
    torch.randn(3), np.random.rand(3)  # noqa: NPY002  another global state
    same = build(seed=1, subnet_constructor=plain_net)
    for name, value in one.state_dict().items():
        assert torch.equal(value, same.state_dict()[name])
    assert not torch.equal(one.module.w_perm, other.module.w_perm)
    assert not torch.equal(one.module.subnet[0].weight, other.module.subnet[0].weight)


def test_haar_of_freia_no_longer_writes_into_its_input() -> None:
    map_ = FromFrEIA.build(HaarDownsampling, (1, 2, 2), seed=0)
    z = torch.ones(1, 4, 1, 1)
    map_.inverse(z)
    assert z.flatten().tolist() == [1.0] * 4


def test_to_freia_in_a_sequence_is_the_chain() -> None:
    first, second = coupling(), coupling(context_features=3)
    inn = SequenceINN(4)
    inn.append(ToFrEIA, make=lambda shape: first)
    inn.append(ToFrEIA, cond=0, cond_shape=(3,), make=lambda shape: second)
    x, context = torch.randn(2, 4).double(), torch.randn(2, 3).double()
    middle, one = first(x)
    expected, two = second(middle, context)
    z, log_det = inn(x, [context])
    torch.testing.assert_close((z, log_det), (expected, one + two))
    back, inverse_log_det = inn(z, [context], rev=True)
    torch.testing.assert_close((back, inverse_log_det), (x, -log_det))


def test_to_freia_in_a_graph() -> None:
    map_ = coupling(context_features=3)
    start, condition = InputNode(4), ConditionNode(3)
    node = Node(start, ToFrEIA, {"make": lambda shape: map_}, conditions=condition)
    graph = GraphINN([start, condition, node, OutputNode(node)])
    x, context = torch.randn(2, 4).double(), torch.randn(2, 3).double()
    z, log_det = graph(x, [context])
    torch.testing.assert_close((z, log_det), map_(x, context))
    back, inverse_log_det = graph(z, [context], rev=True)
    torch.testing.assert_close((back, inverse_log_det), (x, -log_det))
    assert_invertible(FromFrEIA(graph, (4,), context_features=3), x, context)


def test_to_freia_hands_on_the_shape() -> None:
    module = ToFrEIA([(3, 4, 4)], make=partial(FromFrEIA.build, HaarDownsampling, seed=0))
    assert module.output_dims([(3, 4, 4)]) == [(12, 2, 2)]


def test_to_freia_refuses_what_does_not_fit() -> None:
    with pytest.raises(ShapeError, match="ToFrEIA: expected a module with one input, got 2"):
        ToFrEIA([(4,), (4,)], make=lambda shape: coupling())
    with pytest.raises(ShapeError, match=r"ToFrEIA\(Coupling\): .* shape \(6,\), got \(4,\)"):
        ToFrEIA([(6,)], make=lambda shape: coupling())
    with pytest.raises(ShapeError, match=r"conditions of shapes \[\(3,\)\], got \[\]"):
        ToFrEIA([(4,)], make=lambda shape: coupling(context_features=3))
    with pytest.raises(ShapeError, match=r"shapes \[\(3,\)\], got \[\(3, 4, 4\)\]"):
        ToFrEIA([(4,)], [(3, 4, 4)], make=lambda shape: coupling(context_features=3))


def test_from_nflows_is_the_transform() -> None:
    transform = randomize(LULinear(5), torch.Generator().manual_seed(0))
    map_ = FromNFlows(transform, (5,))
    x = torch.randn(3, 5)
    torch.testing.assert_close(map_(x), transform(x))
    torch.testing.assert_close(map_.inverse(x), transform.inverse(x))


def test_from_nflows_needs_the_output_shape_where_it_differs() -> None:
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    with pytest.raises(ShapeError, match=r"shape \(2, 3, 4, 4\), got \(2, 12, 2, 2\); pass"):
        FromNFlows(SqueezeTransform(), (3, 4, 4))(x)
    assert_invertible(FromNFlows(SqueezeTransform(), (3, 4, 4), (12, 2, 2)), x)


@pytest.mark.parametrize("context_features", [0, 3])
def test_to_nflows_in_a_flow(context_features: int) -> None:
    map_ = coupling(context_features=context_features)
    flow = Flow(ToNFlows(map_), StandardNormal([4])).double()
    x = torch.randn(5, 4, dtype=torch.float64)
    context = torch.randn(5, 3, dtype=torch.float64) if context_features else None
    z, log_det = map_(x, context)
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1) + log_det
    torch.testing.assert_close(flow.log_prob(x, context), expected)


def test_a_flow_samples_through_to_nflows() -> None:
    generator = torch.Generator().manual_seed(0)
    map_ = ElementwiseAffine((2,), torch.tensor([3.0, -1.0]), torch.tensor([0.1, 0.2]))
    flow = Flow(ToNFlows(map_), StandardNormal([2]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        samples = flow.sample(4000)
        _, log_prob = flow.sample_and_log_prob(5)
    torch.testing.assert_close(samples.mean(0), map_.shift, atol=0.02, rtol=0)
    torch.testing.assert_close(samples.std(0), map_.scale, atol=0.02, rtol=0)
    assert log_prob.shape == (5,)
    turned = Flow(ToNFlows(Rotation((2,), generator)), StandardNormal([2]))
    assert turned.log_prob(samples[:3]).shape == (3,)


def test_to_nflows_checks_shapes() -> None:
    transform = ToNFlows(Permutation((4,), torch.Generator().manual_seed(0)))
    for run in (transform, transform.inverse):
        with pytest.raises(ShapeError, match=r"expected input of shape \(B, 4\), got \(2, 5\)"):
            run(torch.randn(2, 5))
