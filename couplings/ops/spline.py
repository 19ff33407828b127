"""couplings::spline_couple, a monotone rational-quadratic spline coupling, and its backward.

In the bin [x0, x0 + w] -> [y0, y0 + h] with slopes d0, d1 at its ends, let θ = (x - x0)/w,
r = 1 - θ, t = θ r, s = h/w, a = d0/s and b = d1/s. With these relative slopes Eqs. 4-8 of Durkan
et al., "Neural Spline Flows", NeurIPS 2019, are sums of positive terms, in which nothing cancels:

    N = θ² + a t,   D = θ² + r² + (a + b) t,   M = b θ² + 2 t + a r²
    y = y0 + h N/D,   L = log dy/dx = log (s M/D²)

As θ² + 2t + r² = 1, with the least c of 1, a and b also (and D >= 1/2)

    D = 1 + (a + b - 2) t,   M = c + (b - c) θ² + 2 (1 - c) t + (a - c) r²

which are computed: of the identity, where all are 1, nothing is rounded, and so its L is exactly 0
however many layers add up.

`reference_spline.root` is the inverse's θ. Outside of [-bound, bound] the map is the identity,
which the numbers at the bound continue.

Parameters (B, (3K-1) A, ...) are K raw widths, K raw heights and K-1 raw inner slopes, each for all
A numbers at once: in (B, 3K-1, A, ...) every bin is a contiguous slice. The kernels see rows
(R, 3K-1, n), where R = B and n = A · inner or, for channels-last parameters, R = B · inner and
n = A. They work on planes, one bin of all numbers each, so that a step over the bins is one
vectorised operation; and on some rows at a time, which bounds what they need of memory.

The backward computes the softmaxes again, so that only the inputs and the bins' indices are kept.
A second derivative differentiates the definition, `reference_spline`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from couplings.ops import reference_spline
from couplings.ops.dispatch import define, differentiable, widened
from couplings.ops.layout import empty_with, is_channels_last, per_sample, room
from couplings.ops.reference_spline import MIN_SIZE, UNIT_SLOPE

__all__ = ["spline_couple", "spline_couple_backward"]

# Numbers per thread to work on at a time: a plane of them is a quarter of a MiB. With fewer, idle
# cores are no faster, and on busy ones there are more operations that wait for the other threads.
_GRAIN = 2**16

Kernel = tuple[Tensor, Tensor, Tensor]


class Planes(NamedTuple):
    """The parameters of r rows, bin by bin, contiguous.

    Attributes:
        exps: the terms of both softmaxes, before normalisation, (2, K, r, n).
        slopes: raw slopes at all edges, zero at the bounds, (K + 1, r, n).
    """

    exps: Tensor
    slopes: Tensor


class Bin(NamedTuple):
    """The bin that each number falls into, (2, r, n) each: of x and y, or of both ends.

    Attributes:
        softmax: its share in both softmaxes.
        below: the shares of the bins below it.
        sizes: w and h.
        edges: x0 and y0.
        raised: slopes at its ends less the least slope.
    """

    softmax: Tensor
    below: Tensor
    sizes: Tensor
    edges: Tensor
    raised: Tensor


class Curve(NamedTuple):
    """Of formulas above: θ, r, t, θ², r², a, b, 1/D and M, (r, n) each."""

    theta: Tensor
    rest: Tensor
    t: Tensor
    theta2: Tensor
    rest2: Tensor
    a: Tensor
    b: Tensor
    inverse_d: Tensor
    m: Tensor

    def rise(self) -> Tensor:
        """N/D."""
        return torch.addcmul(self.theta2, self.a, self.t).mul_(self.inverse_d)


def spline_couple(
    active: Tensor,
    parameters: Tensor,
    passive: Tensor | None,
    active_first: bool,
    bins: int,
    bound: float,
    inverse: bool,
) -> Kernel:
    """(y, log_det) of `reference_spline.spline_couple`, and the bins' indices (B, 1, A, ...)."""
    dtype = torch.promote_types(active.dtype, parameters.dtype)
    x, raw = _rows(active, parameters, dtype), _per_bin(active, parameters, bins, dtype)
    y, log_slopes = torch.empty_like(x), x.new_empty(len(x))
    index = torch.empty_like(x, dtype=torch.int64)
    for rows, order in _chunks(x):
        outputs = y[rows], log_slopes[rows], index[rows]
        _map(x[rows], _planes(raw[:, rows], bins), bound, inverse, order, *outputs)
    out, mapped = room(active, passive, active_first, dtype)
    mapped.copy_(_unrowed(y, active, parameters))
    log_det = log_slopes.view(len(active), len(x) // max(len(active), 1)).sum(1)
    return out, log_det, _unrowed(index, active, parameters).contiguous()[:, None]


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
    dtype = torch.promote_types(active.dtype, parameters.dtype)
    x, raw = _rows(active, parameters, dtype), _per_bin(active, parameters, bins, dtype)
    grad_y, places = _rows(grad, parameters, dtype), _rows(index[:, 0], parameters)
    grad_log = _rows(per_sample(grad_log_det, grad).expand_as(grad), parameters, dtype)
    grad_parameters = empty_with(parameters, parameters.shape, x.dtype)
    out = _per_bin(active, grad_parameters, bins, dtype)
    grad_x = torch.empty_like(x)
    for rows, order in _chunks(x):
        planes, numbers = _planes(raw[:, rows], bins), (x[rows], places[rows])
        upstream = grad_y[rows], grad_log[rows]
        grad_x[rows] = _gradients(*upstream, *numbers, planes, bound, inverse, order, out[:, rows])
    grad_active = _unrowed(grad_x, active, parameters)
    return grad_active.to(active.dtype), grad_parameters.to(parameters.dtype)


def _map(
    x: Tensor,
    planes: Planes,
    bound: float,
    inverse: bool,
    order: Tensor,
    y: Tensor,
    log_slopes: Tensor,
    index: Tensor,
) -> None:
    """Fills the last three for rows x (r, n); log_slopes (r,) has the sum of each row."""
    u, sums = x.clamp(-bound, bound), _running_sums(planes.exps)
    index.copy_(_search(u, sums[int(inverse)], bound))
    place = _bin(planes, sums, index, _places(index, order), bound)
    curve, s = _curve(u, place, inverse)
    rise, target = (curve.theta, 0) if inverse else (curve.rise(), 1)
    value = place.edges[target].addcmul_(rise, place.sizes[target])
    log_slope = s.mul_(curve.m).mul_(curve.inverse_d).mul_(curve.inverse_d).log_()
    # What is not finite must not pass for a number in the tails: 0 · x keeps it. Products with
    # `inside`, not torch.where: branches that cannot be predicted cost four times as much.
    inside = (u == x).to(x.dtype)
    torch.sum(log_slope.mul_(inside).add_(x, alpha=0), 1, out=log_slopes)
    if inverse:
        log_slopes.neg_()
    y.copy_(value.mul_(inside).addcmul_(x, 1 - inside))


def _gradients(
    grad: Tensor,
    grad_log: Tensor,
    x: Tensor,
    index: Tensor,
    planes: Planes,
    bound: float,
    inverse: bool,
    order: Tensor,
    out: Tensor,
) -> Tensor:
    """The gradient of rows x (r, n); fills that of their parameters, out (3K-1, r, n)."""
    bins = planes.exps.shape[1]
    u, sums, at = x.clamp(-bound, bound), _running_sums(planes.exps), _places(index, order)
    inside = (u == x).to(x.dtype)
    place = _bin(planes, sums, index, at, bound)
    grad_x, by_edges, by_sizes, by_slopes = _local_gradients(
        grad * inside, grad_log * inside, u, place, inverse
    )
    spread = _spread(bins, bound)
    before = _before(index, bins, x.dtype)
    for group, (edge, size) in enumerate(zip(by_edges, by_sizes, strict=True)):
        to = out[group * bins : (group + 1) * bins]
        total = sums[group, -1]
        mean = (edge * place.below[group]).addcmul_(size, place.softmax[group])
        at_bin = size.sub_(mean).mul_(spread).div_(total)
        edge, mean = edge.mul(spread).div_(total), mean.mul_(spread).div_(total)
        factors = torch.mul(before, edge).sub_(mean)
        factors.view(-1).scatter_(0, at, at_bin.view(-1))
        torch.mul(factors, planes.exps[group], out=to)
    _scatter_slopes(planes.slopes, at, by_slopes, out[2 * bins :])
    return grad_x.mul_(inside).addcmul_(grad, 1 - inside)


def _rows(values: Tensor, parameters: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """(B, A, ...) as (R, n) in the order of the parameters' memory, float32 or wider."""
    values = values if dtype is None else values.to(widened(dtype))
    if is_channels_last(parameters):
        return values.movedim(1, -1).reshape(-1, values.shape[1])
    return values.reshape(len(values), values.shape[1:].numel())


def _unrowed(rows: Tensor, like: Tensor, parameters: Tensor) -> Tensor:
    """The inverse of `_rows`: a view with the shape of `like`."""
    if is_channels_last(parameters):
        return rows.view(like.movedim(1, -1).shape).movedim(-1, 1)
    return rows.view(like.shape)


def _per_bin(active: Tensor, parameters: Tensor, bins: int, dtype: torch.dtype) -> Tensor:
    """(3K-1, R, n), float32 or wider; a view of dense parameters."""
    parameters, count = parameters.to(widened(dtype)), 3 * bins - 1
    if is_channels_last(parameters):
        rows = parameters.movedim(1, -1).contiguous()
        shape = rows.shape[:-1].numel(), count, active.shape[1]
    else:
        rows = parameters.contiguous()
        shape = len(active), count, active.shape[1:].numel()
    return rows.view(shape).transpose(0, 1)


def _chunks(x: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Slices of the rows to work on at a time, and 0, 1, 2, … for the numbers in each."""
    rows, size = x.shape
    chunk = _GRAIN * torch.get_num_threads() if x.device.type == "cpu" else x.numel()
    step = max(1, -(-rows // max(1, -(-x.numel() // max(1, chunk)))))
    order = torch.arange(step * size, device=x.device)
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        yield slice(start, stop), order[: (stop - start) * size]


def _planes(raw: Tensor, bins: int) -> Planes:
    shape = raw.shape[1:]
    planes = raw.new_empty(3 * bins + 1, *shape)
    planes[: 2 * bins].copy_(raw[: 2 * bins])
    slopes = planes[2 * bins :]
    slopes[0].zero_()
    slopes[1:-1].copy_(raw[2 * bins :])
    slopes[-1].zero_()
    exps = planes[: 2 * bins].view(2, bins, *shape)
    return Planes(exps.sub_(exps.amax(1, keepdim=True)).exp_(), slopes)


def _running_sums(exps: Tensor) -> Tensor:
    """Sums of none, one, … all K terms: (2, K + 1, r, n)."""
    groups, bins, *shape = exps.shape
    sums = exps.new_empty(groups, bins + 1, *shape)
    sums[:, 0].zero_()
    for k in range(bins):
        torch.add(sums[:, k], exps[:, k], out=sums[:, k + 1])
    return sums


def _search(u: Tensor, sums: Tensor, bound: float) -> Tensor:
    """How many inner edges lie at or before u, (r, n), int64; compared in the sum's units."""
    bins, total = len(sums) - 1, sums[-1]
    position = (u + bound).mul_(total).mul_(1 / _spread(bins, bound))
    least = total * (MIN_SIZE / (1 - MIN_SIZE * bins))
    edge = torch.arange(1, bins, dtype=u.dtype, device=u.device).view(-1, 1, 1)
    passed = sums[1:-1] <= torch.addcmul(position, edge, least, value=-1)
    # Summing bytes is four times as fast as summing booleans.
    counts = passed.view(torch.uint8).sum(0, dtype=torch.uint8 if bins < 256 else torch.int16)
    return counts.long()


def _places(index: Tensor, order: Tensor) -> Tensor:
    """Where the bin's values lie in the memory of planes."""
    return index.view(-1).mul(len(order)).add_(order)


def _pick(values: Tensor, at: Tensor, out: Tensor) -> None:
    """One of the planes for each number; index_select is three times as fast as gather."""
    torch.index_select(values.view(-1), 0, at, out=out.view(-1))


def _pick_both(planes: Tensor, at: Tensor) -> Tensor:
    """Of two groups of planes, (2, K, r, n), to (2, r, n)."""
    out = planes.new_empty(2, *planes.shape[2:])
    for group, chosen in zip(planes, out, strict=True):
        _pick(group, at, chosen)
    return out


def _bin(planes: Planes, sums: Tensor, index: Tensor, at: Tensor, bound: float) -> Bin:
    bins, totals = planes.exps.shape[1], sums[:, -1]
    softmax = _pick_both(planes.exps, at).div_(totals)
    below = _pick_both(sums[:, :-1], at).div_(totals)
    sizes = (softmax * _spread(bins, bound)).add_(2 * bound * MIN_SIZE)
    # With alpha the product is not rounded.
    least_below = index.to(sums.dtype).mul_(2 * bound * MIN_SIZE).sub_(bound)
    edges = torch.add(least_below, below, alpha=_spread(bins, bound))
    slopes = torch.empty_like(softmax)
    for end in (0, 1):
        _pick(planes.slopes[end:], at, slopes[end])
    return Bin(softmax, below, sizes, edges, softplus(slopes.add_(UNIT_SLOPE)))


def _spread(bins: int, bound: float) -> float:
    """What a softmax is multiplied by in a bin's size."""
    return 2 * bound * (1 - MIN_SIZE * bins)


def _root(share: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """`reference_spline.root` in few passes."""
    other = 1 - share
    lead = (a * other).addcmul_(b, share, value=-1)
    product = other.mul_(share).mul_(4)
    large = torch.addcmul(product, lead, lead).sqrt_().add_(lead.abs())
    rest = torch.lerp(large, product.div_(large), (lead < 0).to(lead.dtype))
    twice = 2 * share
    return twice.div_(rest.add_(twice))


def _curve(u: Tensor, place: Bin, inverse: bool) -> tuple[Curve, Tensor]:
    """The curve at x (inverse: y) = u, and s."""
    source = int(inverse)
    s = place.sizes[1] / place.sizes[0]
    a, b = (place.raised + reference_spline.least_slope(u)).div_(s)
    share = (u - place.edges[source]).div_(place.sizes[source]).clamp_(0, 1)
    theta = _root(share, a, b) if inverse else share
    rest = 1 - theta
    t, theta2, rest2 = theta * rest, theta.square(), rest.square()
    inverse_d = (a + b).sub_(2).mul_(t).add_(1).reciprocal_()
    least = torch.minimum(a, b).clamp_max_(1)
    m = torch.addcmul(least, b - least, theta2).addcmul_(a - least, rest2)
    m.addcmul_(least.neg_().add_(1), t, value=2)
    return Curve(theta, rest, t, theta2, rest2, a, b, inverse_d, m), s


def _local_gradients(
    grad_y: Tensor, grad_log: Tensor, u: Tensor, place: Bin, inverse: bool
) -> tuple[Tensor, tuple[Tensor, Tensor], tuple[Tensor, Tensor], Tensor]:
    """Gradients of x (inverse: of y), of (x0, y0), of (w, h) and of both raw slopes."""
    width, height = place.sizes
    curve, s = _curve(u, place, inverse)
    inverse_m, rise = curve.m.reciprocal(), curve.rise()
    slope = curve.m.mul_(curve.inverse_d).mul_(curve.inverse_d)
    log_theta = _log_slope_by_theta(curve, inverse_m)
    if inverse:
        # g_y = (g_x - g_L L_x) / y_x; what follows sees -g_y and -g_L.
        grad_log.neg_()
        grad_theta = (grad_y * width).neg_()
        grad_rise = torch.addcmul(grad_theta, grad_log, log_theta, value=-1).div_(slope)
        grad_y = grad_rise / height
    else:
        grad_rise = grad_y * height
        grad_theta = slope.mul_(grad_rise).addcmul_(grad_log, log_theta)
    by_a, by_b = _by_relative_slopes(curve, rise, grad_rise, grad_log, inverse_m)
    # s · g_s, at given d0 and d1.
    by_s = grad_log.addcmul_(by_a, curve.a, value=-1).addcmul_(by_b, curve.b, value=-1)
    grad_x = grad_theta / width
    grad_width = torch.addcmul(by_s, grad_theta, curve.theta).div_(width).neg_()
    grad_height = rise.mul_(grad_y).add_(by_s.div_(height))
    # The derivative of softplus is 1 - e^-softplus.
    by_slopes = torch.stack((by_a, by_b)).div_(s).mul_((-place.raised).expm1_().neg_())
    by_edges = (-grad_x, grad_y)
    return -grad_y if inverse else grad_x, by_edges, (grad_width, grad_height), by_slopes


def _log_slope_by_theta(curve: Curve, inverse_m: Tensor) -> Tensor:
    """dL/dθ = M'/M - 2 D'/D."""
    slant = curve.rest - curve.theta
    by_m = (curve.b * curve.theta).addcmul_(curve.a, curve.rest, value=-1).add_(slant)
    by_d = (curve.a + curve.b).sub_(2).mul_(slant).mul_(curve.inverse_d)
    return by_m.mul_(inverse_m).sub_(by_d).mul_(2)


def _by_relative_slopes(
    curve: Curve, rise: Tensor, grad_rise: Tensor, grad_log: Tensor, inverse_m: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of a and b from those of N/D and L."""
    weight = curve.inverse_d * curve.t
    common = (grad_log * weight).mul_(-2)
    weight.mul_(grad_rise)
    by_m = grad_log * inverse_m
    by_a = torch.addcmul(common, weight, 1 - rise).addcmul_(by_m, curve.rest2)
    return by_a, common.addcmul_(weight, rise, value=-1).addcmul_(by_m, curve.theta2)


def _before(index: Tensor, bins: int, dtype: torch.dtype) -> Tensor:
    """1 for the bins below the number's own, else 0: (K, r, n)."""
    order = torch.arange(bins, dtype=dtype, device=index.device).view(-1, 1, 1)
    return (index.to(dtype) - order).clamp_(0, 1)


def _scatter_slopes(planes: Tensor, at: Tensor, gradients: Tensor, out: Tensor) -> None:
    """Zero but at both ends of the bin; overwrites the planes (K + 1, r, n), bounds included."""
    planes.zero_()
    for end in (0, 1):
        planes[end:].view(-1).scatter_(0, at, gradients[end].view(-1))
    out.copy_(planes[1:-1])


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
