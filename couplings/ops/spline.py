"""couplings::spline_couple, a monotone rational-quadratic spline coupling, and its backward.

In the bin [x0, x0 + w] -> [y0, y0 + h] with slopes d0, d1 at its ends, for θ = (x - x0)/w,
t = θ(1 - θ) and s = h/w (Durkan et al., "Neural Spline Flows", NeurIPS 2019, Eqs. 4-8):

    D = s + (d0 + d1 - 2s) t,   N = s θ² + d0 t,   M = d1 θ² + 2 s t + d0 (1 - θ)²
    y = y0 + h N / D,           L = log dy/dx = 2 log s + log M - 2 log D

Parameters (B, (3K-1) A, ...) are K raw widths, K raw heights and K-1 raw inner slopes, each for all
A numbers at once: in (B, 3K-1, A, ...) every bin is a contiguous slice. Outside of [-bound, bound]
the map is the identity, which the numbers at the bound continue.

The backward computes the softmax again, so that only the inputs and the bins' indices are kept.
A second derivative differentiates the definition, `reference_spline`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from couplings.ops import reference_spline
from couplings.ops.dispatch import define, differentiable, widened
from couplings.ops.layout import empty_with, per_sample, room
from couplings.ops.reference_spline import MIN_SIZE, MIN_SLOPE, UNIT_SLOPE

__all__ = ["spline_couple", "spline_couple_backward"]


class Bin(NamedTuple):
    """The bin each number falls into: its lower edges, sizes and end slopes, (B, A, ...) each."""

    x0: Tensor
    width: Tensor
    y0: Tensor
    height: Tensor
    d0: Tensor
    d1: Tensor


def spline_couple(
    active: Tensor,
    parameters: Tensor,
    passive: Tensor | None,
    active_first: bool,
    bins: int,
    bound: float,
    inverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """(y, log_det) of `reference_spline.spline_couple`, and the bins' indices (B, 1, A, ...)."""
    dtype = torch.promote_types(active.dtype, parameters.dtype)
    x = active.to(widened(dtype))
    u = x.clamp(-bound, bound)
    widths, heights, slopes = _softmaxes(parameters, active, bins)
    edges = _lower_edges(heights if inverse else widths, bound)
    index = (u[:, None] >= edges[:, 1:]).sum(1, keepdim=True)
    others = _lower_edges(widths if inverse else heights, bound)
    edges_x, edges_y = (others, edges) if inverse else (edges, others)
    place = _bin(index, edges_x, widths, edges_y, heights, slopes, bound)
    theta, s = _theta(u, place, inverse)
    t = theta * (1 - theta)
    denominator = _denominator(place, s, t)
    if inverse:
        y = place.width.mul_(theta).add_(place.x0)
    else:
        rise = theta.square().mul_(s).addcmul_(place.d0, t).div_(denominator)
        y = rise.mul_(place.height).add_(place.y0)
    log_slope = _mean_slope(place, s, theta, t).mul_(s.div_(denominator).square_()).log_()
    inside = u == x
    # What is not finite must not pass for a number in the tails: 0 · x keeps it.
    log_slope.mul_(inside).add_(x, alpha=0)
    out, mapped = room(active, passive, active_first, dtype)
    mapped.copy_(y.mul_(inside).addcmul_(x, inside.logical_not_().to(x.dtype)))
    log_det = log_slope.flatten(1).sum(1)
    return out, log_det.neg_() if inverse else log_det, index


def spline_couple_backward(
    grad: Tensor,
    grad_log_det: Tensor,
    active: Tensor,
    index: Tensor,
    parameters: Tensor,
    bins: int,
    bound: float,
    inverse: bool,
) -> tuple[Tensor, Tensor]:
    """(g_active, g_parameters) of the active half.

    For the inverse x(y, p) the implicit function theorem turns the gradients of x and of -L into
    that of y; the parameters then get the forward's gradients for minus that.
    """
    x = active.to(widened(torch.promote_types(active.dtype, parameters.dtype)))
    u = x.clamp(-bound, bound)
    inside = (u == x).to(x.dtype)
    softmaxes = _softmaxes(parameters, active, bins)
    widths, heights, slopes = softmaxes
    edges_x, edges_y = _lower_edges(widths, bound), _lower_edges(heights, bound)
    place = _bin(index, edges_x, widths, edges_y, heights, slopes, bound)
    theta, s = _theta(u, place, inverse)
    grad_log = per_sample(grad_log_det, grad) * inside
    grad_u, grads = _local_gradients(grad * inside, grad_log, place, theta, s, inverse)
    grad_parameters = empty_with(parameters, parameters.shape, x.dtype)
    _raw_gradients(grads, place, softmaxes, index, bound, _per_bin(grad_parameters, active, bins))
    grad_active = grad_u.addcmul_(grad, 1 - inside)
    return grad_active.to(active.dtype), grad_parameters.to(parameters.dtype)


def _softmaxes(parameters: Tensor, like: Tensor, bins: int) -> tuple[Tensor, Tensor, Tensor]:
    """Softmax of raw widths and heights, and the raw slopes: (B, K or K - 1, A, ...)."""
    raw = _per_bin(parameters, like, bins)
    raw = raw.to(widened(torch.promote_types(raw.dtype, like.dtype)))
    widths, heights, slopes = raw.split((bins, bins, bins - 1), dim=1)
    return widths.softmax(1), heights.softmax(1), slopes


def _per_bin(parameters: Tensor, like: Tensor, bins: int) -> Tensor:
    return parameters.unflatten(1, (3 * bins - 1, like.shape[1]))


def _lower_edges(softmax: Tensor, bound: float) -> Tensor:
    """-bound + Σ_{i<k} (min + share · softmax_i) · 2 bound, for all k: (B, K, A, ...)."""
    edges, bins = torch.empty_like(softmax), softmax.shape[1]
    edges[:, 0] = -bound
    for k in range(1, bins):
        torch.add(edges[:, k - 1], softmax[:, k - 1], alpha=_spread(bins, bound), out=edges[:, k])
    least = torch.arange(bins, dtype=edges.dtype, device=edges.device) * (2 * bound * MIN_SIZE)
    return edges.add_(least.view(1, -1, *[1] * (edges.dim() - 2)))


def _spread(bins: int, bound: float) -> float:
    """What a softmax is multiplied by in a bin's size."""
    return 2 * bound * (1 - MIN_SIZE * bins)


def _bin(
    index: Tensor,
    edges_x: Tensor,
    widths: Tensor,
    edges_y: Tensor,
    heights: Tensor,
    slopes: Tensor,
    bound: float,
) -> Bin:
    bins = widths.shape[1]
    x0, width, y0, height = (
        values.gather(1, index).squeeze(1) for values in (edges_x, widths, edges_y, heights)
    )
    for size in (width, height):
        size.mul_(_spread(bins, bound)).add_(2 * bound * MIN_SIZE)
    d0, d1 = (_slope(slopes, index.sub(1 - end), end) for end in (0, 1))
    return Bin(x0, width, y0, height, d0, d1)


def _slope(slopes: Tensor, index: Tensor, end: int) -> Tensor:
    """The slope at an inner edge, by its index; 1 at both bounds."""
    count = slopes.shape[1]
    if not count:
        return torch.ones_like(index.squeeze(1), dtype=slopes.dtype)
    raw = slopes.gather(1, index.clamp(0, count - 1)).mul_(
        index >= 0 if end == 0 else index < count
    )
    return softplus(raw.squeeze(1).add_(UNIT_SLOPE)).add_(MIN_SLOPE)


def _theta(u: Tensor, place: Bin, inverse: bool) -> tuple[Tensor, Tensor]:
    """θ in [0, 1] and s = h/w."""
    s = place.height / place.width
    if inverse:
        share = (u - place.y0).div_(place.height).clamp_(0, 1)
        theta = reference_spline.root(share, s, place.d0, place.d0 + place.d1 - 2 * s)
    else:
        theta = (u - place.x0).div_(place.width)
    return theta.clamp_(0, 1), s


def _denominator(place: Bin, s: Tensor, t: Tensor) -> Tensor:
    """D."""
    return (place.d0 + place.d1).sub_(s, alpha=2).mul_(t).add_(s)


def _mean_slope(place: Bin, s: Tensor, theta: Tensor, t: Tensor) -> Tensor:
    """M."""
    ends = theta.square().mul_(place.d1).addcmul_(place.d0, (1 - theta).square_())
    return ends.addcmul_(s, t, value=2)


def _local_gradients(
    grad_y: Tensor, grad_log: Tensor, place: Bin, theta: Tensor, s: Tensor, inverse: bool
) -> tuple[Tensor, Bin]:
    """The gradient of x (inverse: of y), and those of the bin's numbers."""
    _, width, _, height, d0, d1 = place
    rest = 1 - theta
    t = theta * rest
    denominator = _denominator(place, s, t)
    mean = _mean_slope(place, s, theta, t)
    numerator = theta.square().mul_(s).addcmul_(d0, t)
    bend = (d0 + d1).sub_(s, alpha=2)
    # Derivatives of L by θ, through M and through D.
    mean_theta = (d1 * theta).sub_(d0 * rest).add_(s * (1 - 2 * theta)).mul_(2)
    log_theta = mean_theta.div_(mean).sub_((1 - 2 * theta).mul_(bend).div_(denominator).mul_(2))
    y_theta = height * mean * s / denominator.square()
    if inverse:
        # g_y = (g_x - g_L L_x) / y_x; what follows sees -g_y and -g_L.
        grad_log = -grad_log
        grad_y = -(grad_y * width).addcmul_(grad_log, log_theta).div_(y_theta)
    grad_theta = (grad_y * y_theta).addcmul_(grad_log, log_theta)
    scale = grad_y * height / denominator.square()
    by_mean, by_denominator = grad_log / mean, grad_log / denominator * 2
    grad_s = scale * (theta.square() * denominator - numerator * (1 - 2 * t))
    grad_s += 2 * (grad_log / s + by_mean * t) - by_denominator * (1 - 2 * t)
    grad_d0 = scale * t * (denominator - numerator) + by_mean * rest.square() - by_denominator * t
    grad_d1 = -scale * t * numerator + by_mean * theta.square() - by_denominator * t
    grad_x = grad_theta / width
    grad_width = -(grad_x * theta) - grad_s * s / width
    grad_height = grad_y * numerator / denominator + grad_s / width
    grads = Bin(-grad_x, grad_width, grad_y, grad_height, grad_d0, grad_d1)
    return -grad_y if inverse else grad_x, grads


def _raw_gradients(
    grads: Bin,
    place: Bin,
    softmaxes: tuple[Tensor, Tensor, Tensor],
    index: Tensor,
    bound: float,
    out: Tensor,
) -> None:
    """Gradients of all raw numbers, (B, 3K-1, A, ...)."""
    widths, heights, _ = softmaxes
    bins = widths.shape[1]
    to_widths, to_heights, to_slopes = out.split((bins, bins, bins - 1), dim=1)
    order = torch.arange(bins, device=index.device).view(1, -1, *[1] * (index.dim() - 2))
    before = (index > order).to(widths.dtype)
    spread = _spread(bins, bound)
    _size_gradients(grads.x0 * spread, grads.width * spread, widths, index, before, to_widths)
    _size_gradients(grads.y0 * spread, grads.height * spread, heights, index, before, to_heights)
    if bins > 1:
        to_slopes.zero_()
        for edge, grad, slope in ((index - 1, grads.d0, place.d0), (index, grads.d1, place.d1)):
            # The derivative of softplus is 1 - e^-softplus; slopes at the bounds are given.
            raised = (MIN_SLOPE - slope).expm1_().neg_().mul_(grad)[:, None]
            raised.mul_((edge >= 0) & (edge < bins - 1))
            to_slopes.scatter_add_(1, edge.clamp(0, bins - 2), raised)


def _size_gradients(
    by_edge: Tensor, by_size: Tensor, softmax: Tensor, index: Tensor, before: Tensor, out: Tensor
) -> None:
    """softmax_j (G_j - Σ_i G_i softmax_i), G_j: by_edge before the bin, by_size in it, 0 behind."""
    torch.mul(before, by_edge[:, None], out=out)
    out.scatter_add_(1, index, by_size[:, None])
    out.mul_(softmax)
    out.addcmul_(softmax, out.sum(1, keepdim=True), value=-1)


def _fake(
    active: Tensor, parameters: Tensor, passive: Tensor | None, active_first: bool, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = torch.promote_types(active.dtype, parameters.dtype)
    out, _mapped = room(active, passive, active_first, dtype)
    log_det = active.new_empty(len(active), dtype=widened(dtype))
    index = torch.empty_like(active, dtype=torch.int64, memory_format=torch.contiguous_format)
    return out, log_det, index[:, None]


def _fake_backward(
    grad: Tensor, grad_log_det: Tensor, active: Tensor, index: Tensor, parameters: Tensor, *_: Any
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(grad, dtype=active.dtype), empty_with(parameters, parameters.shape)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    active, parameters, passive, active_first, *ctx.settings = inputs
    size, rest = active.shape[1], 0 if passive is None else passive.shape[1]
    ctx.passive_start, ctx.active_start = (size, 0) if active_first else (0, rest)
    ctx.rest = rest
    ctx.mark_non_differentiable(output[2])
    ctx.save_for_backward(active, parameters, output[2])
    ctx.set_materialize_grads(False)


def _backward(
    ctx: Any, grad_y: Tensor | None, grad_log_det: Tensor | None, _: None
) -> tuple[Tensor | None, ...]:
    active, parameters, index = ctx.saved_tensors
    size = active.shape[1]
    if grad_log_det is None:
        grad_log_det = active.new_zeros(len(active), dtype=widened(active.dtype))
    if grad_y is None:
        grad, grad_passive = torch.zeros_like(active), None
    else:
        grad = grad_y.narrow(1, ctx.active_start, size)
        grad_passive = grad_y.narrow(1, ctx.passive_start, ctx.rest) if ctx.rest else None
    if differentiable():
        grads = _formula(grad, grad_log_det, active, parameters, *ctx.settings)
    else:
        grads = torch.ops.couplings.spline_couple_backward(
            grad, grad_log_det, active, index, parameters, *ctx.settings
        )
    return *grads, grad_passive, None, None, None, None


def _formula(
    grad: Tensor, grad_log_det: Tensor, active: Tensor, parameters: Tensor, *settings: Any
) -> tuple[Tensor, Tensor]:
    def alone(active: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        return reference_spline.spline_couple(active, parameters, None, False, *settings)

    outputs, vjp, *_ = torch.func.vjp(alone, active, parameters)
    grads: tuple[Tensor, Tensor] = vjp((grad.to(outputs[0].dtype), grad_log_det))
    return grads


define(
    "spline_couple",
    "(Tensor active, Tensor parameters, Tensor? passive, bool active_first, int bins, "
    "float bound, bool inverse) -> (Tensor y, Tensor log_det, Tensor index)",
    spline_couple,
    _fake,
    triton="triton_spline",
)
define(
    "spline_couple_backward",
    "(Tensor grad, Tensor grad_log_det, Tensor active, Tensor index, Tensor parameters, int bins, "
    "float bound, bool inverse) -> (Tensor, Tensor)",
    spline_couple_backward,
    _fake_backward,
    triton="triton_spline",
)
torch.library.register_autograd("couplings::spline_couple", _backward, setup_context=_setup)
