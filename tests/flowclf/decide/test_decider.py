"""`Decider` on models whose answers are known: guarantees, files, and what it refuses."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_systems import small
from torch import Tensor

import flowclf
from flowclf import Decider, UserError
from flowclf.classifier import GenerativeClassifier
from flowclf.decide import FILE
from flowclf.evaluation.scores import SCORES
from flowclf.systems import SYSTEMS

K = 3


def points(count: int, seed: int, far: float = 0.0) -> tuple[Tensor, Tensor]:
    """Draw three overlapping clusters in the plane, all of them `far` off."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(K, (count,), generator=generator)
    centres = torch.tensor([[0.0, 2.0], [2.0, -1.0], [-2.0, -1.0]])
    return centres[y] + torch.randn(count, 2, generator=generator) + far, y


@pytest.fixture(scope="module")
def model() -> GenerativeClassifier:
    """A Gaussian for each class, at its place in standardised data: the truth, but for rounding."""
    model = flowclf.build("ib-inn", shape=(2,), classes=K, network={"kind": "mlp", "blocks": 1})
    x, y = points(2000, 0)
    model.fit_statistics(x, y)
    model.fit_latents(x, y)
    model.mixture.set_means(model.mixture.data_means)
    return model.eval()


def made(model: GenerativeClassifier, count: int = 500, **settings: Any) -> Decider:
    return Decider(model, **settings).fit(*points(count, 1), points(600, 2)[0])


def test_the_guarantees_hold_for_inputs_like_the_calibration_samples(
    model: GenerativeClassifier,
) -> None:
    """Means over 20 draws of the calibration samples, within three standard errors."""
    covered, alarms = [], []
    x, y = points(2000, 3)
    train = points(600, 2)[0]
    for seed in range(20):
        decider = Decider(model, coverage=0.9, false_alarm=0.05)
        decisions = decider.fit(*points(200, 100 + seed), train)(x)
        covered.append(float(decisions.sets.gather(1, y[:, None]).double().mean()))
        alarms.append(float((decisions.p_value <= 0.05).double().mean()))
    error = [3 * np.std(values) / 20**0.5 + 0.01 for values in (covered, alarms)]
    assert abs(np.mean(covered) - 0.9) < error[0]
    assert np.mean(alarms) < 0.05 + error[1]


def test_a_decision_follows_from_set_and_p_value(model: GenerativeClassifier) -> None:
    x = torch.cat([points(300, 4)[0], points(50, 5, far=30.0)[0]])
    found = made(model, false_alarm=0.02)(x)
    size, seen = found.sets.sum(1), found.p_value > 0.02
    expected = np.where(seen & (size == 1), "accept", np.where(seen, "ambiguous", "never seen"))
    assert found.decision.tolist() == expected.tolist()
    assert set(found.decision[:300]) >= {"accept", "ambiguous"}
    assert set(found.decision[300:]) == {"never seen"}
    posterior = model.log_posterior(x).exp()
    torch.testing.assert_close(found.probability.float(), posterior.amax(1), rtol=1e-4, atol=1e-5)
    assert torch.equal(found.label, posterior.argmax(1))
    rows = list(found.rows(("a", "b", "c")))
    assert len(rows) == len(found) == 350
    assert rows[0]["label"] in rows[0]["set"] or not rows[0]["set"]


@pytest.mark.parametrize("score", ["auto", "negative-log-prob"])
def test_the_excess_says_what_is_never_seen_and_how_to_be_seen(
    model: GenerativeClassifier, score: str
) -> None:
    decider = made(model, score=score, false_alarm=0.02)
    x = torch.cat([points(300, 4)[0], points(50, 5, far=6.0)[0]])
    excess = decider.excess(x)
    assert ((excess > 0).numpy() == (decider(x).decision == "never seen")).all()
    at = x[300:].requires_grad_()
    (gradient,) = torch.autograd.grad(decider.excess(at).sum(), at)
    nearer = decider.excess((at - 0.1 * gradient / gradient.norm(dim=1, keepdim=True)).detach())
    assert bool((nearer < excess[300:]).all())


def test_sets_per_class_cover_each_class(model: GenerativeClassifier) -> None:
    x, y = points(6000, 6)
    found = made(model, 3000, per_class=True, sets="aps", coverage=0.9)(x)
    own = found.sets.gather(1, y[:, None])[:, 0]
    for k in range(K):
        assert abs(float(own[y == k].double().mean()) - 0.9) < 0.03


def test_an_answer_is_that_of_the_input_alone(model: GenerativeClassifier) -> None:
    decider, x = made(model, sets="aps"), points(40, 7)[0]
    together, alone = decider(x), decider(x[7:9])
    assert torch.equal(together.sets[7:9], alone.sets)
    torch.testing.assert_close(together.p_value[7:9], alone.p_value, rtol=0, atol=0.01)


def test_without_training_samples_half_of_the_others_take_their_place(
    model: GenerativeClassifier,
) -> None:
    decider = Decider(model).fit(*points(400, 1))
    assert len(decider.scores) == 200
    # A third of the other half is what scores are fitted to, beside the discriminant.
    assert len(decider.reference.statistics["nll_per_dim"]) == 67
    assert float(decider(points(500, 8)[0]).p_value.min()) >= 1 / 201
    with pytest.raises(
        UserError, match=r"at least 99 .* got 75 \(half of them, as there is no x_t"
    ):
        Decider(model).fit(*points(150, 1))


def test_the_limit_is_where_never_seen_begins(model: GenerativeClassifier) -> None:
    decider = made(model, false_alarm=0.05)
    found = decider(torch.cat([points(400, 14)[0], points(100, 15, far=3.0)[0]]))
    assert torch.equal(found.p_value > 0.05, found.score <= decider.limit)


def test_a_batch_that_drifts_is_noticed(model: GenerativeClassifier) -> None:
    decider = made(model)
    alike, away = decider.monitor(points(300, 9)[0]), decider.monitor(points(300, 9, far=2.0)[0])
    assert not alike.drifted
    assert alike.p_value > 0.01
    assert away.drifted
    assert (away.samples, away.statistic > alike.statistic) == (300, True)


def test_it_is_loaded_with_its_model(tmp_path: Path, model: GenerativeClassifier) -> None:
    decider, x = made(model, sets="raps", per_class=True), points(50, 10)[0]
    model.save(tmp_path / "model")
    decider.save(tmp_path / "model")
    again = Decider.load(tmp_path / "model")
    first, second = decider(x), again(x)
    assert torch.equal(first.sets, second.sets)
    assert torch.equal(first.p_value, second.p_value)
    assert first.decision.tolist() == second.decision.tolist()
    wider = Decider.load(tmp_path / "model", coverage=0.99, false_alarm=0.1)
    assert (wider.coverage, wider.false_alarm) == (0.99, 0.1)
    assert bool((wider(x).sets >= second.sets).all())
    with pytest.raises(UserError, match="at least 9999 calibration samples for false_alarm=0.0001"):
        Decider.load(tmp_path / "model", false_alarm=0.0001)
    with pytest.raises(TypeError, match="sets"):
        Decider.load(tmp_path / "model", sets="aps")  # type: ignore[call-arg]


def test_other_weights_are_refused(tmp_path: Path, model: GenerativeClassifier) -> None:
    model.save(tmp_path / "model")
    made(model).save(tmp_path / "model")
    other = flowclf.load(tmp_path / "model")
    other.mixture.means.data[0, 0] += 1e-3
    with pytest.raises(UserError, match="belongs to other weights .* the model has changed"):
        Decider.load(tmp_path / "model", other)
    file = tmp_path / "model" / FILE
    spoilt = bytearray(file.read_bytes())
    spoilt[-1] ^= 1
    file.write_bytes(bytes(spoilt))
    with pytest.raises(UserError, match="is damaged"):
        Decider.load(tmp_path / "model")
    file.unlink()
    with pytest.raises(UserError, match=f"has no {FILE}"):
        Decider.load(tmp_path / "model")


def test_another_definition_of_the_score_is_refused(
    tmp_path: Path, model: GenerativeClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As its p-values would not be those of the calibration."""
    model.save(tmp_path / "model")
    made(model).save(tmp_path / "model")
    monkeypatch.setitem(SCORES, "auto", replace(SCORES["auto"], formula="as it was once"))
    with pytest.raises(UserError, match=r"another definition of the score 'auto'; calibrate again"):
        Decider.load(tmp_path / "model")


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system_decides_with_the_scores_it_has(system: str) -> None:
    model = flowclf.build(system, shape=(2,), classes=K, samples=300, **small(system))
    x, y = points(300, 11)
    model.fit_statistics(x, y)
    found = Decider(model, false_alarm=0.05).fit(x, y, points(90, 12)[0])(points(20, 13)[0])
    assert len(found) == 20
    assert bool(((found.p_value > 0) & (found.p_value <= 1)).all())


def test_what_does_not_fit_is_refused(model: GenerativeClassifier) -> None:
    with pytest.raises(UserError, match="expected coverage between 0 and 1, got 95"):
        Decider(model, coverage=95)
    with pytest.raises(UserError, match="expected false_alarm between 0 and 1, got 0"):
        Decider(model, false_alarm=0)
    with pytest.raises(UserError, match="expected sets to be lac or aps or raps, got 'top'"):
        Decider(model, sets="top")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="expected score to be auto or .* got 'magic'"):
        Decider(model, score="magic")
    with pytest.raises(UserError, match=r"got 'rate', which needs Gaussian encoder; take 'auto'"):
        made(model, score="rate")
    with pytest.raises(UserError, match="calibrated; call fit"):
        Decider(model)(points(3, 0)[0])
    x, y = points(200, 1)
    with pytest.raises(UserError, match=r"expected y of shape \(200,\)"):
        Decider(model).fit(x, y[:9], x)
    with pytest.raises(UserError, match="expected integer labels 0..2, got 7"):
        Decider(model).fit(x, y.clone().fill_(7), x)
    with pytest.raises(UserError, match="at least 19 .* of each class .* got 0 of class 2"):
        Decider(model, per_class=True).fit(x, y % 2, x)
    with pytest.raises(UserError, match="finite"):
        made(model)(torch.full((2, 2), math.nan))
    with pytest.raises(UserError, match="expected x of shape"):
        made(model)(torch.zeros(2, 5))
