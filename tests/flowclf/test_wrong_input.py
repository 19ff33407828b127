"""Wrong input is refused by name, legitimate input in another form gives the same answer."""

import inspect
import re
from collections.abc import Callable
from functools import cache
from itertools import product
from math import inf, nan
from typing import Any

import numpy as np
import pytest
import torch
from small_systems import small
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

import flowclf
from couplings.testing import randomize
from flowclf import objectives
from flowclf.classifier import GenerativeClassifier
from flowclf.evaluation.scores import model_scores
from flowclf.models import systems_with
from flowclf.support import validate
from flowclf.support.errors import UserError
from flowclf.support.validate import unchecked_values
from flowclf.systems import SYSTEMS

SHAPE, K, B, LEVELS = (3, 4, 4), 3, 6, 8
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
DECODING, SAMPLING = systems_with("can_decode"), systems_with("can_sample")

every_system = pytest.mark.parametrize("system", SYSTEMS)


def make(system: str, shape: tuple[int, ...] = SHAPE, **settings: Any) -> GenerativeClassifier:
    """Build a tiny model; for images of the system's own kind of network."""
    levels = LEVELS if len(shape) == 3 else None
    if "backbone" not in settings:
        settings = small(system, image=levels is not None) | settings
    return flowclf.build(system, shape=shape, classes=K, levels=levels, samples=B, **settings)


@cache
def fitted(system: str) -> GenerativeClassifier:
    """Return a model in eval mode with weights that are not those of the start."""
    model = make(system)
    model.fit_statistics(images(), labels())
    randomize(model, torch.Generator().manual_seed(4), 0.05)
    model.eval().fit_latents(images(), labels())
    return model


def images(count: int = B) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(LEVELS, (count, *SHAPE), generator=generator, dtype=torch.uint8)


def floats(count: int = B) -> Tensor:
    """Points within the grey levels."""
    return images(count) + 0.25


def labels(count: int = B) -> Tensor:
    return torch.arange(count) % K


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(2)


def loss(model: GenerativeClassifier, x: Any, y: Any = None, **options: Any) -> Tensor:
    y = labels(len(x)) if y is None else y
    return model.loss(x, y, seeded(), **{"index": torch.arange(len(x)), **options})["total"]


Call = Callable[[GenerativeClassifier, Any], Tensor]


def readers(model: GenerativeClassifier) -> dict[str, Call]:
    """List all methods that take x, by name."""
    found: dict[str, Call] = {
        "encode": lambda model, x: model.encode(x).z,
        "log_posterior": lambda model, x: model.log_posterior(x),
        "predict": lambda model, x: model.predict(x),
        "perturb": lambda model, x: model.perturb(x, seeded()),
        "dequantize": lambda model, x: model.dequantize(x, seeded()),
        "loss": loss,
        "fit_statistics": lambda model, x: fit(model, x, labels(len(x))),
        "fit_latents": lambda model, x: fit(model, x, labels(len(x)), latents=True),
    }
    if model.has_density:
        found["log_prob"] = lambda model, x: model.log_prob(x)
        for rate in model.extra_rates(torch.zeros(1, *model.shape)):
            found[rate] = lambda model, x, rate=rate: model.extra_rates(x)[rate]
    if model.has_elbo:
        found["elbo"] = lambda model, x: model.elbo(x)
    if hasattr(model, "importance_bound"):
        found["importance_bound"] = lambda model, x: model.importance_bound(
            x, draws=3, generator=seeded()
        )
    if model.can_decode:
        found["interpolate"] = lambda model, x: model.interpolate(x, x, 3)
    return found


def fit(model: GenerativeClassifier, x: Any, y: Any, latents: bool = False) -> Tensor:
    """Return what is fitted as one vector; the model is left as it was."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        (model.fit_latents if latents else model.fit_statistics)(x, y)
        state = model.state_dict()
        assert not any(value.requires_grad for value in state.values())
        return torch.cat([value.double().flatten() for value in state.values()])
    finally:
        model.load_state_dict(before)


def refused(message: str, call: Callable[..., object], *arguments: Any) -> None:
    """Check for a refusal in one line that says what was expected and what was got."""
    with pytest.raises(UserError, match=message) as caught:
        call(*arguments)
    assert re.fullmatch("(?=.*expected)(?=.*got).*", str(caught.value))


def answer(message: str, call: Callable[..., Tensor], *arguments: Any) -> Tensor | None:
    """Return the answer, or None if the call is refused with that message."""
    try:
        return call(*arguments)
    except UserError as error:
        if re.search(message, str(error)):
            return None
        raise


def check_same(got: Tensor, expected: Tensor, **tolerance: float) -> None:
    assert_close(got.detach(), expected.detach(), **tolerance)


def with_number(value: float) -> Tensor:
    x = floats()
    x[2, 1, 0, 3] = value
    return x


SIZES = r"\(B, 3, 4, 4\)"
WRONG_X: dict[str, tuple[Callable[[], Any], str]] = {
    "one sample without a batch": (lambda: floats()[0], rf"shape {SIZES}, got \(3, 4, 4\)"),
    "flattened": (lambda: floats().flatten(1), rf"shape {SIZES}, got \(6, 48\)"),
    "rank 5": (lambda: floats()[None], rf"shape {SIZES}, got \(1, 6, 3, 4, 4\)"),
    "another width": (lambda: floats()[..., :3], rf"shape {SIZES}, got \(6, 3, 4, 3\)"),
    "channels last": (lambda: floats().movedim(1, 3), rf"shape {SIZES}, got \(6, 4, 4, 3\)"),
    "grey images": (lambda: floats()[:, :1], rf"shape {SIZES}, got \(6, 1, 4, 4\)"),
    "complex": (lambda: floats().to(torch.complex64), r"real .*, got torch\.complex64"),
    "NaN": (lambda: with_number(nan), r"of finite .*, got nan in 1 of 6 .*first sample 2"),
    "inf": (lambda: with_number(inf), r"of finite .*, got inf in 1 of 6 .*first sample 2"),
    "-inf": (lambda: with_number(-inf), r"of finite .*, got -inf in 1 of 6 .*first sample 2"),
    "another device": (lambda: floats().to("meta"), r"on cpu, .*, got meta"),
    "an array": (lambda: floats().numpy(), r"a tensor, got ndarray"),
    "a list": (lambda: floats().tolist(), r"a tensor, got list"),
}
# Their noise is drawn for what is then refused.
NOISE = ("perturb", "dequantize")


@every_system
@pytest.mark.parametrize("case", WRONG_X)
def test_no_x_that_is_wrong_is_taken(system: str, case: str) -> None:
    model = fitted(system)
    make_x, message = WRONG_X[case]
    for name, call in readers(model).items():
        if name in NOISE and case in ("NaN", "inf", "-inf"):
            continue
        argument = "x0" if name == "interpolate" else "x"
        refused(f"expected {argument} .*{message}", call, model, make_x())


def expanded(x: Tensor) -> Tensor:
    return x[:1].expand(B, *SHAPE)


SAME_X: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[], Tensor]]] = {
    "float64": (Tensor.double, floats),
    "float16": (Tensor.half, floats),
    "bfloat16": (Tensor.bfloat16, floats),
    "int64": (Tensor.long, images),
    "int16": (Tensor.short, images),
    "strided": (lambda x: torch.stack((x, x + 1), -1)[..., 0], floats),
    "transposed": (lambda x: x.movedim(1, -1).contiguous().movedim(-1, 1), floats),
    "channels-last memory": (lambda x: x.to(memory_format=torch.channels_last), floats),
    "requires grad": (lambda x: x.clone().requires_grad_(), floats),
    "float64 that requires grad": (lambda x: x.double().requires_grad_(), floats),
    "strided bytes": (lambda x: torch.stack((x, x), -1)[..., 0], images),
}


@every_system
@pytest.mark.parametrize("case", SAME_X)
def test_another_form_of_x_gives_the_same_answer(system: str, case: str) -> None:
    model = fitted(system)
    change, make_x = SAME_X[case]
    for name, call in readers(model).items():
        got, plain = call(model, change(make_x())), call(model, make_x())
        if name == "dequantize":  # of grey levels it may be x itself
            got = got.to(plain.dtype)
        check_same(got, plain, **CLOSE)


@every_system
def test_an_expanded_x_is_that_many_copies(system: str) -> None:
    model = fitted(system)
    calls = readers(model)
    del calls["fit_latents"]
    for call, x in product(calls.values(), (expanded(floats()), expanded(images()))):
        check_same(call(model, x), call(model, x.clone()))


@every_system
def test_bytes_are_the_middles_of_their_levels(system: str) -> None:
    model, middle = fitted(system), fitted(system).noise.level_middle
    for name, call in readers(model).items():
        if name not in ("loss", "fit_statistics", "importance_bound", *NOISE):
            assert_close(call(model, images()), call(model, images() + middle))


@every_system
def test_an_expanded_x_passes_its_gradient(system: str) -> None:
    model, x = fitted(system), floats(1).requires_grad_()
    for name in ("log_posterior", "log_prob", "elbo", "loss"):
        if name in readers(model):
            value = readers(model)[name](model, x.expand(B, *SHAPE))
            (gradient,) = torch.autograd.grad(value.sum(), x, allow_unused=True)
            assert gradient is not None
            assert bool(gradient.isfinite().all())


@every_system
def test_an_empty_batch_gives_empty_answers(system: str) -> None:
    model = fitted(system)
    for x in (floats(0), images(0)):
        shapes = {
            name: tuple(call(model, x).shape)
            for name, call in readers(model).items()
            if name != "loss" and not name.startswith("fit")
        }
        expected = {
            "encode": (0, model.mixture.dims),
            "log_posterior": (0, K),
            "predict": (0,),
            "perturb": (0, *SHAPE),
            "dequantize": (0, *SHAPE),
            "interpolate": (3, 0, *SHAPE),
        }
        assert shapes == {name: expected.get(name, (0,)) for name in shapes}
    if model.can_decode:
        assert model.decode(torch.zeros(0, model.mixture.dims)).shape == (0, *SHAPE)
    if model.can_sample:
        assert model.sample(torch.zeros(0, dtype=torch.long)).shape == (0, *SHAPE)


@every_system
def test_nothing_is_learned_from_an_empty_batch(system: str) -> None:
    model, message = fitted(system), "expected at least one sample .*, got none"
    for mode in (True, False):
        model.train(mode)
        refused(message, loss, model, floats(0))
    for latents in (True, False):
        refused(message, fit, model, images(0), labels(0), latents)


@every_system
@pytest.mark.filterwarnings("ignore:expected x in grey levels")
@pytest.mark.parametrize("factor", [1e6, 1e18, 1e30, -1e30, 1e-12, 1e-42])
def test_huge_and_tiny_numbers_give_numbers_or_are_refused(system: str, factor: float) -> None:
    model, x = fitted(system), factor * floats()
    for name, call in readers(model).items():
        if name in ("loss", "fit_statistics", "fit_latents"):
            continue
        value = answer("expected .*largest .x. is", call, model, x)
        if value is None:
            assert abs(factor) >= 1e6
            continue
        assert not bool(value.isnan().any()), name
        if abs(factor) < 1:
            assert_close(value, call(model, torch.zeros_like(x)), **CLOSE)


def test_what_overflows_is_answered_where_nobody_wants_checks() -> None:
    model, x = fitted("ib-inn"), with_number(nan)
    with unchecked_values():
        assert bool(model.log_prob(x)[2].isnan())
        assert bool(model.log_prob(x)[:2].isfinite().all())
        refused("expected x", model.log_prob, x[0])
    refused("expected x", model.log_prob, x)


SINGLE = "expected at least 2 samples in training mode.* got 1"


@every_system
def test_a_batch_of_one_is_learned_from_or_refused(system: str) -> None:
    for image in (True, False):
        model = make(system, **small(system, image=image, batch_norm=True))
        model.fit_statistics(images(), labels())
        model.train()
        total = answer(SINGLE, loss, model, images(1))
        if total is not None:
            assert bool(total.isfinite())
            total.backward()
        assert model.eval().log_posterior(images(1)).shape == (1, K)


@pytest.mark.parametrize("system", ["ib-inn", "resnet", "ce"])
def test_a_batch_of_one_for_batch_norm_of_features_is_refused(system: str) -> None:
    network = {"kind": "mlp", "blocks": 1, "hidden": [8], "batch_norm": True}
    if system == "ib-inn":
        model = make(system, (5,), network=network)
    else:
        own = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.BatchNorm1d(8))
        model = make(system, (5,), backbone=own)
    x = torch.randn(1, 5, generator=seeded())
    for call in (loss, GenerativeClassifier.encode, GenerativeClassifier.log_posterior):
        refused(SINGLE, call, model, x)
    assert bool(loss(model.eval(), x).isfinite())


# Labels.


def takers(model: GenerativeClassifier) -> dict[str, Callable[[Any], Tensor]]:
    """List all methods that take y, by name, in eval mode; the last ones accept -1."""
    return {
        **exact_takers(model),
        "fit_statistics": lambda y: fit(model, images(), y),
        "fit_latents": lambda y: fit(model, images(), y, latents=True),
        "loss": lambda y: loss(model, floats(), y),
    }


def exact_takers(model: GenerativeClassifier) -> dict[str, Callable[[Any], Tensor]]:
    """List those for which every sample must have a class."""
    x = floats()
    found: dict[str, Callable[[Any], Tensor]] = {}
    if model.has_density:
        found["log_prob"] = lambda y: model.log_prob(x, y)
    if "y" in inspect.signature(model.elbo).parameters:
        found["elbo"] = lambda y: model.elbo(x, y)
    if hasattr(model, "importance_bound"):
        found["importance_bound"] = lambda y: model.importance_bound(x, y, 3, seeded())
    if model.can_sample:
        found["sample"] = lambda y: model.sample(y, generator=seeded())
    return found


def label(value: int) -> Tensor:
    y = labels()
    y[4] = value
    return y


WRONG_Y: dict[str, tuple[Callable[[], Any], str]] = {
    "out of range": (lambda: label(K), r"0\.\.2.*, got 3"),
    "far out of range": (lambda: label(10**12), r"0\.\.2.*, got 1000000000000"),
    "negative": (lambda: label(-2), r"0\.\.2.*, got -2"),
    "float": (lambda: labels().float(), r"integer .*, got torch\.float32"),
    "bool": (lambda: labels() > 0, r"integer .*, got torch\.bool"),
    "one-hot": (lambda: torch.eye(K)[labels()], r"got torch\.float32|got \(6, 3\)"),
    "a column": (lambda: labels()[:, None], r"shape .*, got \(6, 1\)"),
    "one number": (lambda: labels()[0], r"shape .*, got \(\)"),
    "another device": (lambda: labels().to("meta"), r"on cpu, .*, got meta"),
    "a list": (lambda: labels().tolist(), r"a tensor, got list"),
}


@every_system
@pytest.mark.parametrize("case", WRONG_Y)
def test_no_y_that_is_wrong_is_taken(system: str, case: str) -> None:
    make_y, message = WRONG_Y[case]
    for call in takers(fitted(system)).values():
        refused(rf"(?=.*\by\b).*{message}", call, make_y())


@every_system
def test_as_many_labels_as_samples(system: str) -> None:
    calls = takers(fitted(system))
    calls.pop("sample", None)
    for call, count in product(calls.values(), (1, B - 1, B + 1)):
        refused(rf"expected y of shape \(6,\).*, got \({count},\)", call, labels(count))


@every_system
def test_samples_without_a_label_are_of_no_class(system: str) -> None:
    model = fitted(system)
    for call in exact_takers(model).values():
        refused(r"y: expected .* 0\.\.2, got -1", call, label(-1))
    if not model.accepts_unlabelled:
        with pytest.raises(UserError, match="1 of 6 training samples have none"):
            loss(model, floats(), label(-1))


@every_system
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_labels_of_other_integers_are_the_same_labels(system: str, dtype: torch.dtype) -> None:
    for call in takers(fitted(system)).values():
        assert_close(call(labels().to(dtype)), call(labels()))


@every_system
def test_one_class_alone(system: str) -> None:
    model, one = fitted(system), torch.zeros(B, dtype=torch.long)
    assert bool(loss(model, images(), one).isfinite())
    model = make(system)
    if model.encoder_kind != "relaxed-label":
        message = r"expected a sample of every class.*, got none of \[1, 2\]"
        refused(message, model.fit_latents, images(), one)
        counted = make(system, mixture={"weights": "empirical", "start": "equidistant"})
        refused(r"3 positive class counts, got \[6", counted.fit_statistics, images(), one)


# Sampling, decoding, walking.

sampling = pytest.mark.parametrize("system", SAMPLING)


@sampling
@pytest.mark.parametrize("temperature", [-1.0, -1e-9, nan, inf, -inf, "warm", None])
def test_no_temperature_that_is_wrong_is_taken(system: str, temperature: Any) -> None:
    model = fitted(system)
    message = rf"expected temperature >= 0.*, got '?{temperature}"
    for owner in (model, model.mixture):
        refused(message, owner.sample, labels(), temperature)


@sampling
def test_temperature_zero_is_the_middle_of_each_class(system: str) -> None:
    model = fitted(system)
    means = model.mixture.means[labels()]
    if getattr(model, "standard_prior", False):
        means = torch.zeros_like(means)
    for zero in (0, 0.0, np.float32(0)):
        images = model.sample(labels(), zero, torch.Generator().manual_seed(7))
        assert_close(images, model.decode(means))


@sampling
def test_a_temperature_without_end_and_an_unknown_centre_are_refused(system: str) -> None:
    model = fitted(system)
    message = "expected around .*means.*data.*, got 'mode'"
    refused(message, model.sample, labels(), 1.0, None, "mode")
    drawn = answer("largest .z. is", model.sample, labels(), 1e38, seeded())
    assert drawn is None or bool(drawn.isfinite().all())


WRONG_Z: dict[str, tuple[Callable[[int], Any], str]] = {
    "another width": (lambda d: torch.zeros(2, d + 1), r"shape \(B, \d+\), got \(2, "),
    "one latent": (lambda d: torch.zeros(d), r"shape \(B, \d+\), got \("),
    "integers": (lambda d: torch.zeros(2, d).long(), r"floating.*, got torch\.int64"),
    "complex": (lambda d: torch.zeros(2, d) * 1j, r"real.*, got torch\.complex64"),
    "NaN": (lambda d: torch.full((2, d), nan), r"finite .*, got nan"),
    "inf": (lambda d: torch.full((2, d), inf), r"finite .*, got inf"),
    "another device": (lambda d: torch.zeros(2, d, device="meta"), r"on cpu, .*, got meta"),
    "an array": (lambda d: np.zeros((2, d)), r"a tensor, got ndarray"),
}


@every_system
@pytest.mark.parametrize("case", WRONG_Z)
def test_latents_that_are_wrong_are_neither_decoded_nor_weighed(system: str, case: str) -> None:
    model = fitted(system)
    make_z, message = WRONG_Z[case]
    calls = [model.decode] if model.can_decode else []
    # Of what overflows a mixture says so by its answer.
    calls += [model.mixture.log_prob] if case not in ("NaN", "inf") else []
    for call in calls:
        refused(f"expected z .*{message}", call, make_z(model.mixture.dims))


@pytest.mark.parametrize("system", DECODING)
def test_latents_in_another_form_are_decoded_the_same(system: str) -> None:
    model = fitted(system)
    z = model.encode(floats()).z.detach()
    plain = model.decode(z)
    strided = torch.stack((z, -z), -1)[..., 0]
    for same in (z.double(), strided, z.clone().requires_grad_()):
        check_same(model.decode(same), plain, rtol=1e-5, atol=1e-4)
    one = model.decode(z[:1].expand(B, -1))
    assert_close(one, model.decode(z[:1].repeat(B, 1)))


@pytest.mark.parametrize("system", DECODING)
def test_walks_between_what_does_not_match(system: str) -> None:
    model, x = fitted(system), floats()
    for x1, steps, message in (
        (x[:2], 3, r"got .*\(6, 3, 4, 4\) and \(2, 3, 4, 4\)"),
        (x[:, :1], 3, r"\(6, 1, 4, 4\)"),
        (with_number(nan), 3, "expected x1 .*finite"),
        (x.to("meta"), 3, "expected x1 on cpu"),
        (x, 1, "at least 2 steps, got .* 1 steps"),
        (x, -3, "at least 2 steps, got .* -3 steps"),
        (x, 2.5, "at least 2 steps, got .* 2.5 steps"),
    ):
        refused(message, model.interpolate, x, x1, steps)


# What is particular to some.

WRONG_INDEX: dict[str, tuple[Callable[[], Any], str]] = {
    "none": (lambda: None, "the numbers of the samples .* got none"),
    "too few": (lambda: torch.arange(B - 1), r"index of shape \(6,\).*, got \(5,\)"),
    "float": (lambda: torch.arange(B).float(), r"index: expected integer .*, got torch\.float32"),
    "beyond the set": (lambda: torch.arange(1, B + 1), r"index: expected .* 0\.\.5, got 6"),
    "negative": (lambda: torch.arange(-1, B - 1), r"index: expected .* 0\.\.5, got -1"),
    "another device": (lambda: torch.arange(B).to("meta"), "index on cpu, .*, got meta"),
}


@pytest.mark.parametrize("case", WRONG_INDEX)
def test_numbers_of_samples(case: str) -> None:
    make_index, message = WRONG_INDEX[case]
    refused(message, lambda: loss(fitted("vae-as"), floats(), index=make_index()))


@pytest.mark.parametrize("draws", [0, -1, 1.5])
def test_the_importance_bound_needs_draws(draws: Any) -> None:
    bound: Any = fitted("vae").importance_bound
    refused(rf"expected draws .*at least 1.*, got {draws}", bound, floats(), None, draws)


def table(system: str, **settings: Any) -> GenerativeClassifier:
    """Fit a model of five whole numbers, in eval mode."""
    if "likelihood" in SYSTEMS[system].settings.model_fields:
        settings = {"likelihood": "gaussian", **settings}
    model = make(system, (5,), **settings)
    model.fit_statistics(counts(), labels())
    randomize(model, torch.Generator().manual_seed(4), 0.05)
    return model.eval()


def counts() -> Tensor:
    return torch.randint(50, (B, 5), generator=seeded()).float()


@every_system
def test_the_whole_numbers_of_a_table_are_numbers_not_intervals(system: str) -> None:
    model = table(system)
    for call, dtype in product(readers(model).values(), (torch.int64, torch.uint8, torch.float64)):
        check_same(call(model, counts().to(dtype)), call(model, counts()), **CLOSE)


@pytest.mark.parametrize("system", ["ib-inn", "vc", "vae"])
def test_scores_of_outliers_take_what_the_model_takes(system: str) -> None:
    model = fitted(system)
    for case in ("another width", "grey images", "complex", "NaN", "inf", "an array"):
        make_x, message = WRONG_X[case]
        refused(f"expected x .*{message}", model_scores, model, make_x())
    plain = model_scores(model, images())
    for name, scores in model_scores(model, images().long()).items():
        assert_close(scores, plain[name])


@pytest.mark.parametrize("kind", ["knn", "forest"])
def test_neighbours_and_trees_of_no_sample(kind: str) -> None:
    model = table("vae", branch={"kind": kind, "neighbours": 2, "samples": B})
    model.fit_latents(counts(), labels())
    assert model.log_posterior(counts()[:0]).shape == (0, K)
    x = counts().requires_grad_()
    assert_close(model.log_posterior(x), model.log_posterior(counts()))


def test_the_checks_leave_compiled_and_vectorised_programs_alone() -> None:
    model, x = table("ib-inn", network={"kind": "mlp", "blocks": 1, "hidden": [8]}), counts()
    torch._dynamo.reset()
    compiled = torch.compile(model.log_prob, fullgraph=True, backend="eager")
    assert_close(compiled(x, labels()), model.log_prob(x, labels()))
    gradient = torch.func.vmap(torch.func.grad(lambda one: model.log_prob(one[None])[0]))(x)
    again = x.clone().requires_grad_()
    assert_close(gradient, torch.autograd.grad(model.log_prob(again).sum(), again)[0])


class Questions(TorchDispatchMode):
    """Counter of the values of tensors that a program reads, for which a GPU would have to wait."""

    asked = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any, kwargs: Any = None) -> Any:
        self.asked += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


@every_system
def test_a_training_step_asks_a_gpu_for_no_value(
    system: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make(system).train()
    if model.needs_equal_shares or "identity" in model.heads:
        pytest.skip("counts its labelled samples, or looks their numbers up")
    model.fit_statistics(images(), labels())
    with Questions() as questions:
        loss(model, images())
        assert questions.asked > 0  # of labels and pixels, on a CPU
        monkeypatch.setattr(validate, "readable", lambda values, training: not training)
        # On a CPU torch's own looks at the labels.
        monkeypatch.setattr(objectives, "one_hot", lambda y, classes: torch.eye(classes)[y])
        questions.asked = 0
        loss(model, images())
        loss(model, floats())
        assert questions.asked == 0
