"""couplings::mixture, all that a Gaussian mixture says of a latent, and its backward.

    L_bk = log N(z_b; μ_k, I),   p(z)_b = log Σ_k w_k e^L_bk,   post_bk = L_bk + log w_k - p(z)_b

‖z - μ‖² is expanded about the means' centre, so that one matrix product gives all of it and nothing
has shape (B, K, D). What the classes share, ‖z‖²/2 above all, never enters the posterior. With T
the gradient that reaches L_bk by all three ways,

    T = g_L + e^post · g_p(z) + g_post - e^post · Σ_k g_post
    g_z = T μ - z · Σ_k T,    g_μ = Tᵀ z - μ · Σ_b T,    g_w = Σ_b (T - g_L)

IB-INN's decision term does not move the weights: with `fixed_prior`, g_w is Σ_b e^post · g_p(z).
The backward is written in operations that can be differentiated again.
"""

from __future__ import annotations

from collections.abc import Callable
from math import log, pi
from typing import Any

import torch
from torch import Tensor

from couplings.ops.dispatch import define, differentiable, full_precision

__all__ = ["mixture", "mixture_backward"]

Densities = tuple[Tensor, Tensor, Tensor]


def mixture(z: Tensor, means: Tensor, log_weights: Tensor, fixed_prior: bool) -> Densities:
    """log_prob_given_class (B, K), log_prob (B,) and log_posterior (B, K)."""
    with full_precision(z):
        centre = means.mean(0)
        z, means = z - centre, means - centre
        bias = torch.linalg.vecdot(means, means).mul_(-0.5)
        scores = torch.addmm(bias, z, means.T)
        common = torch.linalg.vecdot(z, z).add_(z.shape[1] * log(2 * pi)).mul_(-0.5)
        joint = scores + log_weights
        log_prob = joint.logsumexp(1).add_(common)
        # Not joint - logsumexp: log_softmax takes the maximum off first, which keeps small numbers.
        return scores.add_(common[:, None]), log_prob, joint.log_softmax(1)


def mixture_backward(
    grad_given_class: Tensor | None,
    grad_log_prob: Tensor | None,
    grad_log_posterior: Tensor | None,
    z: Tensor,
    means: Tensor,
    log_posterior: Tensor,
    fixed_prior: bool,
) -> Densities:
    """(g_z, g_means, g_log_weights)."""
    with full_precision(z):
        posterior = log_posterior.exp()
        through_prior = _through_prior(grad_log_prob, grad_log_posterior, posterior)
        total = through_prior if grad_given_class is None else through_prior + grad_given_class
        centre = means.mean(0)
        z, means = z - centre, means - centre
        grad_z = torch.addcmul(total @ means, total.sum(1, keepdim=True), z, value=-1)
        grad_means = torch.addcmul(total.T @ z, total.sum(0)[:, None], means, value=-1)
        if fixed_prior:
            through_prior = _through_prior(grad_log_prob, None, posterior)
        return grad_z, grad_means, through_prior.sum(0)


def _through_prior(
    grad_log_prob: Tensor | None, grad_log_posterior: Tensor | None, posterior: Tensor
) -> Tensor:
    """The gradient of log w_k + L_bk: e^post · (g_p(z) - Σ_k g_post) + g_post."""
    row = posterior.new_zeros(len(posterior)) if grad_log_prob is None else grad_log_prob
    if grad_log_posterior is None:
        return posterior * row[:, None]
    row = row - grad_log_posterior.sum(1)
    return torch.addcmul(grad_log_posterior, posterior, row[:, None])


def _fake(z: Tensor, means: Tensor, log_weights: Tensor, fixed_prior: bool) -> Densities:
    batch, classes = len(z), len(means)
    return z.new_empty(batch, classes), z.new_empty(batch), z.new_empty(batch, classes)


def _fake_backward(
    grad_given_class: Tensor | None,
    grad_log_prob: Tensor | None,
    grad_log_posterior: Tensor | None,
    z: Tensor,
    means: Tensor,
    log_posterior: Tensor,
    fixed_prior: bool,
) -> Densities:
    return z.new_empty(z.shape), means.new_empty(means.shape), means.new_empty(len(means))


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Densities) -> None:
    z, means, _, ctx.fixed_prior = inputs
    ctx.save_for_backward(z, means, output[2])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
    operator: Callable[..., Densities] = torch.ops.couplings.mixture_backward
    if differentiable():
        operator = mixture_backward
    return *operator(*grads, *ctx.saved_tensors, ctx.fixed_prior), None


define(
    "mixture",
    "(Tensor z, Tensor means, Tensor log_weights, bool fixed_prior) -> (Tensor, Tensor, Tensor)",
    mixture,
    _fake,
    triton="triton_mixture",
)
define(
    "mixture_backward",
    "(Tensor? grad_given_class, Tensor? grad_log_prob, Tensor? grad_log_posterior, Tensor z, "
    "Tensor means, Tensor log_posterior, bool fixed_prior) -> (Tensor, Tensor, Tensor)",
    mixture_backward,
    _fake_backward,
    triton="triton_mixture",
)
torch.library.register_autograd("couplings::mixture", _backward, setup_context=_setup)
