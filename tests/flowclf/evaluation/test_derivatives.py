"""Derivatives of single samples against autograd, one sample after the other."""

import pytest
import torch
from small_systems import small
from torch import Tensor, nn

from flowclf import build
from flowclf.classifier import GenerativeClassifier
from flowclf.evaluation.derivatives import MOST_JACOBIAN, layer_gradients, local_dimension
from flowclf.evaluation.scores import Reference, model_scores
from flowclf.evaluation.statistics import COSTLY, STATISTICS, statistics

SHAPE = (1, 4, 4)


def made(system: str, shape: tuple[int, ...] = SHAPE) -> GenerativeClassifier:
    """Build a small model in float64 whose weights are nowhere zero."""
    model = build(system, shape=shape, classes=3, **small(system, image=len(shape) == 3))
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "rotation" not in name and parameter.ndim > 1:
            parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.double().eval()


def points(count: int, shape: tuple[int, ...] = SHAPE) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return 255 * torch.rand(count, *shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(("system", "shape"), [("ib-inn", SHAPE), ("class-nll", (5,))])
def test_gradients_are_those_of_each_sample_alone(system: str, shape: tuple[int, ...]) -> None:
    model, x = made(system, shape), points(70, shape)
    found = layer_gradients(model, model.log_prob, x)
    assert found is not None
    weights = [m.weight for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    for i in (0, 1, 69):
        gradients = torch.autograd.grad(model.log_prob(x[i : i + 1]).sum(), weights)
        expected = torch.stack([gradient.norm().log() for gradient in gradients])
        torch.testing.assert_close(found[i].sort().values, expected.sort().values)
    assert not any(p.grad is not None for p in model.parameters())


def test_a_model_without_such_layers_has_no_gradients() -> None:
    assert layer_gradients(nn.Identity(), lambda x: x.square().sum(1), points(3, (2,))) is None


def test_the_local_dimension_counts_singular_values_of_the_decoder() -> None:
    model, x = made("ib-inn", (4,)), points(5, (4,)) / 100
    network = model.encoder.network
    u = model.encoder.preprocess(x)[0]
    found = local_dimension(network, u)
    assert found is not None
    for i, row in enumerate(u):
        jacobian = torch.autograd.functional.jacobian(lambda v: network(v[None])[0][0], row)
        widths = torch.linalg.svdvals(torch.linalg.inv(jacobian))
        assert int(found[i]) == int((widths >= 0.1 * widths.max()).sum())
    assert local_dimension(network, torch.zeros(1, MOST_JACOBIAN + 1)) is None


def test_narrow_directions_are_none_of_the_data() -> None:
    class Scale(nn.Module):
        def forward(self, u: Tensor) -> tuple[Tensor, Tensor]:
            return u * torch.tensor([2.0, 19.0, 21.0, 500.0]), u.new_zeros(len(u))

    found = local_dimension(Scale(), torch.ones(2, 4))  # type: ignore[arg-type]
    assert found is not None
    assert found.tolist() == [2, 2]


def test_scores_by_derivatives_come_when_asked_for() -> None:
    model = build("ib-inn", shape=SHAPE, classes=3, **small("ib-inn", image=True))
    x = points(40).byte()
    model.fit_statistics(x, torch.arange(40) % 3)
    costly = {"layer-gradients", "local-dimension"}
    names = (*STATISTICS, *COSTLY)
    reference = Reference.fit(model, x, names=names)
    assert model_scores(model, x, reference).keys().isdisjoint(costly)
    assert model_scores(model, x, reference, names).keys() >= costly
    flow, other = (statistics(build(s, shape=SHAPE, classes=3, **small(s, image=True)), x, COSTLY)
                   for s in ("vae", "ce"))  # fmt: skip
    assert flow.keys() == {"layer_gradients"}
    assert not other


def test_along_beta_a_conditioned_model_says_more() -> None:
    network = {"kind": "mlp", "blocks": 1, "hidden": [4], "condition": "beta"}
    model = build("ib-inn", shape=(3,), classes=2, network=network, beta=1.0).eval()
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.ones_like(parameter))
    x = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
    found = statistics(model, x, ("nll_per_dim", "beta_nll_per_dim"))
    betas = (0.02, 0.02 * 50, 50.0)
    for column, beta in zip((0, 2, 4), betas, strict=True):
        model.trade_off.move(beta)
        expected = -model.log_prob(x).double() / 3
        torch.testing.assert_close(found["beta_nll_per_dim"][:, column], expected.detach())
    model.trade_off.move(1.0)
    torch.testing.assert_close(found["nll_per_dim"], found["beta_nll_per_dim"][:, 2])
    assert "across-beta" in model_scores(model, x, Reference.fit(model, x))


def test_the_ratio_is_to_another_models_density() -> None:
    own, general = (build("ib-inn", shape=(3,), classes=2, seed=seed) for seed in (0, 1))
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    found = model_scores(own, x, general=general)["ratio"]
    expected = (general.eval().log_prob(x) - own.eval().log_prob(x)).double() / 3
    torch.testing.assert_close(found, expected.detach())
