"""Warnings of images that are hardly in grey levels."""

import warnings

import pytest
import torch

import flowclf
from flowclf.classifier import GenerativeClassifier

SHAPE = (1, 4, 4)


@pytest.fixture
def model() -> GenerativeClassifier:
    model = flowclf.build("ib-inn", shape=SHAPE, classes=2, levels=17)
    return model.eval()


@pytest.fixture
def grey(generator: torch.Generator) -> torch.Tensor:
    return torch.randint(17, (5, *SHAPE), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("name", ["log_prob", "predict", "log_posterior", "encode", "elbo"])
def test_whole_floats_are_warned_of_once(
    name: str, model: GenerativeClassifier, grey: torch.Tensor
) -> None:
    with pytest.warns(UserWarning, match="whole floats.*uint8, or add 0.5"):
        getattr(model, name)(grey.float())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        getattr(model, name)(grey.float())


def test_a_range_from_0_to_1_is_warned_of(model: GenerativeClassifier, grey: torch.Tensor) -> None:
    with pytest.warns(UserWarning, match="within 0…1, where levels are 0…16; multiply them by 16"):
        model.predict((grey - grey.min()) / 16)


def test_what_may_be_meant_is_not(model: GenerativeClassifier, grey: torch.Tensor) -> None:
    for x in (grey, grey + 0.5, model.perturb(grey), torch.zeros(2, *SHAPE), grey.float()[:0]):
        model.log_prob(x)
    model.train().loss(grey.float(), torch.zeros(5).long())
    table = flowclf.build("ib-inn", shape=(3,), classes=2).eval()
    table.log_prob(torch.tensor([[0.0, 1.0, 1.0]]))
    plain = flowclf.build("ce", shape=SHAPE, classes=2, levels=17).eval()
    plain.predict(grey.float())  # a network without dequantisation


def test_a_program_is_not_asked(model: GenerativeClassifier, grey: torch.Tensor) -> None:
    torch.func.vmap(lambda x: model.log_prob(x[None])[0])(grey.float())
