"""Rounding errors of inverses and log-determinants, and who is refused for them."""

from collections.abc import Callable
from math import inf

import pytest
import torch
from small_systems import is_flow
from torch import Tensor

from couplings import Invertible, Rotation
from couplings.core import constant_log_det
from couplings.testing import randomize
from flowclf import build
from flowclf.classifier import GenerativeClassifier
from flowclf.data import Split
from flowclf.evaluation import InexactInverse, check_exact, evaluate
from flowclf.evaluation.exactness import (
    check_exact_draws,
    check_exact_walks,
    inverse_errors,
    latent_errors,
    precision_errors,
)
from flowclf.support.errors import UserError
from flowclf.systems import SYSTEMS

FEATURES, CLASSES = 6, 3
Map = Callable[[Tensor], Tensor]
NUMBERS = ("inverse_error", "inverse_error_median", "log_det_error", "latent_error")


class Told(Invertible):
    """Two maps, of which one claims to be the inverse of the other."""

    def __init__(self, there: Map, back: Map) -> None:
        super().__init__((FEATURES,))
        self.there, self.back = there, back

    def _forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return self.there(x), constant_log_det(x, 0.0)

    def _inverse(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return self.back(z), constant_log_det(z, 0.0)


def model_with(network: Invertible | None = None, system: str = "ib-inn") -> GenerativeClassifier:
    """Build a model of a table; its own small network by default."""
    return build(system, shape=(FEATURES,), classes=CLASSES, backbone=network)


def rows(generator: torch.Generator, count: int = 40) -> Tensor:
    return torch.randn(count, FEATURES, generator=generator)


@pytest.mark.parametrize("system", [*filter(is_flow, SYSTEMS)])
def test_an_untrained_flow_is_exact(system: str, generator: torch.Generator) -> None:
    model, x = model_with(system=system), 100 * rows(generator)
    model.fit_statistics(x, torch.arange(40) % CLASSES)
    found = evaluate(model, Split(x, torch.arange(40) % CLASSES), ["exactness"])
    assert found.keys() == set(NUMBERS)
    assert 0 < found["inverse_error_median"] <= found["inverse_error"] < 1e-5
    assert found["latent_error"] < 1e-5
    assert found["log_det_error"] < 1e-6
    check_exact(model, x)
    check_exact_walks(model, x)
    check_exact_draws(model, 1.0)


def test_a_system_without_an_inverse_has_no_errors(generator: torch.Generator) -> None:
    model, x = model_with(system="vib"), rows(generator)
    found = evaluate(model, Split(x, torch.arange(40) % CLASSES), ["exactness"])
    assert found == dict.fromkeys(NUMBERS)
    check_exact(model, x)
    check_exact_draws(model, 1.0)
    with pytest.raises(UserError, match="expected a system with an inverse"):
        inverse_errors(model, x)


def test_errors_are_in_units_of_what_the_network_sees(generator: torch.Generator) -> None:
    """The same standardised data in other units have the same errors: 2e-8 · 1e9 is about 60."""
    errors = []
    shrunk = Told(lambda x: 1e-9 * x + 1, lambda z: (z - 1) * 1e9)  # nothing is left in float32
    for scale in (1.0, 1000.0):
        x, model = scale * rows(generator.manual_seed(0)), model_with(shrunk)
        model.fit_statistics(x, torch.arange(40) % CLASSES)
        errors.append(inverse_errors(model, x))
    assert errors[0].shape == (40,)
    assert 1 < float(errors[0].median()) < 100
    torch.testing.assert_close(errors[0], errors[1], rtol=0.05, atol=0.05)


@pytest.mark.parametrize("training", [True, False])
def test_precision_and_mode_of_the_model_stay(training: bool, generator: torch.Generator) -> None:
    model, x = model_with().train(training), rows(generator)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    log_det, latent = precision_errors(model, x)
    inverse_errors(model, x)
    assert (log_det.shape, latent.shape) == ((40,), (40,))
    assert model.training is training
    for name, value in model.state_dict().items():
        assert value.dtype == before[name].dtype
        assert torch.equal(value, before[name])


def test_errors_vanish_in_float64(generator: torch.Generator) -> None:
    model, x = model_with(), rows(generator)
    randomize(model.encoder.network, generator, 0.2)
    single = inverse_errors(model, x)
    log_det, _ = precision_errors(model, x)
    assert float(inverse_errors(model.double(), x.double()).max()) < 1e-6 * float(single.max())
    assert float(log_det.max()) > 0
    assert [float(e.max()) for e in precision_errors(model, x.double())] == [0, 0]


def test_what_maps_all_latents_to_one_x_is_refused(generator: torch.Generator) -> None:
    """The one x does come back."""
    model, x = model_with(Told(lambda x: x, lambda z: 0 * z)), rows(generator)
    assert float(latent_errors(model, x).min()) > 0.1
    with pytest.raises(InexactInverse, match="latents back"):
        check_exact_draws(model, 1.0)


def test_an_inverse_that_rounding_has_destroyed_is_refused(generator: torch.Generator) -> None:
    model, x = model_with(), rows(generator)
    randomize(model.encoder.network, generator, 3.0)
    for check in (check_exact, check_exact_walks):
        with pytest.raises(InexactInverse, match="samples back within 0.001 .* off by"):
            check(model, x)
    with pytest.raises(InexactInverse, match=r"latents back .*\(--allow-inexact\)"):
        check_exact_draws(model, 1.0)


def test_what_is_not_finite_is_off_by_infinity(generator: torch.Generator) -> None:
    """A log-scale of 1000: e^1000 is no float32, and JSON has no infinity."""
    rotation = Rotation((FEATURES,), generator)
    model, x = model_with(rotation), rows(generator)
    rotation.log_scale.data.fill_(1000.0)
    assert inverse_errors(model, x).tolist() == [inf] * len(x)
    assert precision_errors(model, x)[1].tolist() == [inf] * len(x)
    found = evaluate(model, Split(x, torch.arange(40) % CLASSES), ["exactness"])
    assert found["inverse_error"] == torch.finfo(torch.float32).max
