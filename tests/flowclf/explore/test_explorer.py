"""`Explorer`: its answers are those of the model, for every system, and its paths are exact."""

import base64
import json
from typing import Any

import pytest
import torch
from explored import SHAPE, explorer
from pydantic import ValidationError
from torch import Tensor

from flowclf import Decider, UserError
from flowclf.explore.explorer import CALLS, Explorer
from flowclf.explore.paths import polyline, slerp, to_usual
from flowclf.explore.wire import Wire
from flowclf.systems import SYSTEMS

QUESTIONS: dict[str, dict[str, Any]] = {
    "facts": {}, "state": {}, "points": {"plane": "principal"}, "pictures": {},
    "decode": {"at": [0.1, -0.2], "sample": 3},
    "walk": {"start": {"sample": 0}, "end": {"class": 1}, "path": "means", "steps": 4},
    "film": {"start": {"sample": 0}, "end": {"sample": 1}, "steps": 3},
    "counterfactual": {"place": {"sample": 0}, "target": 1, "steps": 3},
    "contributions": {"place": {"sample": 0}, "target": 1},
    "judge": {"place": {"sample": 2}}, "wish": {"place": {"sample": 2}},
    "samples": {"per_class": 2, "temperature": 0.5, "seed": 3, "class": 1},
}  # fmt: skip


@pytest.fixture(scope="module")
def flow() -> Explorer:
    made = explorer()
    made.prepare()
    return made


def sent(told: dict[str, Any]) -> Tensor:
    """Unpack the images of an answer, as bytes (N, *SHAPE)."""
    return torch.frombuffer(bytearray(base64.b64decode(told["x"])), dtype=torch.uint8).view(
        -1, *SHAPE
    )


@pytest.mark.parametrize("system", sorted(set(SYSTEMS) - {"hybrid"}))
def test_every_system_answers_or_says_what_it_lacks(system: str) -> None:
    made = explorer(system)
    for ready in (False, True):
        if ready:
            made.prepare()
        refused = set()
        for name, arguments in QUESTIONS.items():
            try:
                json.dumps(made.call(name, arguments), allow_nan=False)
            except UserError:
                refused.add(name)
        model = made.model
        assert ("samples" in refused) == (not model.can_sample)
        assert ("counterfactual" in refused) == (not model.can_decode)
        assert not refused - {"samples", "counterfactual", "contributions", "wish"}
    assert made.call("state", {})["ready"] is True
    assert made.call("judge", QUESTIONS["judge"])["decision"]


def test_all_questions_are_asked_here() -> None:
    assert set(QUESTIONS) == set(CALLS)


def test_tables_have_sliders_instead_of_images() -> None:
    made = explorer(table=True, network={"kind": "mlp", "blocks": 2})
    features = made.call("facts", {})["features"]
    assert [f["column"] for f in features] == [0, 1, 2, 3]
    assert all(f["low"] < f["middle"] < f["high"] for f in features)
    row = [0.5, -1.0, 2.0, 0.0]
    told = made.call("judge", {"place": {"x": row}})
    assert told["x"] == [row]
    expected = made.model.predict_proba(torch.tensor([row]))
    torch.testing.assert_close(torch.tensor(told["posterior"]), expected, atol=1e-6, rtol=0)
    with pytest.raises(UserError, match="4 numbers"):
        made.call("judge", {"place": {"x": row[:3]}})
    with pytest.raises(UserError, match="images"):
        made.call("film", QUESTIONS["film"])


def test_a_judgement_is_the_models_and_the_deciders(flow: Explorer) -> None:
    x = flow.test.x[7:8]
    told = flow.call("judge", {"place": {"sample": 7}})
    posterior = flow.model.predict_proba(x)
    torch.testing.assert_close(torch.tensor(told["posterior"]), posterior, atol=1e-6, rtol=0)
    bits = -flow.model.log_prob(x) / (64 * torch.tensor(2.0).log())
    torch.testing.assert_close(torch.tensor(told["bits_per_dim"]), bits, atol=1e-3, rtol=0)
    assert flow.decider is not None
    assert told["p_value"] == pytest.approx(flow.decider(x).p_value.tolist(), abs=1e-4)
    near = told["neighbours"]
    train = flow.task.training
    apart = (flow.model.encode(train.x).z - flow.model.encode(x).z).norm(dim=1)
    assert near["distance"] == pytest.approx(apart.sort().values[:8].tolist(), abs=1e-3)
    assert near["label"] == train.y[apart.argsort()[:8]].tolist()


def test_the_pages_own_calibration_is_fitted_to_held_out_samples(flow: Explorer) -> None:
    split = flow.task.validation
    expected = Decider(flow.model).fit(split.x, split.y, flow.task.training.x)(flow.test.x)
    found = flow.call("state", {})["p_value"]
    assert found == pytest.approx(expected.p_value.tolist(), abs=1e-4)


@pytest.mark.parametrize("plane", ["means", "principal", "dimensions"])
def test_a_sample_is_decoded_where_it_lies_with_its_own_style(flow: Explorer, plane: str) -> None:
    points = flow.call("points", {"plane": plane, "dimensions": [5, 2]})
    told = flow.call("decode", {"at": points["at"][4], "sample": 4})
    own = sent({"x": flow.wire.pack(flow.test.x[4:5])})
    assert (sent(told).int() - own.int()).abs().max() <= 16  # a level: it lies on the edge of one
    centre, basis = flow.plane
    torch.testing.assert_close(basis @ basis.T, torch.eye(2), atol=1e-4, rtol=0)


@pytest.mark.parametrize("path", ["straight", "spherical", "means"])
def test_a_walk_begins_and_ends_where_it_was_asked_to(flow: Explorer, path: str) -> None:
    told = flow.call("walk", {"start": {"sample": 0}, "end": {"sample": 5}, "path": path})
    walk = sent(told).int()
    ends = sent({"x": flow.wire.pack(flow.test.x[[0, 5]])}).int()
    assert len(walk) == 33
    assert (walk[[0, -1]] - ends).abs().max() <= 16
    torch.testing.assert_close(
        torch.tensor(told["posterior"])[[0, -1]],
        flow.model.predict_proba(flow.test.x[[0, 5]]), atol=1e-4, rtol=0,
    )  # fmt: skip


def test_contributions_add_up_to_the_log_odds(flow: Explorer) -> None:
    told = flow.call("contributions", {"place": {"sample": 0}, "target": 1})
    log_posterior = flow.model.log_posterior(flow.test.x[:1])[0].detach()
    odds = float(log_posterior[told["predicted"]] - log_posterior[1])
    assert sum(told["nats"]) == pytest.approx(odds, rel=0.1, abs=0.1)
    with pytest.raises(UserError, match="another class"):
        flow.call("contributions", {"place": {"sample": 0}, "target": told["predicted"]})


def test_a_seed_gives_the_same_noise_and_a_dial_moves_it_evenly(flow: Explorer) -> None:
    cold, warm, again = (
        flow.call("samples", {"seed": 4, "temperature": t, "per_class": 2}) for t in (0, 0.5, 0)
    )
    assert cold == again
    assert cold["label"] == [0, 0, 1, 1, 2, 2]
    images = sent(cold)
    assert bool((images[0] == images[1]).all())  # at temperature 0 all are the mean
    assert cold["x"] != warm["x"]


def test_one_model_of_many_betas_moves(flow: Explorer) -> None:
    network = {"kind": "conv", "blocks": [1, 1], "width": 8, "batch_norm": False}
    made = explorer(network=network | {"condition": "beta"}, objective={"betas": [0.1, 10]})
    assert made.call("facts", {})["betas"] == [0.1, 10]
    made.call("samples", {"beta": 5.0})
    assert made.call("facts", {})["beta"] == pytest.approx(5)
    with pytest.raises(UserError, match="0.1 to 10"):
        made.call("samples", {"beta": 20.0})
    with pytest.raises(UserError, match="many β̃"):
        flow.call("samples", {"beta": 5.0})


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("walk", {"start": {"sample": 0}, "end": {"sample": 10**9}}),
        ("walk", {"start": {"sample": 0}, "end": {"sample": -1}}),
        ("walk", {"start": {"sample": 0}, "end": {"class": 3}}),
        ("walk", {"start": {"sample": 0}, "end": {}}),
        ("walk", {"start": {"sample": 0}, "end": {"sample": 1}, "steps": 10**9}),
        ("walk", {"start": {"sample": 0, "class": 0}, "end": {"sample": 1}}),
        ("judge", {"place": {"x": "####"}}),
        ("judge", {"place": {"x": "\ud800"}}),
        ("judge", {"place": {"x": [1.0] * 64}}),
        ("judge", {"place": {"x": base64.b64encode(bytes(63)).decode()}}),
        ("decode", {"at": [float("nan"), 0]}),
        ("decode", {"at": [0, 0], "sample": 60}),
        ("points", {"plane": "dimensions", "dimensions": [0, 64]}),
        ("points", {"plane": "dimensions", "dimensions": [1, 1]}),
        ("samples", {"per_class": 10**6}),
        ("samples", {"temperature": float("inf")}),
        ("samples", {"extra": 1}),
        ("prepare", {}),
        ("__init__", {}),
    ],
)
def test_questions_that_make_no_sense_are_refused(
    flow: Explorer, name: str, arguments: dict[str, Any]
) -> None:
    with pytest.raises((UserError, ValidationError)):
        flow.call(name, arguments)


def test_images_travel_unchanged_and_points_as_the_level_below() -> None:
    wire = Wire(SHAPE, 17)
    x = torch.arange(64).view(1, *SHAPE) % 17
    packed = wire.pack(x)
    assert isinstance(packed, str)
    assert bool((wire.unpack(packed) == x).all())
    assert wire.pack(x + 0.9) == packed
    assert max(base64.b64decode(packed)) == 255
    assert wire.pack(x - 3.0) == wire.pack((x - 3).clamp(0))


def test_the_arc_keeps_its_speed_and_changes_length_evenly() -> None:
    start, end = torch.tensor([[2.0, 0, 0]]), torch.tensor([[0, 4.0, 0]])
    arc = slerp(start, end, 5)
    torch.testing.assert_close(arc.norm(dim=1), torch.tensor([2, 2.5, 3, 3.5, 4]))
    angles = torch.atan2(arc[:, 1], arc[:, 0]).rad2deg()
    torch.testing.assert_close(angles, torch.tensor([0, 22.5, 45, 67.5, 90]))
    torch.testing.assert_close(
        slerp(start, 2 * start, 3), torch.tensor([[2.0, 0, 0], [3, 0, 0], [4, 0, 0]])
    )


def test_a_polyline_visits_its_corners() -> None:
    corners = torch.tensor([[0.0, 0], [1, 0], [1, 3]])
    line = polyline(corners, 5)
    torch.testing.assert_close(line, torch.tensor([[0.0, 0], [0.5, 0], [1, 0], [1, 1.5], [1, 3]]))


def test_a_far_latent_comes_as_near_as_usual_and_a_near_one_stays() -> None:
    mean, std = torch.tensor([1.0, 0]), torch.tensor([1.0, 2])
    far = to_usual(torch.tensor([[1.0, 20]]), mean, std, 5.0, 3)
    torch.testing.assert_close(far, torch.tensor([[1.0, 20], [1, 15], [1, 10]]))
    near = to_usual(torch.tensor([[2.0, 0]]), mean, std, 5.0, 2)
    torch.testing.assert_close(near, torch.tensor([[2.0, 0], [2, 0]]))
