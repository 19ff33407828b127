"""Every map against wrong input: refused by name, kept to its own sample, or answered rightly."""

import re
from collections.abc import Callable, Iterator
from functools import partial
from math import inf, nan
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from couplings import MLP, Chain, Coupling, Invertible, ShapeError
from couplings.interop import FromNFlows

Run = Callable[[Any, Any], tuple[Tensor, Tensor]]


def directions(map_: Invertible, x: Tensor) -> Iterator[tuple[Run, Tensor]]:
    yield map_.forward, x
    yield map_.inverse, x.reshape(len(x), *map_.out_shape)


def refused(run: Run, x: Any, context: Any, message: str) -> None:
    """Expect a refusal in one line that says what was expected and what came."""
    with pytest.raises(ShapeError, match=message) as caught:
        run(x, context)
    text = str(caught.value)
    assert "expected" in text
    assert "got" in text
    assert "\n" not in text


def attempt(run: Run, x: Any, context: Any) -> tuple[Tensor, Tensor] | str:
    """Return the result, or why it is refused."""
    try:
        return run(x, context)
    except ShapeError as error:
        return str(error)


def same(got: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one.detach(), other.detach())


def beside(run: Run, values: Tensor, changed: Tensor, context: Any) -> tuple[Tensor, Tensor]:
    """Run three samples, the second changed, which leaves the results of the others."""
    (z, log_det), plain = run(changed, context), run(values, context)
    same((z[::2], log_det[::2]), (plain[0][::2], plain[1][::2]))
    return z, log_det


WRONG: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "no batch": (lambda x: x[0], r"{shape}, got {got}"),
    "no dimension at all": (lambda x: x.sum(), r"{shape}, got {got}"),
    "another rank": (lambda x: x[None], r"{shape}, got {got}"),
    "one channel": (lambda x: x[:, :1], r"{shape}, got {got}"),
    "one channel more": (lambda x: torch.cat((x, x[:, :1]), 1), r"{shape}, got {got}"),
    "uint8": (lambda x: x.to(torch.uint8), r"floating-point tensor, got torch\.uint8"),
    "int64": (lambda x: x.long(), r"floating-point tensor, got torch\.int64"),
    "bool": (lambda x: x > 0, r"floating-point tensor, got torch\.bool"),
    "complex": (lambda x: x * 1j, r"floating-point tensor, got torch\.complex128"),
    "an array": (lambda x: x.numpy(), r"a tensor, got ndarray"),
    "a list": (lambda x: x.tolist(), r"a tensor, got list"),
    "nothing": (lambda x: None, r"a tensor, got NoneType"),
}


def test_no_input_that_is_wrong_is_taken(case: Any) -> None:
    map_, x, context = case.at(batch=3)
    for run, values in directions(map_, x):
        expected = f"expected input of shape (B, {', '.join(map(str, values.shape[1:]))})"
        for name, (change, message) in WRONG.items():
            if not (name == "one channel" and values.shape[1] == 1):
                wrong = change(values)
                got = str(tuple(wrong.shape)) if isinstance(wrong, Tensor) else ""
                texts = {"shape": re.escape(expected), "got": re.escape(got)}
                refused(run, wrong, context, message.format(**texts))


def test_another_precision_is_computed_in_or_refused(case: Any) -> None:
    """Compute in it where there is no network."""
    for own, other, tolerance in (
        (torch.float32, torch.float64, 1e-4),
        (torch.float64, torch.float32, 1e-4),
        (torch.float32, torch.bfloat16, 0.1),
    ):
        _, x, context = case.at(dtype=other)
        given = None if context is None else context.to(own)
        for run, values in directions(case.build(dtype=own), x):
            plain = run(values.to(own), given)
            answer = attempt(run, values, context)
            if isinstance(answer, str):
                assert re.search(f"expected input in {own} on cpu, .* got {other} on cpu", answer)
                continue
            for got, expected in zip(answer, plain, strict=True):
                torch.testing.assert_close(
                    got.double(), expected.double(), rtol=tolerance, atol=tolerance
                )


def test_another_device_is_computed_on_or_refused(case: Any) -> None:
    map_, x, context = case.at()
    for run, values in directions(map_, x):
        answer = attempt(run, values.to("meta"), None if context is None else context.to("meta"))
        if isinstance(answer, str):
            assert re.search(r"expected input .*on cpu, .* got (torch\.float64 on )?meta", answer)
        else:  # of a map without numbers of its own
            assert [each.device.type for each in answer] == ["meta", "meta"]


@pytest.mark.parametrize("bad", [nan, inf, -inf])
def test_what_is_not_finite_stays_in_its_sample_and_is_seen(case: Any, bad: float) -> None:
    map_, x, context = case.at(batch=3)
    for run, values in directions(map_, x):
        wrong = values.clone()
        wrong[1].view(-1)[0] = bad
        z, log_det = beside(run, values, wrong, context)
        assert not bool(z[1].isfinite().all() and log_det[1].isfinite())


@pytest.mark.parametrize("factor", [1e30, 1e-30, 1e-310])
def test_huge_and_tiny_numbers_stay_in_their_sample(own_case: Any, factor: float) -> None:
    map_, x, context = own_case.at(batch=3)
    for run, values in directions(map_, x):
        scaled = values.clone()
        scaled[1] *= factor
        z, log_det = beside(run, values, scaled, context)
        assert bool(z.isfinite().all())
        assert bool(log_det.isfinite().all())
        if factor < 1:
            scaled[1] = 0
            torch.testing.assert_close(z, run(scaled, context)[0])


def test_an_expanded_input_is_that_many_copies(case: Any) -> None:
    map_, x, context = case.at(batch=1)
    given = None if context is None else context.expand(3, -1)
    for run, one in directions(map_, x):
        values = one.expand(3, *one.shape[1:])
        copies = None if given is None else given.clone()
        same(run(values, given), run(values.clone(), copies))


def test_an_input_that_requires_gradients_gives_the_same(case: Any) -> None:
    map_, x, context = case.at()
    for run, values in directions(map_, x):
        learned = values.clone().requires_grad_()
        out = run(learned, context)
        same(out, run(values, context))
        assert out[0].requires_grad
        assert torch.equal(learned.detach(), values)


WRONG_CONTEXT: dict[str, tuple[Callable[[Tensor], Any], str | None]] = {
    "none": (lambda c: None, r"context of shape \(2, 3\), got none"),
    "too narrow": (lambda c: c[:, :2], r"context of shape \(2, 3\), got \(2, 2\)"),
    "one for all": (lambda c: c[:1], r"context of shape \(2, 3\), got \(1, 3\)"),
    "one row": (lambda c: c[0], r"context of shape \(2, 3\), got \(3,\)"),
    "an array": (lambda c: c.numpy(), r"context of shape \(2, 3\), got ndarray"),
    "fewer digits": (lambda c: c.float(), None),  # which are taken for what they are
    "complex": (lambda c: c * 1j, r"context .* got torch\.complex128"),
    "another device": (lambda c: c.to("meta"), r"context .*on cpu, .* got .*meta"),
}


@pytest.mark.parametrize("name", WRONG_CONTEXT)
def test_no_context_that_does_not_match_is_taken(conditional_case: Any, name: str) -> None:
    change, message = WRONG_CONTEXT[name]
    map_, x, context = conditional_case.at()
    for run, values in directions(map_, x):
        if message is None:
            same(run(values, change(context)), run(values, change(context).double()))
        else:
            refused(run, values, change(context), message)


def test_a_context_that_is_not_a_number_stays_in_its_sample(conditional_case: Any) -> None:
    map_, x, context = conditional_case.at(batch=3)
    if isinstance(map_, FromNFlows):
        pytest.skip("nflows' own spline takes it for a number")
    for run, values in directions(map_, x):
        wrong = context.clone()
        wrong[1, 0] = nan
        (z, log_det), plain = run(values, wrong), run(values, context)
        assert bool(z[1].isnan().any())
        same((z[::2], log_det[::2]), (plain[0][::2], plain[1][::2]))


def test_a_single_row_for_batch_norm_is_refused_in_training_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    conditioner = partial(MLP, generator=generator, hidden=(8,), batch_norm=True)
    chain, x = Chain([Coupling((4,), conditioner)]), torch.ones(1, 4)
    with pytest.raises(ValueError, match="(?i)expected more than 1 value .*, got input size"):
        chain(x)
    assert chain.eval()(x)[0].shape == (1, 4)


def test_other_errors_are_not_explained_away() -> None:
    """Pass on the error of a user's network as it is."""

    class Broken(torch.nn.Module):
        def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
            raise RuntimeError("out of order")

    map_ = Coupling((4,), lambda shape, outputs, context: Broken())
    with pytest.raises(RuntimeError, match="out of order"):
        map_(torch.ones(2, 4))
    with pytest.raises(ShapeError, match="got ndarray"):
        map_(np.ones((2, 4), np.float32))  # type: ignore[arg-type]
