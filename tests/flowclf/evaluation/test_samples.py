"""Measures of samples and walks against closed forms, and the suite on a trained flow."""

from dataclasses import replace

import pytest
import torch
from drawn import small_flow
from scipy.linalg import sqrtm
from torch import Tensor

from flowclf import build
from flowclf.data import Split, load_dataset
from flowclf.evaluation import Options, Subject, metrics
from flowclf.evaluation.samples import (
    class_changes,
    dip,
    fit_judge,
    frechet_distance,
    largest_step,
    samples_suite,
)
from flowclf.support.errors import UserError


def test_the_frechet_distance_is_that_of_two_gaussians(generator: torch.Generator) -> None:
    a = torch.randn(200, 4, generator=generator, dtype=torch.float64)
    mixing = torch.randn(4, 4, generator=generator, dtype=torch.float64)
    b = 0.5 + torch.randn(300, 4, generator=generator, dtype=torch.float64) @ mixing
    first, second = a.T.cov().numpy(), b.T.cov().numpy()
    expected = (a.mean(0) - b.mean(0)).square().sum().item()
    expected += (first + second - 2 * sqrtm(first @ second).real).trace()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-8)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-8)


def test_equal_covariances_leave_the_means_and_one_dimension_the_deviations(
    generator: torch.Generator,
) -> None:
    a = torch.randn(50, 3, generator=generator, dtype=torch.float64)
    assert frechet_distance(a, a + torch.tensor([3.0, 0.0, 4.0])) == pytest.approx(25)
    # Fewer samples than features: the covariance is singular.
    assert frechet_distance(a.T, a.T) == pytest.approx(0, abs=1e-6)
    one = a[:, :1]
    assert frechet_distance(one, 3 * one - 3 * one.mean() + one.mean()) == pytest.approx(
        (2 * one.std().item()) ** 2
    )
    with pytest.raises(UserError, match="at least 2"):
        frechet_distance(a, a[:1])


def test_a_dip_is_below_the_line_between_the_ends() -> None:
    log_prob = torch.tensor([[0.0, 0.0, 1.0], [0.5, -4.0, 1.0], [2.0, 2.0, 1.0]])
    assert dip(log_prob).tolist() == [0.5, 5.0, 0.0]


def test_changes_are_counted_and_an_even_walk_has_equal_steps() -> None:
    predicted = torch.tensor([[1, 1, 1], [1, 2, 2], [1, 2, 1], [1, 2, 2]])
    assert class_changes(predicted).tolist() == [0, 1, 3]
    even, jump = torch.arange(4.0), torch.tensor([0.0, 0.0, 0.0, 3.0])
    walks = torch.stack((even, jump), 1)[..., None].expand(4, 2, 5)
    assert largest_step(walks).tolist() == pytest.approx([1.0, 3.0])


@pytest.fixture
def subject() -> Subject:
    """A flow that knows the averages of the classes, and nothing else."""
    data, flow = load_dataset("digits"), small_flow((1, 8, 8), 10)
    flow.fit_statistics(data.train.x, data.train.y)
    flow.fit_latents(data.train.x, data.train.y)
    options = Options(samples=100, temperatures=(0.1, 1.0), judge_steps=40, levels=17)
    return Subject(flow, data.test, data.train, data.train.take(slice(300)), options=options)


def test_the_judge_sees_whole_levels_and_reads_digits(subject: Subject) -> None:
    training = subject.training
    assert training is not None
    judge = fit_judge(training, 10, 17, steps=40)

    def read(x: Tensor) -> Tensor:
        return judge.log_posterior(judge.features(x))

    x = subject.test.x
    assert metrics.accuracy(read(x), subject.test.y) > 0.9
    assert torch.equal(read(x.float() + 0.9), read(x))


def test_the_same_seed_trains_the_same_judge(subject: Subject) -> None:
    training, state = subject.needs_training("samples"), torch.get_rng_state()
    one, again, other = (fit_judge(training, 10, 17, seed, steps=2) for seed in (0, 0, 1))
    features = [judge.features(subject.test.x[:5]) for judge in (one, again, other)]
    assert torch.equal(features[0], features[1])
    assert not torch.equal(features[0], features[2])
    assert torch.equal(torch.get_rng_state(), state)


def test_colder_samples_of_a_flow_are_more_often_what_they_should_be(subject: Subject) -> None:
    found = samples_suite(subject)
    cold, warm = found["sample_quality"]
    assert cold["class_consistency"] > warm["class_consistency"] > 0.2
    assert (
        found["sample_temperature"]
        == min((cold, warm), key=lambda r: r["frechet_distance"])["temperature"]
    )
    assert found["frechet_distance"] > found["frechet_floor"] > 0
    assert found["walk_class_changes"] >= 0.9
    assert found["walk_largest_step"] > 1
    assert found["walk_dip_per_dim_nats"] > 0
    alone = samples_suite(replace(subject, validation=None))
    assert alone["sample_temperature"] == 1.0


def test_tables_and_systems_without_images_are_refused(
    subject: Subject,
) -> None:
    with pytest.raises(UserError, match="needs images"):
        samples_suite(replace(subject, options=Options(levels=None)))
    with pytest.raises(UserError, match="draws or decodes"):
        samples_suite(replace(subject, model=build("ce", shape=(1, 8, 8), classes=10)))


def test_one_class_alone_gives_no_walks(subject: Subject) -> None:
    zeros = subject.test.take(subject.test.y == 0)
    found = samples_suite(replace(subject, test=Split(zeros.x, zeros.y)))
    assert found["walk_class_changes"] is None
