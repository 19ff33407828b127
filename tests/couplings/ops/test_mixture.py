"""couplings::mixture against the broadcast formula and its definition."""

from math import log, pi

import operators
import pytest
import torch
from operators import Function, assert_as_exact, not_finite
from torch import Tensor

from couplings.functional import mixture_log_prob
from couplings.ops import reference

OPERATOR = torch.ops.couplings.mixture


def draw(
    batch: int, classes: int, dims: int, dtype: torch.dtype = torch.float64, distance: float = 1.0
) -> list[Tensor]:
    z, means, logits = operators.draw((batch, dims), (classes, dims), (classes,))
    drawn = (z, distance * means, logits.log_softmax(0))
    return [tensor.to(dtype).requires_grad_() for tensor in drawn]


def broadcast(z: Tensor, means: Tensor, log_weights: Tensor) -> tuple[Tensor, ...]:
    """Compute the formula as it is written, with its (B, K, D) tensor."""
    square = (z[:, None] - means).square().sum(2)
    given_class = -0.5 * (square + z.shape[1] * log(2 * pi))
    joint = given_class + log_weights
    return given_class, joint.logsumexp(1), joint.log_softmax(1)


def bound(function: Function, fixed_prior: bool = False) -> Function:
    return lambda z, means, log_weights: function(z, means, log_weights, fixed_prior)


@pytest.mark.parametrize("function", [OPERATOR, reference.mixture])
def test_is_the_broadcast_formula(function: Function) -> None:
    tensors = draw(5, 4, 3)
    ours, expected = bound(function)(*tensors), broadcast(*tensors)
    torch.testing.assert_close(ours, expected)
    upstream = [torch.randn_like(out) for out in expected]
    gradients = torch.autograd.grad(ours, tensors, upstream)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, tensors, upstream))


@pytest.mark.parametrize("fixed_prior", [False, True])
def test_derivatives_and_opcheck(fixed_prior: bool) -> None:
    tensors = draw(3, 4, 2)
    torch.library.opcheck(OPERATOR, (*tensors, fixed_prior))
    z, means, log_weights = tensors
    moving = [z, means] if fixed_prior else tensors
    call = bound(OPERATOR, fixed_prior)
    assert torch.autograd.gradcheck(lambda *t: call(*t, *tensors[len(t) :]), moving)
    assert torch.autograd.gradgradcheck(lambda *t: call(*t, *tensors[len(t) :]), moving)


@pytest.mark.parametrize("function", [OPERATOR, reference.mixture])
def test_a_fixed_prior_learns_from_the_density_alone(function: Function) -> None:
    tensors = draw(5, 4, 3)
    _, log_prob, log_posterior = bound(function, fixed_prior=True)(*tensors)
    upstream = torch.randn_like(log_posterior)
    both = log_prob.sum() + (upstream * log_posterior).sum()
    (gradient,) = torch.autograd.grad(both, tensors[2])
    expected = torch.autograd.grad(broadcast(*tensors)[1].sum(), tensors[2])[0]
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("shape", [(7, 5, 33), (1, 1, 1), (0, 3, 4), (13, 129, 65)], ids=str)
@pytest.mark.parametrize("distance", [1.0, 4.0])
def test_as_exact_as_the_definition(shape: tuple[int, int, int], distance: float) -> None:
    tensors = draw(*shape, torch.float32, distance)
    assert_as_exact(OPERATOR, reference.mixture, tensors, False)


def test_the_posterior_survives_large_norms() -> None:
    z, means, log_weights = (t.detach() for t in draw(64, 10, 3072, distance=0.02))
    z = 100 * z
    expected = broadcast(z, means, log_weights)[2].exp()
    got = mixture_log_prob(z.float(), means.float(), log_weights.float()).log_posterior.exp()
    torch.testing.assert_close(got.double(), expected, atol=1e-4, rtol=0)


def test_strided_inputs() -> None:
    tensors = [t.detach().T.contiguous().T if t.dim() == 2 else t for t in draw(6, 4, 3)]
    torch.testing.assert_close(bound(OPERATOR)(*tensors), broadcast(*tensors))


@not_finite
def test_what_is_not_finite_becomes_nan(bad: float) -> None:
    z, means, log_weights = (t.detach() for t in draw(3, 4, 2))
    z[0, 0] = bad
    given_class, log_prob, log_posterior = mixture_log_prob(z, means, log_weights)
    for out in (given_class, log_prob, log_posterior):
        assert not bool(out[0].isfinite().any())
        assert bool(out[1:].isfinite().all())
    assert bool(log_posterior[0].isnan().any())


def test_low_precision_latents_are_widened() -> None:
    z, means, log_weights = (t.detach().float() for t in draw(4, 3, 5))
    with torch.autocast("cpu", torch.bfloat16):
        low = mixture_log_prob(z.bfloat16(), means, log_weights)
    expected = mixture_log_prob(z.bfloat16().float(), means, log_weights)
    torch.testing.assert_close(tuple(low), tuple(expected))


def test_transformations_go_through_the_definition() -> None:
    z, means, log_weights = (t.detach() for t in draw(4, 3, 2))

    def call(z: Tensor) -> Tensor:
        return mixture_log_prob(z[None], means, log_weights).log_prob[0]

    expected = mixture_log_prob(z, means, log_weights).log_prob
    torch.testing.assert_close(torch.vmap(call)(z), expected)
    _, slope = torch.func.jvp(call, (z[0],), (z[1],))
    torch.testing.assert_close(slope, torch.func.grad(call)(z[0]) @ z[1])
    compiled = torch.compile(mixture_log_prob, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(z, means, log_weights).log_prob, expected)


def test_no_tensor_of_batch_times_classes_times_dims() -> None:
    tensors = draw(32, 64, 128, torch.float32)
    with torch.profiler.profile(profile_memory=True) as profile:
        sum(out.sum() for out in bound(OPERATOR)(*tensors)).backward()
    largest = max(event.self_cpu_memory_usage for event in profile.events())
    assert largest < 4 * 32 * 64 * 128 / 8
