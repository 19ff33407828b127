"""couplings::spline_couple against its definition and nflows; stable where splines are not."""

from collections.abc import Callable
from typing import Any

import operators
import pytest
import torch
from nflows.transforms.splines.rational_quadratic import unconstrained_rational_quadratic_spline
from operators import (
    Function,
    assert_as_exact,
    both_ways,
    gradients_of,
    in_each_input,
    in_halves,
    in_layouts,
    not_finite,
)
from torch import Tensor

from couplings import RationalQuadratic
from couplings.functional import spline_couple, spline_uncouple
from couplings.ops import reference_spline, spline, spline_planes
from couplings.ops.reference_spline import UNIT_SLOPE

OPERATOR, DEFINITION = torch.ops.couplings.spline_couple, reference_spline.spline_couple
BINS, BOUND = 5, 3.0

both_functions = pytest.mark.parametrize("function", [OPERATOR, DEFINITION])


def draw(shape: tuple[int, ...], rest: int = 0, bins: int = BINS, **options: Any) -> list[Tensor]:
    """Draw x, a quarter of it in the tails; parameters; the passive half, where asked for."""
    x, *others = operators.coupled(shape, 3 * bins - 1, rest, **options)
    return [(2.5 * x).detach().requires_grad_(), *others]


def bound(function: Function, inverse: bool, first: bool = False, bins: int = BINS) -> Function:
    return operators.bound(function, first, bins, BOUND, inverse)


@both_ways
@in_halves
def test_derivatives_and_opcheck(rest: int, first: bool, inverse: bool) -> None:
    tensors = draw((2, 2, 1), rest)
    call = bound(OPERATOR, inverse, first)
    assert torch.autograd.gradcheck(call, tensors)
    assert torch.autograd.gradgradcheck(call, tensors)
    passive = tensors[2] if rest else None
    torch.library.opcheck(OPERATOR, (*tensors[:2], passive, first, BINS, BOUND, inverse))


@both_ways
@pytest.mark.parametrize("bins", [1, 2, 8, 64, 200])
def test_any_number_of_bins(bins: int, inverse: bool) -> None:
    tensors = draw((4, 3, 2), bins=bins)
    calls = (bound(function, inverse, bins=bins) for function in (OPERATOR, DEFINITION))
    torch.testing.assert_close(*(gradients_of(call, tensors) for call in calls))


@both_ways
@both_functions
def test_is_nflows_spline(function: Function, inverse: bool) -> None:
    x, raw = draw((64, 7))
    ours, log_det = bound(function, inverse)(x, raw)
    per_bin = raw.view(64, 3 * BINS - 1, 7).transpose(1, 2)
    widths, heights, slopes = per_bin.split((BINS, BINS, BINS - 1), dim=2)
    expected, log_slopes = unconstrained_rational_quadratic_spline(
        x, widths, heights, slopes + UNIT_SLOPE, inverse=inverse, tail_bound=BOUND
    )
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(log_det, log_slopes.sum(1))


@both_ways
@in_halves
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(5, 3, 7, 9), (1, 60), (0, 2, 3), (3, 17, 1, 5)], ids=str)
def test_as_exact_as_the_definition(
    shape: tuple[int, ...], dtype: torch.dtype, rest: int, first: bool, inverse: bool
) -> None:
    ours, plain = (bound(f, inverse, first) for f in (OPERATOR, DEFINITION))
    assert_as_exact(ours, plain, draw(shape, rest, dtype=dtype))


@both_ways
@pytest.mark.parametrize("bins", [5, 8])
def test_typical_errors_are_those_of_the_definition(bins: int, inverse: bool) -> None:
    """Compare quantiles over 20000 numbers, so that no single unlucky one decides."""
    tensors = draw((20_000, 1), dtype=torch.float32, bins=bins)

    def results(function: Function, dtype: torch.dtype) -> tuple[Tensor, ...]:
        inputs = [t.detach().to(dtype).requires_grad_() for t in tensors]
        outputs = bound(function, inverse, bins=bins)(*inputs)
        upstream = [torch.ones_like(out) for out in outputs]
        gradients = torch.autograd.grad(outputs, inputs, upstream)
        return tuple(t.detach() for t in (*outputs, *gradients))

    exact, plain = (results(DEFINITION, dtype) for dtype in (torch.float64, torch.float32))
    for truth, got, expected in zip(exact, results(OPERATOR, torch.float32), plain, strict=True):
        errors = (got - truth).abs(), (expected - truth).abs()
        for quantile in (0.5, 0.99):
            mine, theirs = (float(e.flatten()[:100_000].quantile(quantile)) for e in errors)
            assert mine <= 1.2 * theirs


@both_ways
def test_rows_are_worked_on_in_chunks(inverse: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    call = bound(OPERATOR, inverse)
    whole = gradients_of(call, draw((7, 3, 2)))
    monkeypatch.setattr(spline, "_GRAIN", 12)
    torch.testing.assert_close(gradients_of(call, draw((7, 3, 2))), whole)


@both_ways
@in_halves
@in_layouts
def test_any_layout(
    lay_out: Callable[[Tensor], Tensor], rest: int, first: bool, inverse: bool
) -> None:
    tensors, call = draw((2, 3, 4, 5), rest), bound(OPERATOR, inverse, first)
    laid_out = [lay_out(t).requires_grad_() for t in tensors]
    torch.testing.assert_close(gradients_of(call, laid_out), gradients_of(call, tensors))


@both_ways
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("size", [1, 5, 37, 150])
def test_zeros_are_the_identity(size: int, dtype: torch.dtype, inverse: bool) -> None:
    x, raw = draw((6, size), dtype=dtype)
    y, log_det = bound(OPERATOR, inverse)(x, torch.zeros_like(raw))
    torch.testing.assert_close(y, x)
    assert not bool(log_det.any())


@both_ways
@pytest.mark.parametrize("shape", [(300, 2), (9, 1, 7), (300, 1, 1, 1)], ids=str)
def test_samples_that_share_a_block_stay_apart(shape: tuple[int, ...], inverse: bool) -> None:
    tensors = draw(shape, rest=2)
    calls = (bound(function, inverse) for function in (OPERATOR, DEFINITION))
    torch.testing.assert_close(*(gradients_of(call, tensors) for call in calls))


def test_the_root_is_stable_at_its_hardest() -> None:
    """Check θ or its share to a few ulps: slopes up to 10¹² times apart, shares at both ends."""
    generator = torch.Generator().manual_seed(0)
    a, b = (10 ** (12 * torch.rand(2, 10_000, generator=generator) - 6)).unbind()
    share = torch.rand(10_000, generator=generator)
    share[:3000] *= 1e-6
    share[3000:3100], share[3100:3200] = 0, 1
    exact = reference_spline.root(share.double(), a.double(), b.double())
    for root in (reference_spline.root, spline_planes.root):
        theta = root(share, a, b).double()
        assert bool(((theta >= 0) & (theta <= 1)).all())
        t = theta * (1 - theta)
        rise = (theta.square() + a * t) / (1 - 2 * t + (a + b) * t)
        assert float(torch.minimum((theta - exact).abs(), (rise - share).abs()).max()) <= 5e-7


def test_the_tails_are_the_identity_exactly() -> None:
    _, raw = draw((3, 4), dtype=torch.float32)
    x = torch.tensor([[3.1, -3.1, 1e6, -1e30]]).expand(3, -1).clone().requires_grad_()
    y, log_det = spline_couple(x, raw, BINS, BOUND)
    assert torch.equal(y, x)
    assert not bool(log_det.any())
    gradients = torch.autograd.grad((y.sum() + log_det.sum()), (x, raw))
    assert torch.equal(gradients[0], torch.ones_like(x))
    assert not bool(gradients[1].any())


@both_ways
@both_functions
@in_each_input
@not_finite
def test_what_is_not_finite_stays_so(
    bad: float, position: int, function: Function, inverse: bool
) -> None:
    if position == 1 and bad == float("-inf"):
        pytest.skip("a raw width of -inf is a bin of least width")
    tensors = [t.detach() for t in draw((2, 3))]
    tensors[0] *= 0.1
    tensors[position][0, 0] = bad
    y, log_det = bound(function, inverse)(*tensors)
    assert not bool(y[0, 0].isfinite())
    assert bool(log_det[0].isnan())
    assert bool(y[1].isfinite().all())
    assert bool(log_det[1].isfinite())


def at_the_edges(raw: Tensor, size: int) -> Tensor:
    """Return every inner edge of every number's bins, and its two neighbours in float32."""
    widths = raw.view(len(raw), -1, size)[:, :BINS].softmax(1)
    shares = 1e-3 + (1 - 1e-3 * BINS) * widths
    edges = 2 * BOUND * shares.cumsum(1)[:, :-1] - BOUND
    up = torch.full_like(edges, torch.inf)
    return torch.cat((edges, edges.nextafter(up), edges.nextafter(-up)), dim=1)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("scale", [1.0, 10.0, 100.0])
def test_float32_is_stable_for_extreme_parameters(scale: float, seed: int) -> None:
    """Invert where nflows fails an assertion: its discriminant comes out negative."""
    raw = scale * draw((64, 3), dtype=torch.float32, seed=seed)[1].detach()
    for points in at_the_edges(raw, 3).unbind(1):
        y, log_det = spline_couple(points, raw, BINS, BOUND)
        back, inverse_log_det = spline_uncouple(y, raw, BINS, BOUND)
        for out in (y, log_det, back, inverse_log_det):
            assert bool(out.isfinite().all())
        assert bool((y.abs() <= BOUND * (1 + 1e-6)).all())
        # Where the map is flat the points cannot agree, and where it is steep their images: one
        # of them does, to a few units in the last place.
        again, _ = spline_couple(back, raw, BINS, BOUND)
        error = torch.minimum((back - points).abs(), (again - y).abs())
        assert float(error.max()) <= 4e-6


@both_ways
def test_float32_gradients_are_finite_for_extreme_parameters(inverse: bool) -> None:
    x, raw = draw((64, 3), dtype=torch.float32)
    outputs = bound(OPERATOR, inverse)(x, 50 * raw)
    gradients = torch.autograd.grad([out.sum() for out in outputs], (x, raw))
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)


@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_monotone_in_float32(scale: float) -> None:
    _, raw = draw((1, 1), dtype=torch.float32)
    x = torch.linspace(-BOUND - 0.1, BOUND + 0.1, 100_001)[:, None]
    y, _ = spline_couple(x, (scale * raw.detach()).expand(len(x), -1), BINS, BOUND)
    assert bool((y.diff(dim=0) >= -1e-6).all())


@both_ways
def test_one_graph_under_compile_and_export(inverse: bool) -> None:
    x, raw = (t.detach() for t in draw((3, 2, 4)))

    class Map(torch.nn.Module):
        def forward(self, x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
            return (spline_uncouple if inverse else spline_couple)(x, raw, BINS, BOUND)

    expected = Map()(x, raw)
    compiled = torch.compile(Map(), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, raw), expected)
    exported = torch.export.export(Map(), (x, raw)).module()
    torch.testing.assert_close(exported(x, raw), expected)


@pytest.mark.parametrize(
    ("bins", "limit", "message"),
    [(0, 3.0, "1 to 999 bins .* got 0 and 3.0"), (8, 0.0, "positive, finite bound, got 8 and 0.0")],
)
def test_refuses_nonsense(bins: int, limit: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RationalQuadratic(bins, limit)
