"""Spline couplings: the operator couplings::spline_couple, its functions and `RationalQuadratic`.

`spline_planes` has the formulas. Parameters (B, (3K-1) A, ...) are K raw widths, K raw heights and
K-1 raw inner slopes, each for all A numbers at once: in (B, 3K-1, A, ...) every bin is a contiguous
slice. The kernels see rows (R, 3K-1, n), where R = B and n = A · inner or, for channels-last
parameters, R = B · inner and n = A. They work on planes, one bin of all numbers each, so that a
step over the bins is one vectorised operation; and on some rows at a time, which bounds memory.

The backward computes the softmaxes again, so that only the inputs and the bins' indices are kept.
A second derivative differentiates the definition, `reference_spline`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from typing import Any

import torch
from torch import Tensor

from couplings.ops import reference_spline
from couplings.ops.dispatch import (
    Layout,
    allocate_halves,
    allocate_joined,
    backward_of,
    call,
    define,
    empty_laid_out_as,
    half_gradients,
    is_channels_last,
    joinable,
    operator_or,
    per_sample,
    readable,
    record_halves,
    sample_view,
    widened,
)
from couplings.ops.reference_spline import MIN_SIZE, UNIT_SLOPE
from couplings.ops.spline_planes import fill_gradients, fill_map, planes_of

# Numbers per thread to work on at a time: a plane of them is a quarter of a MiB. With fewer, idle
# cores are no faster, and on busy ones there are more operations that wait for the other threads.
_GRAIN = 2**16

# Of the compiled kernel: struct Spline of csrc/spline.h, and the bins with which the planes of a
# block stay in the first caches.
_STRUCT, _MOST_BINS = "6q3d", 64

# Of the kernels (y, log_det, index); their `settings` are bins, bound, inverse.
Kernel = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class RationalQuadratic:
    """Monotone rational-quadratic spline on [-bound, bound], the identity outside.

    Durkan et al., "Neural Spline Flows", 2019; see `couplings.functional.spline_couple`.

    Args:
        bins: K; 3K - 1 parameters a number.
        bound: half the width of the interval.

    Raises:
        ValueError: fewer than one bin or more than 999 (each is at least a thousandth wide), or a
            bound that is not positive and finite.
    """

    bins: int = 8
    bound: float = 5.0

    def __post_init__(self) -> None:
        if not (1 <= self.bins < 1000 and 0 < self.bound < inf):
            raise ValueError(
                "RationalQuadratic: expected 1 to 999 bins and a positive, finite bound, got "
                f"{self.bins} and {self.bound}"
            )

    @property
    def parameters_per_dim(self) -> int:
        """3K - 1."""
        return 3 * self.bins - 1

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Return y and log|dy/dx| summed to (B,)."""
        return spline_couple(x, parameters, self.bins, self.bound)

    def inverse(self, y: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Return x and log|dx/dy| summed to (B,)."""
        return spline_uncouple(y, parameters, self.bins, self.bound)

    def couple(
        self, active: Tensor, parameters: Tensor, passive: Tensor, active_first: bool, inverse: bool
    ) -> tuple[Tensor, Tensor]:
        """Map one half and write it beside the other, in one pass: see `FusedUnivariate`."""
        function = spline_uncouple if inverse else spline_couple
        return function(active, parameters, self.bins, self.bound, passive, active_first)


def spline_couple(
    active: Tensor,
    parameters: Tensor,
    bins: int,
    bound: float,
    passive: Tensor | None = None,
    active_first: bool = False,
) -> tuple[Tensor, Tensor]:
    """Apply a monotone rational-quadratic spline on [-bound, bound] to each active number.

    Outside of it, and for parameters of zero, the map is the identity. Widths and heights of the
    bins are 2·bound (0.001 + (1 - 0.001 K) softmax(raw)), inner slopes 0.001 + softplus(raw + c)
    with c such that raw zeros are slopes of 1; slopes at the bounds are 1. Twice differentiable.
    Under autocast y has the wider dtype of the two inputs; log_det is float32 or wider. NaN and raw
    numbers of +inf that take part give NaN; -inf is their limit, a bin of the least size.

    Durkan et al., "Neural Spline Flows", NeurIPS 2019, Sec. 3; the formulas: `ops.spline_planes`.

    Args:
        active: (B, A, ...).
        parameters: (B, (3K-1) A, ...): K raw widths of all A numbers (bin by bin), K raw heights,
            K-1 raw inner slopes.
        bins: K, at most 999.
        bound: half the width of the interval.
        passive, active_first: as for `affine_couple`.

    Returns:
        y (B, A + P, ...) and log_det (B,), nats.
    """
    return _spline(active, parameters, passive, active_first, bins, bound, False)


def spline_uncouple(
    active: Tensor,
    parameters: Tensor,
    bins: int,
    bound: float,
    passive: Tensor | None = None,
    active_first: bool = False,
) -> tuple[Tensor, Tensor]:
    """Invert `spline_couple`, in closed form; log_det is that of the inverse."""
    return _spline(active, parameters, passive, active_first, bins, bound, True)


def _spline(*arguments: Any) -> tuple[Tensor, Tensor]:
    y, log_det, *_ = operator_or(reference_spline.spline_couple, "spline_couple")(*arguments)
    return y, log_det


def eager_spline(
    active: Tensor, parameters: Tensor, passive: Tensor | None, active_first: bool, *settings: Any
) -> Kernel:
    """Compute `reference_spline.spline_couple`, and the bins' indices (B, 1, A, ...)."""
    bins, bound, inverse = settings
    dtype = torch.promote_types(active.dtype, parameters.dtype)
    x, raw = _rows(active, parameters, dtype), _per_bin(active, parameters, bins, dtype)
    y, log_slopes = torch.empty_like(x), x.new_empty(len(x))
    index = torch.empty_like(x, dtype=torch.int16)
    for rows, order in _chunks(x):
        outputs = y[rows], log_slopes[rows], index[rows]
        fill_map(x[rows], planes_of(raw[:, rows], bins), bound, inverse, order, *outputs)
    out, mapped = allocate_joined(active, passive, active_first, dtype)
    mapped.copy_(_unrowed(y, active, parameters))
    log_det = log_slopes.view(len(active), len(x) // max(len(active), 1)).sum(1)
    return out, log_det, _unrowed(index, active, parameters).contiguous()[:, None]


def eager_spline_backward(
    grad: Tensor,
    grad_log_det: Tensor,
    active: Tensor,
    index: Tensor,
    parameters: Tensor,
    *settings: Any,
) -> tuple[Tensor, Tensor]:
    """Return (g_active, g_parameters) of the active half.

    For the inverse x(y, p) the implicit function theorem turns the gradients of x and of -L into
    that of y; the parameters then get the forward's gradients for minus that.
    """
    bins, bound, inverse = settings
    dtype = torch.promote_types(active.dtype, parameters.dtype)
    x, raw = _rows(active, parameters, dtype), _per_bin(active, parameters, bins, dtype)
    grad_y, places = _rows(grad, parameters, dtype), _rows(index[:, 0], parameters)
    grad_log = _rows(per_sample(grad_log_det, grad).expand_as(grad), parameters, dtype)
    grad_parameters = empty_laid_out_as(parameters, parameters.shape, x.dtype)
    out = _per_bin(active, grad_parameters, bins, dtype)
    grad_x = torch.empty_like(x)
    for rows, order in _chunks(x):
        planes, numbers = planes_of(raw[:, rows], bins), (x[rows], places[rows])
        upstream = grad_y[rows], grad_log[rows]
        grad_x[rows] = fill_gradients(
            *upstream, *numbers, planes, bound, inverse, order, out[:, rows]
        )
    grad_active = _unrowed(grad_x, active, parameters)
    return grad_active.to(active.dtype), grad_parameters.to(parameters.dtype)


def compiled_spline(
    active: Tensor, parameters: Tensor, passive: Tensor | None, active_first: bool, *settings: Any
) -> Kernel:
    """Compute what `eager_spline` does, in one pass."""
    inputs = (active, parameters) if passive is None else (active, parameters, passive)
    fits = _fits(active, parameters, *settings) and joinable(active, passive)
    if not (fits and readable(*inputs)):
        return eager_spline(active, parameters, passive, active_first, *settings)
    dtype = torch.promote_types(active.dtype, parameters.dtype)
    wide, layout = widened(dtype), Layout(is_channels_last(parameters))
    out, mapped, rest = allocate_halves(active, passive, active_first, dtype)
    log_det = active.new_empty(len(active), dtype=wide)
    index = active.new_empty(active.shape, dtype=torch.int16)
    call(
        *("spline_couple", wide, _STRUCT + "37q"),
        *_struct(layout, active, *settings),
        *((0, 0) if passive is None else layout.shape(passive)),
        *layout.views(active, parameters, passive, mapped, rest),
        *sample_view(log_det),
        *layout.views(index),
    )
    return out, log_det, index[:, None]


def compiled_spline_backward(
    grad: Tensor,
    grad_log_det: Tensor,
    active: Tensor,
    index: Tensor,
    parameters: Tensor,
    *settings: Any,
) -> tuple[Tensor, Tensor]:
    """Compute what `eager_spline_backward` does, in one pass.

    It searches the bins again, which takes less time than to read their indices.
    """
    inputs = (grad, grad_log_det, active, parameters)
    if not (_fits(active, parameters, *settings) and readable(*inputs)):
        return eager_spline_backward(grad, grad_log_det, active, index, parameters, *settings)
    dtype = widened(torch.promote_types(active.dtype, parameters.dtype))
    layout = Layout(is_channels_last(parameters))
    grad_active = empty_laid_out_as(active, active.shape)
    grad_parameters = empty_laid_out_as(parameters, parameters.shape)
    call(
        *("spline_couple_backward", dtype, _STRUCT + "30q"),
        *_struct(layout, active, *settings),
        *layout.views(grad),
        *sample_view(grad_log_det),
        *layout.views(active, parameters, grad_active, grad_parameters),
    )
    return grad_active, grad_parameters


def _fits(active: Tensor, parameters: Tensor, bins: int, *_: Any) -> bool:
    shape = (len(active), (3 * bins - 1) * active.shape[1], *active.shape[2:])
    return bins <= _MOST_BINS and parameters.shape == shape


def _struct(
    layout: Layout, active: Tensor, bins: int, bound: float, inverse: bool
) -> tuple[float, ...]:
    sizes = len(active), *layout.shape(active)
    return *sizes, bins, inverse, layout.channels_last, bound, MIN_SIZE, UNIT_SLOPE


def _rows(values: Tensor, parameters: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Return (B, A, ...) as dense (R, n) in the order of the parameters, float32 or wider."""
    values = values if dtype is None else values.to(widened(dtype))
    if is_channels_last(parameters):
        return values.movedim(1, -1).reshape(-1, values.shape[1]).contiguous()
    return values.reshape(len(values), values.shape[1:].numel()).contiguous()


def _unrowed(rows: Tensor, like: Tensor, parameters: Tensor) -> Tensor:
    """Invert `_rows`: a view with the shape of `like`."""
    if is_channels_last(parameters):
        return rows.view(like.movedim(1, -1).shape).movedim(-1, 1)
    return rows.view(like.shape)


def _per_bin(active: Tensor, parameters: Tensor, bins: int, dtype: torch.dtype) -> Tensor:
    """Return (3K-1, R, n), float32 or wider; a view of dense parameters."""
    parameters, count = parameters.to(widened(dtype)), 3 * bins - 1
    if is_channels_last(parameters):
        rows = parameters.movedim(1, -1).contiguous()
        shape = rows.shape[:-1].numel(), count, active.shape[1]
    else:
        rows = parameters.contiguous()
        shape = len(active), count, active.shape[1:].numel()
    return rows.view(shape).transpose(0, 1)


def _chunks(x: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield slices of rows to work on at a time, and 0, 1, 2, … for the numbers in each."""
    rows, size = x.shape
    chunk = _GRAIN * torch.get_num_threads() if x.device.type == "cpu" else x.numel()
    step = max(1, -(-rows // max(1, -(-x.numel() // max(1, chunk)))))
    order = torch.arange(step * size, device=x.device)
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        yield slice(start, stop), order[: (stop - start) * size]


def _fake(
    active: Tensor, parameters: Tensor, passive: Tensor | None, active_first: bool, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = torch.promote_types(active.dtype, parameters.dtype)
    out, _mapped = allocate_joined(active, passive, active_first, dtype)
    log_det = active.new_empty(len(active), dtype=widened(dtype))
    index = torch.empty_like(active, dtype=torch.int16, memory_format=torch.contiguous_format)
    return out, log_det, index[:, None]


def _fake_backward(
    grad: Tensor, grad_log_det: Tensor, active: Tensor, index: Tensor, parameters: Tensor, *_: Any
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(grad, dtype=active.dtype), empty_laid_out_as(
        parameters, parameters.shape
    )


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Kernel) -> None:
    active, parameters, passive, active_first, *ctx.settings = inputs
    record_halves(ctx, active, passive, active_first)
    ctx.mark_non_differentiable(output[2])
    ctx.save_for_backward(active, parameters, output[2])


def _backward(
    ctx: Any, grad_y: Tensor | None, grad_log_det: Tensor | None, _: None
) -> tuple[Tensor | None, ...]:
    active, parameters, index = ctx.saved_tensors
    grad, grad_log_det, grad_passive = half_gradients(ctx, grad_y, grad_log_det, active)
    operator = backward_of(_formula, "spline_couple_backward")
    grads = operator(grad, grad_log_det, active, index, parameters, *ctx.settings)
    return *grads, grad_passive, None, None, None, None


def _formula(
    grad: Tensor,
    grad_log_det: Tensor,
    active: Tensor,
    index: Tensor,
    parameters: Tensor,
    *settings: Any,
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
    eager_spline,
    _fake,
    triton="triton_spline",
    compiled=compiled_spline,
    setup=_setup,
    backward=_backward,
)
define(
    "spline_couple_backward",
    "(Tensor grad, Tensor grad_log_det, Tensor active, Tensor index, Tensor parameters, int bins, "
    "float bound, bool inverse) -> (Tensor, Tensor)",
    eager_spline_backward,
    _fake_backward,
    triton="triton_spline",
    compiled=compiled_spline_backward,
)
