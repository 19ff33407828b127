"""Digit extraction: which free label is which digit, and the experiment at a tiny scale."""

from dataclasses import replace
from itertools import permutations
from math import log, sqrt
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from benchmarks import results
from benchmarks.flowclf import unlabelled_digits as bench
from benchmarks.flowclf.unlabelled_digits import (
    Experiment,
    paired_difference,
    pooled,
    run_experiment,
)
from flowclf import build
from flowclf.data import load_dataset
from flowclf.evaluation.extraction import (
    assign_by_competition,
    assign_by_matching,
    assigned_scores,
    average_latent,
    canonical_images,
    class_probabilities,
    extraction,
    fit_image_classifier,
)
from flowclf.support.errors import UserError
from flowclf.systems.untapped import Untapped

TINY = Experiment(updates=3, batch=64, labelled=200, unlabelled=100)


def table(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


# Assignments.


@pytest.mark.parametrize(
    ("p", "competition", "matching"),
    [
        # Without rivals every row gets what it wants.
        (([0.1, 0.8, 0.1], [0.2, 0.1, 0.7], [0.9, 0.0, 0.1]), [1, 2, 0], [1, 2, 0]),
        # Row 0 gets digit 0; of digit 1 row 2 is surer than row 1.
        (([0.9, 0.05, 0.05], [0.8, 0.15, 0.05], [0.7, 0.2, 0.1]), [0, 2, 1], None),
        # Losers cannot take the digit that another row alone wanted.
        (([0.9, 0.1, 0.0], [0.8, 0.2, 0.0], [0.0, 0.15, 0.0]), [0, 2, 1], [0, 1, 2]),
        # Greed can miss the largest sum.
        (([0.6, 0.5], [0.55, 0.1]), [0, 1], [1, 0]),
    ],
)
def test_assignments_by_hand(
    p: tuple[list[float], ...], competition: list[int], matching: list[int] | None
) -> None:
    assert assign_by_competition(table(*p)).tolist() == competition
    assert matching is None or assign_by_matching(table(*p)).tolist() == matching


def test_both_give_permutations_and_matching_the_best(generator: torch.Generator) -> None:
    rows = torch.arange(5)
    for _ in range(30):
        p = torch.rand(5, 5, generator=generator, dtype=torch.float64).pow(4)
        before = p.clone()
        greedy, matched = assign_by_competition(p), assign_by_matching(p)
        assert torch.equal(p, before)
        assert sorted(greedy.tolist()) == sorted(matched.tolist()) == list(range(5))
        best = max(float(p[rows, torch.tensor(order)].sum()) for order in permutations(range(5)))
        assert float(p[rows, matched].sum()) == pytest.approx(best)

    for equal in (0.25, 0.0):
        assert sorted(assign_by_competition(torch.full((4, 4), equal)).tolist()) == [0, 1, 2, 3]


# Scores.


def test_labels_are_permuted_before_they_are_scored() -> None:
    log_posterior = table([0.7, 0.2, 0.1], [0.1, 0.6, 0.3]).log()
    # Label 0 is digit 0, label 1 is digit 2, label 2 is digit 1.
    scores = assigned_scores(log_posterior, torch.tensor([0, 2]), torch.tensor([0, 2, 1]))
    expected = -(log(0.7) + log(0.6)) / 2
    assert scores == {"cross_entropy_nats": pytest.approx(expected), "accuracy": 1.0}
    other = assigned_scores(log_posterior, torch.tensor([0, 2]), torch.arange(3))
    assert other["cross_entropy_nats"] == pytest.approx(-(log(0.7) + log(0.3)) / 2)
    assert other["accuracy"] == 0.5


def test_the_papers_divergence_is_the_cross_entropy(generator: torch.Generator) -> None:
    """Its KL of clipped one-hots and clipped probabilities, to 1e-4."""
    log_posterior = torch.randn(50, 10, generator=generator).double().log_softmax(1)
    y = torch.randint(10, (50,), generator=generator)
    target = torch.nn.functional.one_hot(y, 10).double().clamp_min(1e-6)
    q = log_posterior.exp().clamp_min(1e-6)
    divergence = (target * (target / q).log()).sum(1).mean()
    scores = assigned_scores(log_posterior, y, torch.arange(10))
    assert scores["cross_entropy_nats"] == pytest.approx(float(divergence), abs=2e-4)


def test_a_probability_of_zero_costs_a_million_to_one_and_no_permutation_has_a_score() -> None:
    scores = assigned_scores(table([0.0, 1.0]).log(), torch.tensor([0]), torch.arange(2))
    assert scores["cross_entropy_nats"] == pytest.approx(6 * log(10))
    with pytest.raises(UserError, match=r"expected a permutation of the labels, got \[0, 0\]"):
        assigned_scores(torch.zeros(1, 2), torch.tensor([0]), torch.tensor([0, 0]))


def test_the_known_labels_stay_and_the_free_ones_are_assigned() -> None:
    p = table(
        [0.9, 0.1, 0.0, 0.0], [0.1, 0.9, 0.0, 0.0], [0.0, 0.1, 0.1, 0.8], [0.0, 0.1, 0.0, 0.9]
    )
    log_posterior = table([0.0, 0.0, 0.2, 0.8], [0.0, 0.0, 0.4, 0.6]).log()
    scores = extraction(p, log_posterior, torch.tensor([3, 2]), 2)
    # Label 3 is surest to be digit 3, so label 2 is digit 2.
    assert scores["cross_entropy_nats"] == pytest.approx(-(log(0.8) + log(0.4)) / 2)
    assert scores["accuracy"] == 0.5
    assert scores["accuracy_matched"] == 0.5
    assert scores["distinct"] == 3


# Decoded labels.


def digits_model() -> Untapped:
    model = build("untapped", shape=(1, 8, 8), classes=10, levels=17, preset="digits")
    assert isinstance(model, Untapped)
    return model.eval()


@torch.no_grad()
def test_canonical_images_are_decoded_labels_at_the_average_latent() -> None:
    model, test = digits_model(), load_dataset("digits").test
    z = average_latent(model, test.x, test.y)
    y = torch.nn.functional.one_hot(test.y, 10).float()
    assert_close(z, model.encoder.given(test.x.float(), y).centre.mean(0), rtol=0, atol=1e-6)
    images = canonical_images(model.train(), z)
    assert model.training
    assert images.shape == (10, 1, 8, 8)
    assert set(images.unique().tolist()) == {0.0, 16.0}
    decoded = model.decode(torch.cat((torch.eye(10), z.expand(10, -1)), 1))
    assert torch.equal(images > 0, decoded > 8)


def test_the_reader_of_images_knows_its_digits() -> None:
    data = load_dataset("digits")
    reader = fit_image_classifier(data.train.x, data.train.y, 16)
    p = class_probabilities(reader, data.test.x, 16)
    assert_close(p.sum(1), torch.ones(len(p), dtype=torch.float64), rtol=0, atol=1e-5)
    assert float((p.argmax(1) == data.test.y).double().mean()) > 0.9


# The experiment.


def test_the_task_draws_labels_of_the_known_classes_only() -> None:
    task = pooled(load_dataset("digits"))
    assert set(task.pool.x.unique().tolist()) == {0, 16}
    assert len(task.pool) == 1797
    labelled, unlabelled = task.draw(TINY, 0)
    assert set(labelled.y.tolist()) == set(range(5))
    assert (len(labelled), len(unlabelled)) == (200, 100)
    assert set(unlabelled.y.tolist()) == {-1}
    again, other = task.draw(TINY, 0)[0], task.draw(TINY, 1)[0]
    assert torch.equal(again.x, labelled.x)
    assert not torch.equal(other.x, labelled.x)
    everything, _ = task.draw(Experiment(), 0)
    assert len(everything) == int((task.pool.y < 5).sum())
    assert len(pooled(load_dataset("digits"), grey=True).pool.x.unique()) == 17


def test_recorded_rows_are_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    tasks = []

    def make_task() -> bench.Task:
        tasks.append(pooled(load_dataset("digits")))
        return tasks[-1]

    variants = list(bench.VARIANTS)
    rows = list(run_experiment(make_task, TINY, variants, [0]))
    assert [row["variant"] for row in rows] == variants
    assert all(1 < row["cross_entropy_nats"] < 14 for row in rows)
    scores = [[row[name] for name in bench.SCORES] for row in rows]
    again = list(run_experiment(make_task, TINY, variants, [0]))
    assert [[row[name] for name in bench.SCORES] for row in again] == scores
    assert len(tasks) == 1
    assert len((tmp_path / bench.FILE).read_text().splitlines()) == 5
    fresh = bench.measure(tasks[0], TINY, "untapped", 0)
    assert [fresh[name] for name in bench.SCORES] == scores[1]
    longer = list(run_experiment(make_task, replace(TINY, updates=4), ["m2"], [0]))
    assert longer[0]["updates"] == 4
    assert len((tmp_path / bench.FILE).read_text().splitlines()) == 6
    lines = list(bench._summary([*rows, *({**row, "seed": 1} for row in rows)]))
    difference = rows[1]["accuracy"] - rows[0]["accuracy"]
    assert any(line.startswith(f"untapped - m2: accuracy {difference:+.3f}") for line in lines)


def test_paired_differences_and_their_interval() -> None:
    difference, half = paired_difference([1.0, 2.0, 4.0], [0.0, 0.0, 1.0])
    assert difference == pytest.approx(2.0)
    assert half == pytest.approx(4.3027 / sqrt(3), rel=1e-4)


def test_seeds_are_a_range_or_a_list() -> None:
    assert bench._arguments(["--seeds", "2-4"]).seeds == [2, 3, 4]
    assert bench._arguments(["--seeds", "7,1"]).seeds == [7, 1]
    assert bench._arguments([]).updates == 600
