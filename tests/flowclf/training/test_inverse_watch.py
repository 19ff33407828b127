"""An inverse that rounding has eaten is noticed, in a loop of one's own and in `train`."""

import pytest
import torch

import flowclf
from flowclf.classifier import GenerativeClassifier
from flowclf.training import TrainingDiverged, check_inverse, loop


def seeded(count: int) -> torch.Tensor:
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(0))


def flow(depth: int) -> GenerativeClassifier:
    network = {"blocks": depth, "hidden": [8]}
    model = flowclf.build("ib-inn", shape=(4,), classes=2, network=network)
    model.fit_statistics(seeded(40), torch.arange(40) % 2)
    return model


def test_a_sound_inverse_passes_and_a_lost_one_is_named() -> None:
    model = flow(20)
    error, nats = check_inverse(model, seeded(8))
    assert 0 < error < 1e-4
    assert 0 <= nats < 1e-4
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.encoder.network.parameters():
            parameter.normal_(0, 3, generator=generator)
    training = model.training
    with pytest.raises(TrainingDiverged, match="give.* samples back within 0.1 .*log-determinant"):
        check_inverse(model, seeded(8))
    assert model.training == training


def test_a_model_without_an_inverse_has_none_to_lose() -> None:
    model = flowclf.build("ce", shape=(4,), classes=2)
    assert check_inverse(model, seeded(8)) == (0.0, 0.0)


def test_a_training_says_it_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lost(model: GenerativeClassifier, x: torch.Tensor) -> None:
        raise TrainingDiverged("the inverse is lost")

    monkeypatch.setattr(loop, "check_inverse", lost)
    data = flowclf.data.from_arrays(seeded(60), torch.arange(60) % 2)
    train = {"batch_size": 24, "evaluate_every": 1, "epochs": 3}
    network = {"blocks": 1, "hidden": [4]}
    flowclf.train("ib-inn", data, verbose=False, train=train, network=network)
    assert capsys.readouterr().err.count("the inverse is lost") == 1
