"""What a model reads in its own draws: all of it, as a flow, or nothing."""

import pytest
import torch
from small_systems import small
from torch import Tensor, nn

from flowclf import build
from flowclf.classifier import GenerativeClassifier
from flowclf.data import Split
from flowclf.evaluation import Options, Subject
from flowclf.evaluation.cycle import cycle_suite
from flowclf.support.errors import UserError


def model(system: str) -> GenerativeClassifier:
    settings = small(system, image=True)
    made = build(system, shape=(1, 8, 8), classes=4, samples=40, levels=17, seed=3, **settings)
    x = torch.randint(17, (40, 1, 8, 8), generator=torch.Generator().manual_seed(1))
    made.fit_statistics(x.byte(), torch.arange(40) % 4)
    return made


def cycle(made: GenerativeClassifier, samples: int = 400) -> dict[str, float]:
    empty = Split(torch.zeros(0, 1, 8, 8), torch.zeros(0).long())
    found: dict[str, float] = cycle_suite(Subject(made, empty, options=Options(samples=samples)))
    return found


def test_a_flow_finds_each_latent_again_and_the_class_as_often_as_bayes() -> None:
    made = model("ib-inn")
    found = cycle(made)
    assert found["cycle_latent_error"] < 1e-6
    assert cycle(made, samples=4)["cycle_latent_error"] is None
    y = torch.arange(4000) % 4
    z = made.mixture.sample(y, generator=torch.Generator().manual_seed(0))
    bayes = float((made.mixture.log_posterior(z).argmax(1) == y).float().mean())
    assert found["cycle_accuracy"] == pytest.approx(bayes, abs=0.07)


class Constant(nn.Module):
    """Decodes to the same image, whatever the latent."""

    def __init__(self, like: nn.Module) -> None:
        super().__init__()
        self.like = like

    def forward(self, z: Tensor) -> Tensor:
        out: Tensor = self.like(torch.zeros_like(z))
        return out


@pytest.mark.parametrize("system", ["vae", "untapped"])
def test_where_x_says_nothing_of_z_the_error_is_one_or_more(system: str) -> None:
    made = model(system)
    assert hasattr(made, "decoder")
    made.decoder = Constant(made.decoder)
    found = cycle(made)
    assert found["cycle_accuracy"] == 0.25  # one class, whatever was drawn
    assert 0.99 < found["cycle_latent_error"] < 10
    assert cycle(made, samples=400) == found


def test_systems_without_draws_are_refused() -> None:
    with pytest.raises(UserError, match="needs a system that draws, got Softmax"):
        cycle(model("resnet"))
