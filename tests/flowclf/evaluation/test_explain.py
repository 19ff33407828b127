"""Explanations of single predictions, and the systems that give them."""

import json
from math import log
from typing import Any

import pytest
import torch
from small_systems import is_flow, small
from torch import Tensor
from torch.testing import assert_close

from flowclf import build
from flowclf.classifier import GenerativeClassifier
from flowclf.data import Split
from flowclf.evaluation import Options, Subject, predict_split
from flowclf.evaluation.counterfactuals import counterfactual, distances_to_means, even_odds
from flowclf.evaluation.explain import explain_rows, explain_suite, explanations, least_sure
from flowclf.models import systems_with
from flowclf.support.errors import UserError
from flowclf.systems import SYSTEMS

K, SHAPE = 3, (1, 8, 8)
# Whose posterior along a line between latents is known.
INVERTIBLE = [s for s in systems_with("posterior_is_mixture") if is_flow(s)]
DISTANCES = ("distance", "runner_up_distance", "nearest_mean")


def images(count: int = 30) -> Split:
    """Three classes, a bright corner each, so that even an untrained network tells them apart."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 128, (count, *SHAPE), generator=generator, dtype=torch.uint8)
    y = torch.arange(count) % K
    for k, (row, column) in enumerate(((0, 0), (0, 4), (4, 0))):
        x[y == k, :, row : row + 4, column : column + 4] += 100
    return Split(x, y)


def made(system: str, **settings: Any) -> GenerativeClassifier:
    """Build an untrained model of weights that are not zero, as couplings and branches start."""
    sections = small(system, hidden=16) | settings
    model = build(system, shape=SHAPE, classes=K, samples=30, **sections)
    model.fit_statistics(images().x, images().y)
    generator = torch.Generator().manual_seed(1)
    for name, weights in model.named_parameters():
        if weights.dim() > 1 and not name.startswith("mixture"):
            weights.data += 0.05 * torch.randn(weights.shape, generator=generator)
    model.fit_latents(images().x, images().y)
    return model


def rows_of(model: GenerativeClassifier, count: int = 5) -> list[dict[str, Any]]:
    return explain_rows(model, images(), predict_split(model, images()).log_posterior, count)


def test_the_least_sure_come_first_and_ties_in_their_order() -> None:
    posterior = torch.tensor([[0.9, 0.1], [0.5, 0.5], [0.4, 0.6], [0.5, 0.5], [0.7, 0.3]])
    assert least_sure(posterior.log(), 4).tolist() == [1, 3, 2, 4]
    assert len(least_sure(posterior.log(), 9)) == 5


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system_says_what_it_can(system: str) -> None:
    model = made(system)
    rows = rows_of(model)
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows == rows_of(model)
    assert len(rows) == 5
    likelihoods = [name for name in rows[0] if name.endswith("_per_dim_nats")]
    for row in rows:
        assert row["predicted"] != row["runner_up"]
        assert row["posterior"] >= row["runner_up_posterior"]
        assert row["class"] == row["sample"] % K
        assert all(row[name] is not None for name in DISTANCES)
        assert model.can_decode or row["shift"] is None
        told = [row[name] is not None for name in likelihoods]
        assert told == [model.has_elbo, model.has_elbo and row["shift"] is not None]
    known = model.encoder_kind == "invertible" and model.posterior_is_mixture
    assert not known or any(row["shift"] for row in rows)
    kind = "elbo" if model.has_elbo and not model.has_density else "log_prob"
    assert likelihoods == [f"{kind}_per_dim_nats", f"counterfactual_{kind}_per_dim_nats"]


def test_rows_are_what_the_functions_say() -> None:
    model = made("ib-inn").double().eval()
    (row,) = rows_of(model, 1)
    x = images().x[row["sample"]][None]
    source, target = torch.tensor([row["predicted"]]), torch.tensor([row["runner_up"]])
    found = counterfactual(model, x, target, 0.9, source)
    assert row["shift"] == pytest.approx(found.shift.item())
    assert row["nearest_mean"] == int(distances_to_means(model, x).argmin())
    for name, of in (("log_prob", x), ("counterfactual_log_prob", found.x)):
        per_dim = model.log_prob(of).item() / model.dims
        assert row[f"{name}_per_dim_nats"] == pytest.approx(per_dim)


@pytest.mark.parametrize("system", INVERTIBLE)
def test_the_counterfactual_has_its_posterior(system: str) -> None:
    """Posterior of the decoded x, in float64."""
    model, x = made(system).double().eval(), images().x
    posterior, source = model.log_posterior(x).sort(descending=True)
    assert bool((posterior[:, 1] < log(0.9)).all())
    found = counterfactual(model, x, source[:, 1], 0.9, source[:, 0])
    reached = model.log_posterior(found.x).gather(1, source[:, 1:2])
    there = ~found.shift.isnan()
    assert int(there.sum()) > 20
    assert_close(reached[there], torch.full_like(reached[there], log(0.9)), atol=1e-6, rtol=0)


@pytest.mark.parametrize("system", ["ib-inn", "i-revnet", "bvae", "m2"])
def test_contributions_add_up_to_log_odds_above_the_reference(system: str) -> None:
    """Even odds need not exist between the classes of an untrained network."""
    model = made(system).double().eval()
    rows = rows_of(model, 3)
    x = images().x[[row["sample"] for row in rows]]
    y, other = (torch.tensor([row[name] for row in rows]) for name in ("predicted", "runner_up"))
    reference = model.decode(even_odds(model, y, other))
    odds = log_odds(model, x, y, other) - log_odds(model, reference, y, other)
    found = torch.stack([each.contributions for each in explanations(model, images(), rows)])
    assert_close(found.flatten(1).sum(1), odds, rtol=0.02, atol=0.05)


def log_odds(model: GenerativeClassifier, x: Tensor, y: Tensor, other: Tensor) -> Tensor:
    posterior = model.log_posterior(x).detach()
    return (posterior.gather(1, y[:, None]) - posterior.gather(1, other[:, None]))[:, 0]


def test_contributions_add_up_to_the_log_odds_where_classes_are_known() -> None:
    model = known_classes().double()
    rows = rows_of(model, 3)
    for row, each in zip(rows, explanations(model, images(), rows), strict=True):
        odds = log(row["posterior"] / row["runner_up_posterior"])
        assert each.contributions.sum().item() == pytest.approx(odds, rel=0.02)


def known_classes() -> GenerativeClassifier:
    """A flow whose means are where its latents are."""
    model = made("ib-inn")
    model.mixture.set_means(model.mixture.data_means)
    return model


def test_an_explanation_begins_at_x_and_ends_in_the_other_class() -> None:
    model, split = known_classes(), images()
    rows = rows_of(model, 4)
    model.train()
    for row, each in zip(rows, explanations(model, split, rows, steps=4), strict=True):
        assert (each.label, each.predicted) == (row["class"], row["predicted"])
        assert each.posterior == (row["posterior"], row["runner_up_posterior"])
        assert each.contributions.shape == each.x.shape == SHAPE
        assert each.path.shape == (4, *SHAPE)
        assert_close(each.path[0], split.x[row["sample"]] + 0.5, atol=1e-2, rtol=0)
        assert_close(each.path_posterior[0], torch.tensor(each.posterior), atol=1e-4, rtol=0)
        change = each.path_posterior.diff(dim=0)
        assert bool((change[:, 0] <= 0).all() and (change[:, 1] >= 0).all())
    assert model.training


def test_the_path_of_an_autoencoder_ends_at_the_average_of_the_class() -> None:
    model = made("bvae")
    (each,) = explanations(model, images(), rows_of(model, 1))
    average = model.decode(model.mixture.data_means[each.runner_up][None])[0]
    assert_close(each.path[-1], average.detach(), atol=1e-3, rtol=0)


def test_a_relaxed_label_stays_one() -> None:
    model, x = made("m2").eval(), images().x
    target = (model.predict(x) + 1) % K
    found = counterfactual(model, x, target, 0.9)
    label, start = found.z[:, :K], model.encode(x).z
    assert bool((label >= 0).all() and (found.shift <= 1).all())
    assert_close(label.sum(1), torch.ones(len(x)))
    assert_close(found.z[:, K:], start[:, K:].detach())
    reached = found.log_posterior.gather(1, target[:, None]).exp()
    assert_close(reached, torch.full_like(reached, 0.9), atol=1e-4, rtol=0)


def test_distances_where_all_means_are_the_origin() -> None:
    model = made("vae").eval()
    z = model.encode(images().x).z.detach()
    expected = torch.cdist(z, model.mixture.data_means)
    assert_close(distances_to_means(model, images().x), expected, atol=1e-4, rtol=1e-4)


def test_rows_need_gaussian_classes_or_a_decoder_and_pictures_it_and_a_gradient() -> None:
    model = made("ce", mixture={"kind": "vmf", "start": "equidistant", "weights": "uniform"})
    with pytest.raises(UserError, match="needs a system that can decode or has Gaussian classes"):
        rows_of(model)
    model = made("gm")
    with pytest.raises(UserError, match="expected a system that can decode"):
        explanations(model, images(), rows_of(model))
    model = made("vae", branch={"kind": "knn", "neighbours": 3, "samples": 30})
    model.get_submodule("heads.branch").get_buffer("labels").fill_(-1)  # sklearn is slow to load
    with pytest.raises(UserError, match="expected a posterior with a gradient"):
        explanations(model, images(), rows_of(model))


def test_the_suite_looks_at_as_many_as_are_asked_for() -> None:
    model = made("ib-inn")
    subject = Subject(model, images(), options=Options(explained=2))
    assert explain_suite(subject) == {"explain": rows_of(model, 2)}
