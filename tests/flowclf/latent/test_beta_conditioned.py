"""One model for every β̃: exact at each of them, and each a model of its own."""

import copy
import json
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

import flowclf
from couplings.testing import assert_invertible, autograd_log_det, randomize
from flowclf.cli.app import run
from flowclf.config import make_config
from flowclf.data import load_dataset
from flowclf.latent.beta_conditioned import FEATURES, TradeOff
from flowclf.runs import Run
from flowclf.support.errors import UserError
from flowclf.systems.ib_inn import ConditionedIBInn
from flowclf.training import train

NETWORK = {"kind": "mlp", "condition": "beta", "blocks": 2, "hidden": [8]}


def made(network: dict[str, object] = NETWORK, shape: tuple[int, ...] = (6,)) -> ConditionedIBInn:
    """Build a model of weights that are not zero, in float64 and eval mode."""
    model = flowclf.build("ib-inn", shape=shape, classes=3, network=network, beta=1.0)
    assert isinstance(model, ConditionedIBInn)
    randomize(model, torch.Generator().manual_seed(0), 0.1)
    return model.double().eval()


def samples(count: int = 5) -> Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_features_are_cosines_of_the_place_in_the_range() -> None:
    trade_off = TradeOff(0.1, 10.0, 1.0)
    for beta, place in ((0.1, 0.0), (1.0, 0.5), (10.0, 1.0)):
        trade_off.move(beta)
        expected = [math.cos(math.pi * place * k) for k in range(1, FEATURES + 1)]
        torch.testing.assert_close(trade_off(), torch.tensor(expected), atol=1e-6, rtol=0)


def test_drawn_values_are_log_uniform(generator: Generator) -> None:
    trade_off, drawn = TradeOff(0.1, 10.0, 1.0), []
    for _ in range(2000):
        trade_off.draw(generator)
        drawn.append(float(trade_off.beta))
    logs = torch.tensor(drawn).log10()
    assert -1 <= float(logs.min()) < -0.99
    assert 0.99 < float(logs.max()) <= 1
    assert float(logs.mean()) == pytest.approx(0, abs=0.05)
    assert float(logs.std()) == pytest.approx(2 / math.sqrt(12), rel=0.05)


@pytest.mark.parametrize("limits", [(0.0, 1.0), (1.0, 1.0), (2.0, 1.0), (1.0, math.inf)])
def test_ranges_that_are_none(limits: tuple[float, float]) -> None:
    with pytest.raises(UserError, match="expected 0 < lowest < highest"):
        TradeOff(*limits, 1.0)


@pytest.mark.parametrize("beta", [0.02, 1.0, 50.0])
def test_the_log_det_is_exact_at_every_beta(beta: float) -> None:
    model, x = made(), samples()
    model.move_to(beta)
    encoding = model.encode(x)
    expected = autograd_log_det(lambda u, _: model.encode(u).z, x)
    torch.testing.assert_close(encoding.log_det, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(model.decode(encoding.z), x, rtol=1e-9, atol=1e-9)
    assert_invertible(model.encoder.network, x, model.encoder.context(x))


def test_couplings_and_means_follow_beta() -> None:
    model, x = made(), samples()
    found = {}
    for beta in (0.1, 10.0):
        model.move_to(beta)
        found[beta] = model.encode(x).z, model.mixture.means, model.log_prob(x)
    assert all((a - b).abs().max() > 1e-3 for a, b in zip(found[0.1], found[10.0], strict=True))


def test_training_draws_and_evaluation_goes_back(generator: Generator) -> None:
    model, x = made(), samples(9)
    y = torch.arange(9) % 3
    before = model.log_prob(x)
    model.train()
    drawn = set()
    for _ in range(5):
        terms = {name: value.detach() for name, value in model.loss(x, y, generator).items()}
        drawn.add(model.beta)
        expected = 2 / (1 + model.beta) * (terms["rate_per_dim"] + model.beta * terms["decision"])
        assert float(terms["total"]) == pytest.approx(float(expected), rel=1e-6)
    assert len(drawn) == 5
    model.eval()
    assert model.beta == 1.0
    assert torch.equal(model.log_prob(x), before)


def test_gradients_reach_all_that_is_conditioned(generator: Generator) -> None:
    model = made().train()
    model.loss(samples(9), torch.arange(9) % 3, generator)["total"].backward()
    missing = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []
    assert float(model.mixture.mean_terms.grad.abs().max()) > 0  # type: ignore[union-attr,operator]


def test_it_is_copied_pickled_and_saved_whole(tmp_path: Path) -> None:
    model, x = made(), samples()
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        other.move_to(10.0)
        assert model.beta == 1.0
        assert not torch.equal(other.log_prob(x), model.log_prob(x))
        model.move_to(10.0)
        assert torch.equal(other.log_prob(x), model.log_prob(x))
        model.move_to(1.0)


def test_a_run_answers_at_every_beta(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digits, folder = load_dataset("digits"), tmp_path / "run"
    small = {
        "network": NETWORK | {"blocks": 1},
        "data": {"train_size": 300, "test_size": 60},
        "train": {"epochs": 2},
        "objective": {"betas": [0.1, 10.0]},
    }
    options: dict[str, Any] = {"preset": "mlp", "beta": 1.0, "overrides": [small]}
    config = make_config("ib-inn", "digits", digits.shape, **options)
    trained = train(config, digits, Run(folder), device="cpu")
    loaded = flowclf.load(folder)
    assert isinstance(loaded, ConditionedIBInn)
    assert torch.equal(loaded.log_prob(digits.test.x), trained.model.log_prob(digits.test.x))
    words = ["--betas", "0.1:10:3", "--no-baselines", "--json", "--device", "cpu"]
    assert run(["evaluate", str(folder), *words]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["beta"] for each in found] == [0.1, 1.0, 10.0]
    assert len({each["bits_per_dim"] for each in found}) == 3
    assert found[1]["bits_per_dim"] == trained.summary["test"]["bits_per_dim"]
    assert len(json.loads((folder / "evaluation.json").read_text())["betas"]) == 3
    assert run(["evaluate", str(folder), "--betas", "20,30", "--no-baselines"]) == 2
    assert "from 0.1 to 10, which was trained, got 20" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("system", "settings", "message"),
    [
        ("ib-inn", {"network": {"kind": "conv", "condition": "beta"}}, "batch_norm=false"),
        ("class-nll", {"network": NETWORK}, "expected no network.condition of a system without"),
        ("ib-inn", {"network": NETWORK, "objective": {"beta": math.inf}}, "which was trained"),
    ],
)
def test_what_cannot_be_conditioned(system: str, settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        flowclf.build(system, shape=(1, 8, 8), classes=3, **settings)
