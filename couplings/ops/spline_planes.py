"""Rational-quadratic splines in planes: one bin of all numbers at a time, and its gradients.

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
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from couplings.ops import reference_spline
from couplings.ops.reference_spline import MIN_SIZE, UNIT_SLOPE


class Planes(NamedTuple):
    """Parameters of r rows, bin by bin, contiguous.

    Attributes:
        exps: the terms of both softmaxes, before normalisation, (2, K, r, n).
        slopes: raw slopes at all edges, zero at the bounds, (K + 1, r, n).
    """

    exps: Tensor
    slopes: Tensor


class Bin(NamedTuple):
    """Bin that each number falls into, (2, r, n) each: of x and y, or of both ends.

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
    """Terms of the formulas above: θ, r, t, θ², r², a, b, 1/D and M, (r, n) each."""

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
        """Return N/D."""
        return torch.addcmul(self.theta2, self.a, self.t).mul_(self.inverse_d)


def fill_map(
    x: Tensor,
    planes: Planes,
    bound: float,
    inverse: bool,
    order: Tensor,
    y: Tensor,
    log_slopes: Tensor,
    index: Tensor,
) -> None:
    """Fill y, log_slopes and index for rows x (r, n); log_slopes (r,) has the sum of each row."""
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


def fill_gradients(
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
    """Return the gradient of rows x (r, n); fill that of their parameters, out (3K-1, r, n)."""
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


def planes_of(raw: Tensor, bins: int) -> Planes:
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
    """Return the sums of none, one, … all K terms: (2, K + 1, r, n)."""
    groups, bins, *shape = exps.shape
    sums = exps.new_empty(groups, bins + 1, *shape)
    sums[:, 0].zero_()
    for k in range(bins):
        torch.add(sums[:, k], exps[:, k], out=sums[:, k + 1])
    return sums


def _search(u: Tensor, sums: Tensor, bound: float) -> Tensor:
    """Count the inner edges at or before u, (r, n), int64; compared in units of the sum."""
    bins, total = len(sums) - 1, sums[-1]
    position = (u + bound).mul_(total).mul_(1 / _spread(bins, bound))
    least = total * (MIN_SIZE / (1 - MIN_SIZE * bins))
    edge = torch.arange(1, bins, dtype=u.dtype, device=u.device).view(-1, 1, 1)
    passed = sums[1:-1] <= torch.addcmul(position, edge, least, value=-1)
    # Summing bytes is four times as fast as summing booleans.
    counts = passed.view(torch.uint8).sum(0, dtype=torch.uint8 if bins < 256 else torch.int16)
    return counts.long()


def _places(index: Tensor, order: Tensor) -> Tensor:
    """Return where in the memory of planes the values of each number's bin lie."""
    return torch.add(order, index.view(-1), alpha=len(order))


def _pick(values: Tensor, at: Tensor, out: Tensor) -> None:
    """Pick one of the planes for each number; index_select is three times as fast as gather."""
    torch.index_select(values.view(-1), 0, at, out=out.view(-1))


def _pick_both(planes: Tensor, at: Tensor) -> Tensor:
    """Pick from two groups of planes, (2, K, r, n), to (2, r, n)."""
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
    """Return the factor of a softmax in the size of its bin."""
    return 2 * bound * (1 - MIN_SIZE * bins)


def root(share: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Compute `reference_spline.root` in few passes."""
    other = 1 - share
    lead = (a * other).addcmul_(b, share, value=-1)
    product = other.mul_(share).mul_(4)
    large = torch.addcmul(product, lead, lead).sqrt_().add_(lead.abs())
    rest = torch.lerp(large, product.div_(large), (lead < 0).to(lead.dtype))
    twice = 2 * share
    return twice.div_(rest.add_(twice))


def _curve(u: Tensor, place: Bin, inverse: bool) -> tuple[Curve, Tensor]:
    """Return the curve at x (inverse: y) = u, and s."""
    source = int(inverse)
    s = place.sizes[1] / place.sizes[0]
    a, b = (place.raised + reference_spline.least_slope(u)).div_(s)
    share = (u - place.edges[source]).div_(place.sizes[source]).clamp_(0, 1)
    theta = root(share, a, b) if inverse else share
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
    """Return gradients of x (inverse: of y), of (x0, y0), of (w, h) and of both raw slopes."""
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
    """Compute dL/dθ = M'/M - 2 D'/D."""
    slant = curve.rest - curve.theta
    by_m = (curve.b * curve.theta).addcmul_(curve.a, curve.rest, value=-1).add_(slant)
    by_d = (curve.a + curve.b).sub_(2).mul_(slant).mul_(curve.inverse_d)
    return by_m.mul_(inverse_m).sub_(by_d).mul_(2)


def _by_relative_slopes(
    curve: Curve, rise: Tensor, grad_rise: Tensor, grad_log: Tensor, inverse_m: Tensor
) -> tuple[Tensor, Tensor]:
    """Return gradients of a and b from those of N/D and L."""
    weight = curve.inverse_d * curve.t
    common = (grad_log * weight).mul_(-2)
    weight.mul_(grad_rise)
    by_m = grad_log * inverse_m
    by_a = torch.addcmul(common, weight, 1 - rise).addcmul_(by_m, curve.rest2)
    return by_a, common.addcmul_(weight, rise, value=-1).addcmul_(by_m, curve.theta2)


def _before(index: Tensor, bins: int, dtype: torch.dtype) -> Tensor:
    """Return 1 for the bins below that of each number, else 0: (K, r, n)."""
    order = torch.arange(bins, dtype=dtype, device=index.device).view(-1, 1, 1)
    return (index.to(dtype) - order).clamp_(0, 1)


def _scatter_slopes(planes: Tensor, at: Tensor, gradients: Tensor, out: Tensor) -> None:
    """Fill `out`: zeros but at both ends of the bin; the planes (K + 1, r, n) are overwritten."""
    planes.zero_()
    for end in (0, 1):
        planes[end:].view(-1).scatter_(0, at, gradients[end].view(-1))
    out.copy_(planes[1:-1])
