"""CUDA kernels of couplings::mixture: cuBLAS for the products, one program a row for the rest."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from couplings.ops.dispatch import full_precision
from couplings.ops.matmul import class_scores, score_gradients
from couplings.ops.triton_math import block_of, wide


@triton.jit
def _forward(
    scores, log_weights, common, log_prob, log_posterior,
    classes, BLOCK: tl.constexpr,
):  # fmt: skip
    """Turn a row of scores into log q(z|k); compute its log-sum-exp and posterior."""
    sample = tl.program_id(0).to(tl.int64)
    scores, log_posterior = scores + sample * classes, log_posterior + sample * classes
    # A class of weight 0 has a score of -inf, from which -inf must not be taken.
    highest = wide(tl.full((), float("-inf"), scores.dtype.element_ty))
    total = wide(tl.full((), 0.0, scores.dtype.element_ty))
    for start in range(0, classes, BLOCK):
        at = start + tl.arange(0, BLOCK)
        inside = at < classes
        joint = wide(tl.load(scores + at, inside, other=float("-inf")))
        joint += wide(tl.load(log_weights + at, inside, other=0.0))
        top = tl.maximum(highest, tl.max(joint, 0))
        base = tl.where(top == float("-inf"), 0.0, top)
        total = total * tl.exp(highest - base) + tl.sum(tl.exp(joint - base), 0)
        highest = top
    shared = wide(tl.load(common + sample))
    log_total = tl.log(total)
    tl.store(log_prob + sample, highest + log_total + shared)
    for start in range(0, classes, BLOCK):
        at = start + tl.arange(0, BLOCK)
        inside = at < classes
        score = wide(tl.load(scores + at, inside, other=0.0))
        # The maximum first: what is left are small numbers, and keeps its digits.
        posterior = score + wide(tl.load(log_weights + at, inside, other=0.0)) - highest - log_total
        tl.store(log_posterior + at, posterior, inside)
        tl.store(scores + at, score + shared, inside)


@triton.jit
def _backward(
    grad_given_class, grad_log_prob, grad_log_posterior, log_posterior, total, through_prior,
    classes, GIVEN: tl.constexpr, PROB: tl.constexpr, POSTERIOR: tl.constexpr,
    FIXED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Compute a row of T, see `matmul`, and the part of it that reaches the weights."""
    sample = tl.program_id(0).to(tl.int64)
    row = sample * classes
    by_prob = wide(tl.load(grad_log_prob + sample)) if PROB else 0.0
    by_row = by_prob
    if POSTERIOR:
        summed = wide(tl.load(grad_log_posterior + row)) * 0
        for start in range(0, classes, BLOCK):
            at = start + tl.arange(0, BLOCK)
            summed += tl.sum(
                wide(tl.load(grad_log_posterior + row + at, at < classes, other=0.0)), 0
            )
        by_row = by_prob - summed
    for start in range(0, classes, BLOCK):
        at = start + tl.arange(0, BLOCK)
        inside = at < classes
        posterior = tl.exp(wide(tl.load(log_posterior + row + at, inside, other=float("-inf"))))
        through = posterior * by_row
        if POSTERIOR:
            through += wide(tl.load(grad_log_posterior + row + at, inside, other=0.0))
        tl.store(through_prior + row + at, posterior * by_prob if FIXED else through, inside)
        if GIVEN:
            through += wide(tl.load(grad_given_class + row + at, inside, other=0.0))
        tl.store(total + row + at, through, inside)


def mixture(
    z: Tensor, means: Tensor, log_weights: Tensor, fixed_prior: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute `matmul.eager_mixture`."""
    with full_precision(z):
        scores, common = class_scores(z, means)
        log_prob, log_posterior = torch.empty_like(common), torch.empty_like(scores)
        batch, classes = scores.shape
        _forward[(batch,)](
            scores, log_weights.contiguous(), common, log_prob, log_posterior,
            classes, BLOCK=block_of(classes),
        )  # fmt: skip
        return scores, log_prob, log_posterior


def mixture_backward(
    grad_given_class: Tensor | None,
    grad_log_prob: Tensor | None,
    grad_log_posterior: Tensor | None,
    z: Tensor,
    means: Tensor,
    log_posterior: Tensor,
    fixed_prior: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute `matmul.eager_mixture_backward`."""
    with full_precision(z):
        total, through_prior = torch.empty_like(log_posterior), torch.empty_like(log_posterior)
        batch, classes = log_posterior.shape
        grads = (grad_given_class, grad_log_prob, grad_log_posterior)
        rows = [log_posterior if grad is None else grad.contiguous() for grad in grads]
        given, prob, posterior = (grad is not None for grad in grads)
        _backward[(batch,)](
            *rows, log_posterior.contiguous(), total, through_prior,
            classes, GIVEN=given, PROB=prob, POSTERIOR=posterior,
            FIXED=fixed_prior, BLOCK=block_of(classes),
        )  # fmt: skip
        return *score_gradients(total, z, means), through_prior.sum(0)
