"""Operators around a matrix product: rotation of channels, densities of a Gaussian mixture.

couplings::rotate takes scale, offset and rotation of the channels in one product:

    z = e^g · (R x) + o,   inverse: x = Rᵀ ((z - o) · e^-g);   R fixed, g and o a number a channel

Only z is kept for the backward, for with R fixed no gradient needs x, nor a (C, C) matrix:

              g_x = Rᵀ (e^g · g_z),   g_o = Σ g_z,    g_g = Σ g_z · (z - o)
    inverse:  g_z = e^-g · (R g_x),   g_o = -Σ g_z,   g_g = -Σ g_z · (z - o)

with Σ over samples and positions.

couplings::mixture computes for unit Gaussians

    L_bk = log N(z_b; μ_k, I),   p(z)_b = log Σ_k w_k e^L_bk,   post_bk = L_bk + log w_k - p(z)_b

‖z - μ‖² is expanded about the means' centre, so that one matrix product gives all of it and nothing
has shape (B, K, D). What the classes share, ‖z‖²/2 above all, never enters the posterior. With T
the gradient that reaches L_bk by all three ways,

    T = g_L + e^post · g_p(z) + g_post - e^post · Σ_k g_post
    g_z = T μ - z · Σ_k T,    g_μ = Tᵀ z - μ · Σ_b T,    g_w = Σ_b (T - g_L)

IB-INN's cross-entropy does not move the weights: with `fixed_prior`, g_w is Σ_b e^post · g_p(z).
Both backwards are written in operations that can be differentiated again.
"""

from math import log, pi
from typing import Any, NamedTuple

import torch
from torch import Tensor

from couplings.ops import reference
from couplings.ops.dispatch import (
    Layout,
    backward_of,
    call,
    define,
    full_precision,
    in_torch_func,
    is_channels_last,
    matrix_view,
    operator_or,
    readable,
    widened,
)

# struct Rotation of csrc/rotation.h, which keeps the matrix of so many channels on the stack.
STRUCT, MOST_CHANNELS = "20q", 128
# Numbers in the longest vector, in which the positions of a channel are multiplied.
LEAST_POSITIONS = 16

CHUNK = 16
# From here on oneDNN's convolution is faster than a batch of small products, by up to a half.
MANY_CHANNELS = 64

Triple = tuple[Tensor, Tensor, Tensor]


def rotate(x: Tensor, rotation: Tensor, log_scale: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """Compute z = e^g · (R x) + o over the channels, and log_det = positions · Σ_c g_c.

    Twice differentiable, but not in R. Under autocast x keeps its dtype and is not rounded.

    Args:
        x: (B, C, ...).
        rotation: R (C, C), orthogonal, fixed.
        log_scale: g (C,).
        offset: o (C,).

    Returns:
        z (B, C, ...) and log_det (B,), nats.
    """
    return _rotate(x, rotation, log_scale, offset, False)


def unrotate(
    z: Tensor, rotation: Tensor, log_scale: Tensor, offset: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute x = Rᵀ ((z - o) · e^-g), log_det = -positions · Σ_c g_c: the inverse of `rotate`."""
    return _rotate(z, rotation, log_scale, offset, True)


def _rotate(
    x: Tensor, rotation: Tensor, log_scale: Tensor, offset: Tensor, inverse: bool
) -> tuple[Tensor, Tensor]:
    operator = operator_or(reference.rotate, "rotate")
    positions = x.shape[1:].numel() // x.shape[1]
    total = log_scale.sum(dtype=widened(x.dtype)) * (-positions if inverse else positions)
    return operator(x, rotation, log_scale, offset, inverse), total.expand(x.shape[0])


class MixtureDensities(NamedTuple):
    """Densities of latents (B, D) under a Gaussian mixture, in nats.

    Attributes:
        log_prob_given_class: log N(z; μ_k, I), (B, K).
        log_prob: log Σ_k w_k N(z; μ_k, I), (B,).
        log_posterior: log q(k|z), (B, K).
    """

    log_prob_given_class: Tensor
    log_prob: Tensor
    log_posterior: Tensor


def mixture_log_prob(
    z: Tensor, means: Tensor, log_weights: Tensor, *, fixed_prior: bool = False
) -> MixtureDensities:
    """Compute densities and posterior of a mixture of unit Gaussians, without a (B, K, D) tensor.

    ‖z - μ_k‖² is expanded about the means' centre; what all classes share never enters the
    posterior, which so stays exact in float32 where ‖z‖² is 10⁴ and the classes differ by 1.
    Twice differentiable. bfloat16 and float16 latents are widened first.

    Args:
        z: (B, D).
        means: μ (K, D).
        log_weights: log w (K,), normalised.
        fixed_prior: keep the posterior's gradients from the weights, as IB-INN does.
    """
    wide = torch.promote_types(widened(z.dtype), means.dtype)
    operator = operator_or(reference.mixture, "mixture")
    return MixtureDensities(
        *operator(z.to(wide), means.to(wide), log_weights.to(wide), fixed_prior)
    )


def eager_rotate(
    x: Tensor, rotation: Tensor, log_scale: Tensor, offset: Tensor, inverse: bool
) -> Tensor:
    """Map x (B, C, ...) to z, or z to x; laid out in memory as the input is."""
    with full_precision(x):
        weight, bias = folded(rotation, log_scale, offset, inverse)
        return _mix(x, weight.to(x.dtype), bias.to(x.dtype))


def eager_rotate_backward(
    grad: Tensor, z: Tensor, rotation: Tensor, log_scale: Tensor, offset: Tensor, inverse: bool
) -> Triple:
    """Return (g_input, g_log_scale, g_offset) from the output's gradient; z on the rotated side."""
    with full_precision(grad):
        weight, _ = folded(rotation, log_scale, offset, inverse)
        grad_input = _mix(grad, weight.T.to(grad.dtype), None)
        grad_z, sign = (grad_input, -1) if inverse else (grad, 1)
        sums = _per_channel(grad_z, z, offset)
        grad_offset, grad_scale = (sign * total.to(offset.dtype) for total in sums)
        return grad_input, grad_scale, grad_offset


def compiled_rotate(
    x: Tensor, rotation: Tensor, log_scale: Tensor, offset: Tensor, inverse: bool
) -> Tensor:
    """Compute what `eager_rotate` does, in one pass."""
    if not _is_small(x, rotation, log_scale, offset):
        return eager_rotate(x, rotation, log_scale, offset, inverse)
    layout, out = Layout(is_channels_last(x)), _empty_like(x)
    call(
        *("rotate_forward", x.dtype, STRUCT + "10q"),
        *_struct(layout, x, rotation, log_scale, offset, inverse),
        *layout.views(x, out),
    )
    return out


def compiled_rotate_backward(
    grad: Tensor, z: Tensor, rotation: Tensor, log_scale: Tensor, offset: Tensor, inverse: bool
) -> Triple:
    """Compute what `eager_rotate_backward` does, in one pass."""
    if not (_is_small(grad, rotation, log_scale, offset) and readable(z) and z.dtype == grad.dtype):
        return eager_rotate_backward(grad, z, rotation, log_scale, offset, inverse)
    layout, grad_input = Layout(is_channels_last(grad)), _empty_like(grad)
    sums = grad.new_empty(len(grad), 2, grad.shape[1])
    call(
        *("rotate_backward", grad.dtype, STRUCT + "20q"),
        *_struct(layout, grad, rotation, log_scale, offset, inverse),
        *layout.views(grad, z, grad_input),
        *Layout(False).views(sums),
    )
    grad_offset, grad_scale = sums.sum(0).mul_(-1 if inverse else 1).to(offset.dtype)
    return grad_input, grad_scale, grad_offset


def _is_small(x: Tensor, rotation: Tensor, log_scale: Tensor, offset: Tensor) -> bool:
    return (
        x.dim() == 4
        and x.dtype in (torch.float32, torch.float64)
        and x.shape[1] <= MOST_CHANNELS
        and (x.shape[2:].numel() >= LEAST_POSITIONS or is_channels_last(x))
        and readable(x, rotation, log_scale, offset)
        and rotation.shape == (x.shape[1], x.shape[1])
        and log_scale.shape == offset.shape == x.shape[1:2]
    )


def _struct(
    layout: Layout,
    x: Tensor,
    rotation: Tensor,
    log_scale: Tensor,
    offset: Tensor,
    inverse: bool,
) -> tuple[int, ...]:
    shape = (len(x), *layout.shape(x), layout.channels_last, inverse)
    return (*shape, *matrix_view(rotation), *matrix_view(log_scale), *matrix_view(offset))


def _mix(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute weight x + bias over the channels of x (B, C, ...) in one product, in its layout."""
    if x.dim() == 2:
        return torch.nn.functional.linear(x, weight, bias)
    if _channels_last(x):
        mixed = torch.nn.functional.linear(x.permute(0, 2, 3, 1), weight, bias)
        return mixed.permute(0, 3, 1, 2)
    if x.dim() == 4 and x.device.type == "cpu" and x.shape[1] >= MANY_CHANNELS:
        return torch.nn.functional.conv2d(x, weight[:, :, None, None], bias)
    columns = x.flatten(2)
    weights = weight.expand(len(x), -1, -1)
    if bias is None:
        return torch.bmm(weights, columns).view(x.shape)
    return torch.baddbmm(bias[:, None], weights, columns).view(x.shape)


def folded(
    rotation: Tensor, log_scale: Tensor, offset: Tensor, inverse: bool
) -> tuple[Tensor, Tensor]:
    """Fold scale and rotation into one matrix, with its offset."""
    rotation = rotation.to(log_scale.dtype)
    if not inverse:
        return log_scale.exp()[:, None] * rotation, offset
    weight = rotation.T * (-log_scale).exp()
    return weight, -(weight @ offset)


def _per_channel(grad: Tensor, z: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """Sum g and g (z - o) over samples and positions, (C,) each."""
    wide = torch.promote_types(grad.dtype, torch.float32)
    others = (0, *range(2, grad.dim()))
    # A few samples at a time: a product as large as the input would cost more than all the rest.
    parts = zip(grad.split(CHUNK), z.split(CHUNK), strict=True)
    offset = offset.to(z.dtype).view(-1, *[1] * (z.dim() - 2))
    products = [(g * (part - offset)).sum(others, dtype=wide) for g, part in parts]
    return grad.sum(others, dtype=wide), torch.stack(products).sum(0)


def _empty_like(x: Tensor) -> Tensor:
    layout = torch.channels_last if _channels_last(x) else torch.contiguous_format
    return torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=layout)


def _channels_last(x: Tensor) -> bool:
    images = x.dim() == 4 and not in_torch_func()
    return images and x.is_contiguous(memory_format=torch.channels_last)


def _fake_rotate(x: Tensor, *_: Any) -> Tensor:
    return _empty_like(x)


def _fake_rotate_backward(
    grad: Tensor, z: Tensor, rotation: Tensor, log_scale: Tensor, offset: Tensor, inverse: bool
) -> Triple:
    return _empty_like(grad), torch.empty_like(log_scale), torch.empty_like(offset)


def _setup_rotate(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, rotation, log_scale, offset, ctx.inverse = inputs
    ctx.save_for_backward(x if ctx.inverse else output, rotation, log_scale, offset)


def _backward_rotate(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    operator = backward_of(eager_rotate_backward, "rotate_backward")
    z, *parameters = ctx.saved_tensors
    if _channels_last(z):
        # As the state is laid out, unlike the gradient of a flattened one.
        grad = grad.contiguous(memory_format=torch.channels_last)
    grad_input, grad_scale, grad_offset = operator(grad, z, *parameters, ctx.inverse)
    return grad_input, None, grad_scale, grad_offset, None


define(
    "rotate",
    "(Tensor x, Tensor rotation, Tensor log_scale, Tensor offset, bool inverse) -> Tensor",
    eager_rotate,
    _fake_rotate,
    triton="triton_rotation",
    compiled=compiled_rotate,
    setup=_setup_rotate,
    backward=_backward_rotate,
)
define(
    "rotate_backward",
    "(Tensor grad, Tensor z, Tensor rotation, Tensor log_scale, Tensor offset, bool inverse) "
    "-> (Tensor, Tensor, Tensor)",
    eager_rotate_backward,
    _fake_rotate_backward,
    triton="triton_rotation",
    compiled=compiled_rotate_backward,
)


def eager_mixture(z: Tensor, means: Tensor, log_weights: Tensor, fixed_prior: bool) -> Triple:
    """Compute log_prob_given_class (B, K), log_prob (B,) and log_posterior (B, K)."""
    with full_precision(z):
        scores, common = class_scores(z, means)
        joint = scores + log_weights
        log_prob = joint.logsumexp(1).add_(common)
        # Not joint - logsumexp: log_softmax takes the maximum off first, which keeps small numbers.
        return scores.add_(common[:, None]), log_prob, joint.log_softmax(1)


def eager_mixture_backward(
    grad_given_class: Tensor | None,
    grad_log_prob: Tensor | None,
    grad_log_posterior: Tensor | None,
    z: Tensor,
    means: Tensor,
    log_posterior: Tensor,
    fixed_prior: bool,
) -> Triple:
    """Return (g_z, g_means, g_log_weights)."""
    with full_precision(z):
        posterior = log_posterior.exp()
        through_prior = _through_prior(grad_log_prob, grad_log_posterior, posterior)
        total = through_prior if grad_given_class is None else through_prior + grad_given_class
        if fixed_prior:
            through_prior = _through_prior(grad_log_prob, None, posterior)
        return *score_gradients(total, z, means), through_prior.sum(0)


def class_scores(z: Tensor, means: Tensor) -> tuple[Tensor, Tensor]:
    """Split L into z·μ_k - ‖μ_k‖²/2 (B, K) and the rest (B,), about the means' centre."""
    centre = means.mean(0)
    z, means = z - centre, means - centre
    bias = torch.linalg.vecdot(means, means).mul_(-0.5)
    common = torch.linalg.vecdot(z, z).add_(z.shape[1] * log(2 * pi)).mul_(-0.5)
    return torch.addmm(bias, z, means.T), common


def score_gradients(total: Tensor, z: Tensor, means: Tensor) -> tuple[Tensor, Tensor]:
    """Return (g_z, g_means) from the gradient T of L."""
    centre = means.mean(0)
    z, means = z - centre, means - centre
    grad_z = torch.addcmul(total @ means, total.sum(1, keepdim=True), z, value=-1)
    return grad_z, torch.addcmul(total.T @ z, total.sum(0)[:, None], means, value=-1)


def _through_prior(
    grad_log_prob: Tensor | None, grad_log_posterior: Tensor | None, posterior: Tensor
) -> Tensor:
    """Return the gradient of log w_k + L_bk: e^post · (g_p(z) - Σ_k g_post) + g_post."""
    row = posterior.new_zeros(len(posterior)) if grad_log_prob is None else grad_log_prob
    if grad_log_posterior is None:
        return posterior * row[:, None]
    row = row - grad_log_posterior.sum(1)
    return torch.addcmul(grad_log_posterior, posterior, row[:, None])


def _fake_mixture(z: Tensor, means: Tensor, *_: Any) -> Triple:
    batch, classes = len(z), len(means)
    return z.new_empty(batch, classes), z.new_empty(batch), z.new_empty(batch, classes)


def _fake_mixture_backward(*arguments: Any) -> Triple:
    *_, z, means, _, _ = arguments
    return z.new_empty(z.shape), means.new_empty(means.shape), means.new_empty(len(means))


def _setup_mixture(ctx: Any, inputs: tuple[Any, ...], output: Triple) -> None:
    z, means, _, ctx.fixed_prior = inputs
    ctx.save_for_backward(z, means, output[2])
    ctx.set_materialize_grads(False)


def _backward_mixture(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
    operator = backward_of(eager_mixture_backward, "mixture_backward")
    return *operator(*grads, *ctx.saved_tensors, ctx.fixed_prior), None


define(
    "mixture",
    "(Tensor z, Tensor means, Tensor log_weights, bool fixed_prior) -> (Tensor, Tensor, Tensor)",
    eager_mixture,
    _fake_mixture,
    triton="triton_mixture",
    setup=_setup_mixture,
    backward=_backward_mixture,
)
define(
    "mixture_backward",
    "(Tensor? grad_given_class, Tensor? grad_log_prob, Tensor? grad_log_posterior, Tensor z, "
    "Tensor means, Tensor log_posterior, bool fixed_prior) -> (Tensor, Tensor, Tensor)",
    eager_mixture_backward,
    _fake_mixture_backward,
    triton="triton_mixture",
)
