"""Every map of the table against the contract, and wrong maps against the checker."""

import copy
import io
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from couplings import MLP, Affine, Coupling, Invertible
from couplings.testing import ContractError, assert_invertible, randomize


def both_ways(map_: Invertible, x: Tensor, context: Tensor | None = None) -> list[Tensor]:
    """Return z, log_det, and x and log_det of another latent."""
    latent = x.flip(0).reshape(len(x), *map_.out_shape)
    return [*map_(x, context), *map_.inverse(latent, context)]


def assert_same(got: list[Tensor], expected: list[Tensor], **tolerance: float) -> None:
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, **tolerance)  # type: ignore[arg-type]


def test_inverse_and_log_dets_are_exact(case: Any) -> None:
    assert_invertible(*case.at(), tolerance=case.tolerance)


def test_no_map_of_the_table_is_the_identity(case: Any) -> None:
    map_, x, context = case.at()
    z, _ = map_(x, context)
    assert z.shape != x.shape or not torch.allclose(z, x)


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bfloat16 autocast"])
def test_log_det_is_wide(case: Any, autocast: bool) -> None:
    map_, x, context = case.at(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        _, log_det, _, inverse_log_det = both_ways(map_, x, context)
    for value in (log_det, inverse_log_det):
        assert value.shape == (len(x),)
        assert value.dtype == torch.float32


def test_empty_batch(case: Any) -> None:
    map_, x, context = case.at(batch=0)
    z, log_det, back, inverse_log_det = both_ways(map_, x, context)
    assert z.shape == (0, *map_.out_shape)
    assert back.shape == (0, *map_.in_shape)
    assert log_det.shape == inverse_log_det.shape == (0,)


def test_samples_do_not_mix(case: Any) -> None:
    map_, x, context = case.at(batch=3)
    alone = map_(x[:1], None if context is None else context[:1])
    together = map_(x, context)
    assert_same(list(alone), [together[0][:1], together[1][:1]])


def test_non_contiguous_input(case: Any) -> None:
    map_, x, context = case.at(batch=3)
    strided = torch.stack((x, -x), dim=-1)[..., 0]
    assert not strided.is_contiguous()
    assert_same(both_ways(map_, strided, context), both_ways(map_, x, context))
    z, _ = map_(x, context)
    # Of images, these are channels last.
    x_last, z_last = (t.movedim(1, -1).contiguous().movedim(-1, 1) for t in (x, z))
    assert_same(both_ways(map_, x_last, context), both_ways(map_, x, context))
    assert_same(list(map_.inverse(z_last, context)), list(map_.inverse(z, context)))


def test_the_input_is_not_written_to(case: Any) -> None:
    map_, x, context = case.at()
    x_before, z = x.clone(), x.clone().reshape(len(x), *map_.out_shape)
    map_(x, context)
    map_.inverse(z, context)
    assert_same([x, z.flatten(1)], [x_before, x_before.flatten(1)], rtol=0, atol=0)


def test_gradients_reach_every_parameter(own_case: Any) -> None:
    map_, x, context = own_case.at()
    z, log_det = map_(x, context)
    if not list(map_.parameters()):
        return
    ((z**2).sum() - log_det.sum()).backward()
    assert [name for name, p in map_.named_parameters() if p.grad is None] == []


def test_gradients_reach_the_inputs_both_ways(case: Any) -> None:
    map_, x, context = case.at()
    z = x.reshape(len(x), *map_.out_shape).clone()
    for run, value in ((map_.forward, x), (map_.inverse, z)):
        wanted = [value] if context is None else [value, context]
        wanted = [tensor.clone().requires_grad_() for tensor in wanted]
        out, log_det = run(*wanted)
        gradients = torch.autograd.grad((out**2).sum() - log_det.sum(), wanted)
        assert all(bool((g != 0).any()) for g in gradients)


def test_deepcopy_and_pickle(case: Any) -> None:
    map_, x, context = case.at()
    expected = both_ways(map_, x, context)
    assert_same(both_ways(copy.deepcopy(map_), x, context), expected)
    if case.picklable:
        assert_same(both_ways(pickle.loads(pickle.dumps(map_)), x, context), expected)


def test_state_dict_restores_the_map(case: Any) -> None:
    map_, x, context = case.at()
    file = io.BytesIO()
    torch.save(map_.state_dict(), file)
    file.seek(0)
    other = case.build(seed=5)
    other.load_state_dict(torch.load(file, weights_only=True), strict=True)
    assert_same(both_ways(other, x, context), both_ways(map_, x, context), rtol=0, atol=0)


def test_construction_leaves_the_global_generators_alone(case: Any) -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    case.build()
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert str(np.random.get_state()) == str(numpy_state)  # noqa: NPY002


def test_the_seed_makes_the_map(case: Any) -> None:
    _, x, context = case.at()
    one, same = (both_ways(case.build(seed=2), x, context) for _ in range(2))
    assert_same(one, same, rtol=0, atol=0)


def test_cast_to_float32_and_back_stays_invertible(own_case: Any) -> None:
    map_, x, context = own_case.at()
    assert_invertible(map_.float().double(), x, context)


def test_compiles_without_graph_breaks(own_case: Any) -> None:
    map_, x, context = own_case.at()
    expected = both_ways(map_, x, context)
    torch._dynamo.reset()
    compiled = torch.compile(both_ways, fullgraph=True, backend="eager")
    assert_same(compiled(map_, x, context), expected)


def test_context_changes_the_output(conditional_case: Any) -> None:
    map_, x, context = conditional_case.at()
    assert not torch.allclose(map_(x, context)[0], map_(x, context + 1)[0])


Change = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def unchanged(value: Tensor, log_det: Tensor) -> tuple[Tensor, Tensor]:
    return value, log_det


def doubled(value: Tensor, log_det: Tensor) -> tuple[Tensor, Tensor]:
    return value, 2 * log_det


class Wrong(Coupling):
    """Coupling whose results are changed in either direction."""

    def __init__(self, forward: Change, inverse: Change) -> None:
        generator = torch.Generator().manual_seed(0)
        super().__init__((4,), partial(MLP, generator=generator, hidden=(8,)), Affine())
        self.changes = forward, inverse
        randomize(self.double(), generator, scale=1.0)

    def _forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return self.changes[0](*super()._forward(x, context))

    def _inverse(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return self.changes[1](*super()._inverse(z, context))


# How forward and inverse are changed, and what the checker says of it.
WRONG: dict[str, tuple[Change, Change, str]] = {
    "agree, and are both wrong": (doubled, doubled, "forward's log_det is off"),
    "log_det of the other direction": (
        unchanged, lambda x, log_det: (x, -log_det), "inverse's log_det is off",
    ),
    "log_det that would broadcast to (B, B)": (
        lambda z, log_det: (z, log_det[:, None]), unchanged,
        r"forward: expected log_det of shape \(2,\) .*, got \(2, 1\)",
    ),
    "log_det in float16": (
        unchanged, lambda x, log_det: (x, log_det.half()),
        "inverse: expected log_det .* in torch.float16",
    ),
    "shift that no log_det can see": (
        unchanged, lambda x, log_det: (x + 1e-6, log_det),
        r"inverse\(forward\(x\)\) is off by 1e-06",
    ),
    "neither larger nor smaller": (
        lambda z, log_det: (z, log_det * torch.nan), unchanged, "off by nan",
    ),
}  # fmt: skip


def test_the_checker_accepts_the_right_coupling() -> None:
    assert_invertible(Wrong(unchanged, unchanged), torch.randn(2, 4).double())


@pytest.mark.parametrize(("forward", "inverse", "message"), WRONG.values(), ids=WRONG)
def test_the_checker_rejects(forward: Change, inverse: Change, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        assert_invertible(Wrong(forward, inverse), torch.randn(2, 4).double())


def test_a_round_trip_cannot_see_the_doubled_log_det() -> None:
    map_, x = Wrong(doubled, doubled), torch.randn(2, 4).double()
    z, log_det = map_(x)
    back, inverse_log_det = map_.inverse(z)
    torch.testing.assert_close(back, x)
    torch.testing.assert_close(inverse_log_det, -log_det)
