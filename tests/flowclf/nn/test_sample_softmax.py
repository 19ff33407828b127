"""The sample-identity softmax, and its last layer against torch's own softmax of all logits."""

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import accumulate
from math import log
from typing import Any

import pytest
import torch
from torch import Generator, Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.testing import assert_close

from couplings.testing import randomize
from flowclf.nn.sample_softmax import (
    IdentitySoftmax,
    _least_base,
    linear_cross_entropy,
    sampled_cross_entropy,
)
from flowclf.support.errors import UserError

N, B, F, D = 23, 7, 5, 4

Arguments = tuple[Tensor, Tensor, Tensor]

# Blocks that divide N, that do not, of one row, and one that holds them all.
every_chunk = pytest.mark.parametrize("chunk", [1, 6, 23, 100])
every_kind = pytest.mark.parametrize(
    "options", [{}, {"hidden": ()}, {"tags": 2}, {"tags": 3, "values": 2, "coding": "random"}]
)


def draw_layer(
    generator: Generator, sizes: Sequence[int] = (B, F, N), dtype: torch.dtype = torch.float64
) -> tuple[Arguments, Tensor]:
    """Draw features, weights and biases that require gradients; and targets."""
    batch, features, rows = sizes
    shapes = ((batch, features), (rows, features), (rows,))
    h, weight, bias = (torch.randn(s, generator=generator, dtype=dtype) for s in shapes)
    target = torch.randint(rows, (batch,), generator=generator)
    return (h.requires_grad_(), weight.requires_grad_(), bias.requires_grad_()), target


def plain(h: Tensor, weight: Tensor, bias: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    log_p = (h @ weight.T + bias).log_softmax(1)
    return -log_p.gather(1, target[:, None])[:, 0], -(log_p.exp() * log_p).sum(1)


def make_softmax(**options: Any) -> IdentitySoftmax:
    softmax = IdentitySoftmax(N, D, **({"hidden": (6, 5)} | options)).double()
    randomize(softmax, torch.Generator().manual_seed(3), 0.5)
    return softmax


def draw(generator: Generator) -> tuple[Tensor, Tensor]:
    z = torch.randn(B, D, generator=generator, dtype=torch.float64)
    return z, torch.randint(N, (B,), generator=generator)


@every_chunk
def test_values_and_gradients_are_those_of_all_logits(chunk: int, generator: Generator) -> None:
    arguments, target = draw_layer(generator)
    upstream = torch.randn(2, B, generator=generator, dtype=torch.float64)
    got, expected = linear_cross_entropy(*arguments, target, chunk), plain(*arguments, target)
    assert_close(got, expected, rtol=0, atol=1e-12)
    for outputs in ([0], [1], [0, 1]):
        totals = [torch.stack(out)[outputs].mul(upstream[outputs]).sum() for out in (got, expected)]
        gradients = [torch.autograd.grad(t, arguments, retain_graph=True) for t in totals]
        assert_close(*gradients, rtol=0, atol=1e-12)


@pytest.mark.parametrize("wanted", [0, 1, 2])
def test_each_argument_may_be_the_only_one_to_learn(wanted: int, generator: Generator) -> None:
    arguments, target = draw_layer(generator)
    alone = [a if i == wanted else a.detach() for i, a in enumerate(arguments)]
    both = linear_cross_entropy(*alone, target, 6), plain(*alone, target)
    results = (torch.autograd.grad(torch.stack(out).sum(), arguments[wanted]) for out in both)
    assert_close(*results, rtol=0, atol=1e-12)


def test_a_certain_softmax_has_no_entropy_and_no_nan() -> None:
    weight = torch.zeros(N, F)
    weight[3] = 1e4
    h = torch.ones(B, F, requires_grad=True)
    outputs = linear_cross_entropy(h, weight, torch.zeros(N), torch.full((B,), 3), 6)
    assert_close(torch.stack(outputs), torch.zeros(2, B), rtol=0, atol=0)
    assert not torch.autograd.grad(torch.stack(outputs).sum(), h)[0].any()


def test_autocast_leaves_the_logits_in_the_dtype_of_the_weights(generator: Generator) -> None:
    arguments, target = draw_layer(generator)
    h, weight, bias = (a.detach().float() for a in arguments)
    expected = linear_cross_entropy(h.bfloat16().float(), weight, bias, target)
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(linear_cross_entropy(h.bfloat16(), weight, bias, target), expected)


def draw_large(generator: Generator) -> tuple[Arguments, Tensor]:
    """Draw a layer whose logits are 16 blocks, and larger than the weights."""
    return draw_layer(generator, (256, 8, 65536), torch.float32)


def test_nothing_of_the_size_of_the_logits_is_saved(generator: Generator) -> None:
    arguments, target = draw_large(generator)
    saved: list[Tensor] = []
    with saved_tensors_hooks(saved.append, lambda nothing: nothing):
        linear_cross_entropy(*arguments, target)
    given = {tensor.data_ptr() for tensor in (*arguments, target)}
    beside = [tensor.numel() for tensor in saved if tensor.data_ptr() not in given]
    assert sum(beside) == 2 * 256


def allocations(run: Callable[[], None]) -> list[int]:
    """Return the bytes of each allocation in order, negative where they are freed."""
    with torch.profiler.profile(profile_memory=True) as profile:
        run()
    assert profile.profiler is not None
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    return [e.nbytes() for e in sorted(events, key=lambda event: event.start_ns())]


def test_peak_memory_is_a_few_blocks_of_logits(generator: Generator) -> None:
    arguments, target = draw_large(generator)

    def step(function: Callable[..., tuple[Tensor, Tensor]]) -> None:
        torch.autograd.grad(torch.stack(function(*arguments, target)).sum(), arguments)

    block, gradients = 256 * 4096 * 4, sum(4 * argument.numel() for argument in arguments)
    chunked = allocations(lambda: step(linear_cross_entropy))
    assert max(chunked) <= block
    assert max(accumulate(chunked)) < 2.2 * block + gradients
    assert max(accumulate(allocations(lambda: step(plain)))) > 32 * block


def test_of_all_rows_the_sampled_one_is_exact(generator: Generator) -> None:
    arguments, target = draw_layer(generator)
    upstream = torch.randn(2, B, generator=generator, dtype=torch.float64)
    order = torch.randperm(N, generator=generator)
    got, expected = sampled_cross_entropy(*arguments, target, order), plain(*arguments, target)
    assert_close(got, expected, rtol=0, atol=1e-12)
    totals = [(torch.stack(out) * upstream).sum() for out in (got, expected)]
    assert_close(*(torch.autograd.grad(t, arguments) for t in totals), rtol=0, atol=1e-12)


def test_the_sampled_norm_is_unbiased(generator: Generator) -> None:
    """Over all pairs of rows, Z has its mean, whether a pair has the target or not."""
    (h, weight, bias), target = draw_layer(generator)
    pairs = torch.combinations(torch.arange(N), 2)
    own = (h * weight[target]).sum(1) + bias[target]
    with torch.no_grad():
        norms = [
            (sampled_cross_entropy(h, weight, bias, target, pair)[0] + own).exp() for pair in pairs
        ]
        expected = (h @ weight.T + bias).logsumexp(1).exp()
    assert_close(torch.stack(norms).mean(0), expected)


def test_more_draws_are_nearer(generator: Generator) -> None:
    layer, target = draw_layer(generator, (64, F, 2000))
    arguments = [tensor.detach() for tensor in layer]
    exact = torch.stack(plain(*arguments, target))
    errors = []
    for count in (20, 200, 1900):
        chosen = torch.randperm(2000, generator=generator)[:count]
        found = torch.stack(sampled_cross_entropy(*arguments, target, chosen))
        errors.append(float((found - exact).abs().mean()))
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


def test_only_a_training_step_draws_and_only_from_its_generator(generator: Generator) -> None:
    softmax, (z, index) = make_softmax(hidden=(), negatives=5), draw(generator)
    exact = make_softmax(hidden=())(z, index)
    first, same, other = (
        softmax(z, index, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert_close(first, same, rtol=0, atol=0)
    assert not torch.equal(first[0], other[0])
    assert_close(softmax.eval()(z, index), exact, rtol=0, atol=0)


def test_a_single_sample_is_certain() -> None:
    one = torch.zeros(1, dtype=torch.int64)
    layer = torch.ones(2, F), torch.ones(1, F), torch.zeros(1)
    found = sampled_cross_entropy(*layer, one.expand(2), one)
    assert_close(torch.stack(found), torch.zeros(2, 2))


@every_kind
def test_it_is_uniform_at_first(options: dict[str, Any], generator: Generator) -> None:
    softmax = IdentitySoftmax(N, D, **options).double()
    for nats in softmax(*draw(generator)):
        expected = torch.full_like(nats, softmax.tags * log(softmax.values))
        assert_close(nats, expected, rtol=0, atol=1e-12)


@every_kind
def test_tags_share_their_features(options: dict[str, Any], generator: Generator) -> None:
    softmax, (z, index) = make_softmax(**options), draw(generator)
    features = softmax.hidden(z) if options.get("hidden", (1,)) else torch.cat((z, z.square()), 1)
    rows = (each.split(softmax.values) for each in (softmax.last.weight, softmax.last.bias))
    parts = zip(*rows, softmax.codes[index].T, strict=True)
    tags = [torch.stack(plain(features, *part)) for part in parts]
    assert_close(torch.stack(softmax(z, index)), sum(tags), rtol=0, atol=1e-12)


@every_kind
def test_a_frozen_one_teaches_z_alone(options: dict[str, Any], generator: Generator) -> None:
    softmax, (z, index) = make_softmax(**options), draw(generator)
    z.requires_grad_()
    frozen, free = torch.stack(softmax.frozen(z, index)), torch.stack(softmax(z, index))
    assert torch.equal(frozen, free)
    (expected,) = torch.autograd.grad(free.sum(), z)
    frozen.sum().backward()
    assert expected.any()
    assert_close(z.grad, expected, rtol=0, atol=1e-14)
    assert all(parameter.grad is None for parameter in softmax.parameters())
    assert all(parameter.requires_grad for parameter in softmax.parameters())
    softmax(z, index)[0].sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in softmax.parameters())


@pytest.mark.parametrize(
    ("samples", "tags", "values"),
    [(23, 1, 23), (23, 2, 5), (1000, 3, 10), (1001, 3, 11), (10**15 + 1, 3, 100001), (1, 2, 1)],
)
def test_the_least_number_of_values(samples: int, tags: int, values: int) -> None:
    assert _least_base(samples, tags) == values


@pytest.mark.parametrize(("tags", "values"), [(1, None), (1, 40), (2, None), (3, 3), (30, 1000)])
def test_mixed_radix_codes_are_digits(tags: int, values: int | None) -> None:
    softmax = IdentitySoftmax(N, D, (), tags=tags, values=values)
    digits = softmax.codes.tolist()
    assert [sum(d * softmax.values**t for t, d in enumerate(row)) for row in digits] == [*range(N)]
    assert softmax.codes.max() < softmax.values
    assert softmax.log_count == pytest.approx(log(N), abs=1e-12)


@pytest.mark.parametrize(("tags", "values"), [(1, 5), (2, 3), (3, None), (8, 10)])
def test_samples_that_share_a_random_code_count_for_less(tags: int, values: int | None) -> None:
    softmax = IdentitySoftmax(N, D, (), tags=tags, values=values, coding="random")
    counts = Counter(map(tuple, softmax.codes.tolist())).values()
    entropy = -sum(count / N * log(count / N) for count in counts)
    assert softmax.log_count == pytest.approx(entropy, abs=1e-12)
    assert (len(counts) == N) == (tags == 8)
    assert softmax.codes.min() >= 0
    assert softmax.codes.max() < softmax.values


def test_weights_and_codes_come_from_the_generator_or_a_file() -> None:
    def make(seed: int) -> IdentitySoftmax:
        generator = torch.Generator().manual_seed(seed)
        return IdentitySoftmax(N, D, (6,), values=5, coding="random", generator=generator)

    def changed(one: IdentitySoftmax, other: IdentitySoftmax) -> set[str]:
        states = one.state_dict(), other.state_dict()
        return {name for name in states[0] if not torch.equal(*(each[name] for each in states))}

    one, other = make(1), make(2)
    assert changed(one, make(1)) == set()
    assert changed(one, other) == {"hidden.0.weight", "codes"}
    assert one.log_count != other.log_count
    other.load_state_dict(one.state_dict())
    assert changed(one, other) == set()
    assert one.log_count == other.log_count


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tags": 2, "values": 4}, r"values\^tags >= 23.*4\^2.*coding=random"),
        ({"values": 22}, r"values\^tags >= 23"),
        ({"tags": 0}, "at least one"),
        ({"values": 0}, "at least one"),
        ({"samples": 0}, "at least one"),
        ({"tags": 2, "negatives": 5}, "negatives of one tag, got 5 and 2 tags"),
    ],
)
def test_impossible_codes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        IdentitySoftmax(**({"samples": N, "dims": D} | options))
