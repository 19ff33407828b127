"""Evaluation of models whose results are known, and the baselines against scipy."""

from collections.abc import Callable
from math import log, sqrt
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from flowclf import build
from flowclf.classifier import GenerativeClassifier as Model
from flowclf.data import Split, hold_out
from flowclf.data.outliers import Outliers
from flowclf.evaluation import SUITES, Options, Subject, evaluate, metrics, predict_split
from flowclf.evaluation.baselines import (
    QDA_REGULARISATION,
    baseline_rows,
    beaten_by,
    few_samples,
    overfits,
)
from flowclf.evaluation.calibration import expected_calibration_error
from flowclf.evaluation.clustering import class_distances
from flowclf.evaluation.conformal import NONCONFORMITIES
from flowclf.evaluation.rate import noisy_log_probs
from flowclf.evaluation.recalibration import TemperatureScaling
from flowclf.evaluation.robustness import ensemble_rows
from flowclf.evaluation.scores import SCORES
from flowclf.support.errors import UserError
from flowclf.support.seeding import generator_for
from flowclf.systems.resnet import Softmax

K = 3
# Scores of several models, of other systems, or that are costly.
UNASKED = {"waic", "rate", "ratio", "across-beta", "layer-gradients", "local-dimension"}
# Suites that need more than a split, or more samples.
OTHERS = ("ood", "shift", "attack", "paper-calibration", "recalibration", "conformal")
NETWORK = {"kind": "conv", "blocks": [1], "width": [4], "dense_hidden": [8], "dropout": 0.5}


def images(generator: torch.Generator, count: int = 30) -> Split:
    x = torch.randint(0, 256, (count, 1, 4, 4), generator=generator, dtype=torch.uint8)
    return Split(x, torch.arange(count) % K)


@pytest.fixture
def split(generator: torch.Generator) -> Split:
    return images(generator)


@pytest.fixture
def model(split: Split) -> Model:
    model = build("ib-inn", shape=(1, 4, 4), classes=K, network=NETWORK)
    model.fit_statistics(split.x, split.y)
    return model


def test_results_are_those_of_the_model(generator: torch.Generator) -> None:
    """With floats there is no noise; more rows than one batch takes."""
    x = torch.randn(1100, 2, generator=generator)
    split = Split(x, torch.arange(1100) % K)
    model = build("ib-inn", shape=(2,), classes=K).eval()
    log_prob = model.log_prob(x).detach().double()
    correct = (model.predict(x) == split.y).double()
    results = evaluate(model, split)
    assert results["accuracy"] == pytest.approx(float(correct.mean()))
    assert results["accuracy_per_class"][1] == pytest.approx(float(correct[split.y == 1].mean()))
    assert results["log_prob_nats"] == pytest.approx(float(log_prob.mean()), rel=1e-6)
    assert results["bits_per_dim"] == pytest.approx(float(-log_prob.mean()) / 2 / log(2), rel=1e-6)
    per_sample = model.log_posterior(x).detach()[torch.arange(1100), split.y]
    assert results["negative_log_posterior_nats"] == pytest.approx(-per_sample.mean().item())
    torch.testing.assert_close(predict_split(model, split).log_prob, log_prob.float())


def test_integers_get_noise_of_one_grey_level(
    model: Model, split: Split, generator: torch.Generator
) -> None:
    model.eval()
    got = torch.tensor([evaluate(model, split, seed=s)["log_prob_nats"] for s in range(30)])

    def own_draw() -> float:
        noise = torch.rand(split.x.shape, generator=generator)
        return model.log_prob(split.x.float() + noise).mean().item()

    expected = torch.tensor([own_draw() for _ in range(30)])
    error = sqrt(float(got.var() + expected.var()) / 30)
    assert error > 0
    assert abs(float(got.mean() - expected.mean())) < 5 * error


def test_the_seed_decides_the_noise(model: Model, split: Split) -> None:
    first, again, other = (evaluate(model, split, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first["bits_per_dim"] != other["bits_per_dim"]
    assert first["accuracy_per_class"] == other["accuracy_per_class"]
    assert first["ece"] == other["ece"]


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_put_back(training: bool, model: Model, split: Split) -> None:
    model.train(training)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    results = evaluate(model, split)
    assert {module.training for module in model.modules()} == {training}
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert results == evaluate(model.eval(), split)


def test_the_mode_is_put_back_after_an_error(model: Model, split: Split) -> None:
    with pytest.raises(UserError, match="at least one sample to evaluate, got none"):
        evaluate(model.train(), split.take(slice(0)))
    assert model.training
    with pytest.raises(UserError, match="expected x of shape"):
        evaluate(model, Split(torch.zeros(2, 1, 5, 5, dtype=torch.uint8), torch.tensor([0, 1])))
    assert model.training


def test_suites_can_be_picked(model: Model, split: Split) -> None:
    names = {"ece", "ece_20_bins", "negative_log_posterior_nats"}
    assert names < evaluate(model, split, ["calibration"]).keys()
    plain = [name for name in SUITES if name not in OTHERS]
    every = evaluate(model, split, iter(plain), training=split)
    assert every | evaluate(model, split) == every
    confusion = [[row[str(k)] for k in range(model.classes)] for row in every["confusion"]]
    right = sum(row[k] for k, row in enumerate(confusion))
    assert right == round(every["accuracy"] * len(split))
    assert every["accuracy_low"] < every["accuracy"] < every["accuracy_high"]
    with pytest.raises(UserError, match="'clustering' needs the training split"):
        evaluate(model, split, ["clustering"])
    with pytest.raises(UserError, match="'ood' needs out-of-distribution data"):
        evaluate(model, split, ["ood"])
    with pytest.raises(UserError, match="'conformal' needs samples that were held out"):
        evaluate(model, split, ["conformal"])
    with pytest.raises(UserError, match="unknown suite 'colour'; choose from: accuracy, conf"):
        evaluate(model, split, ["accuracy", "colour"])


def test_sets_and_doubts_are_rows(model: Model, split: Split) -> None:
    found = evaluate(model, split, ["conformal", "selective"], training=split, validation=split)
    kinds = [(row["sets"], row["per_class"]) for row in found["conformal"]]
    assert [kind for kind in kinds if not kind[1]] == [(name, False) for name in NONCONFORMITIES]
    for row in found["conformal"]:
        assert row["coverage_low"] <= row["coverage"] <= row["coverage_high"]
        assert row["worst_class_coverage"] <= row["coverage"] >= 0.9
        assert row["empty"] + row["single"] <= 1
    assert all(row["false_alarm"] <= row["level"] + 0.1 for row in found["false_alarms"])
    scores = {row["score"]: row for row in found["selective"]}
    assert scores.keys() == SCORES.keys() - UNASKED
    accuracy = evaluate(model, split, ["accuracy"])["accuracy"]
    assert all(row["excess_aurc"] >= 0 for row in scores.values())
    assert found["risk_coverage"][-1] == {"coverage": 1.0, "risk": pytest.approx(1 - accuracy)}
    assert 0 <= found["macro_f1"] <= 1
    assert found["balanced_accuracy"] == pytest.approx(accuracy, abs=0.05)


def test_outliers_shifts_and_attacks_are_rows(model: Model, split: Split) -> None:
    strange = Outliers("strange", 255 - split.x)
    options = Options((strange,), ("brightness",), (1, 3), epsilons=(0.1,), samples=8)
    suites = ["ood", "shift", "attack"]
    found = evaluate(model, split, suites, training=split, options=options)
    assert {row["score"] for row in found["ood"]} == SCORES.keys() - UNASKED
    assert all(row["auroc_low"] <= row["auroc"] <= row["auroc_high"] for row in found["ood"])
    assert [row["set"] for row in found["ood_entropy"]] == ["test", "strange"]
    families = [(row["family"], row["severity"]) for row in found["shift"]]
    assert families[:2] == [("clean", 0), ("brightness", 1)]
    assert len(found["attack"]) == 8  # without a perturbation, too
    with pytest.raises(UserError, match="'attack' needs images"):
        evaluate(model, split, ["attack"], options=Options(levels=None))


class Told(Softmax):
    """Posteriors by a given function of x, and no density."""

    def __init__(self, posterior: Callable[[Tensor], Tensor]) -> None:
        plain = build("resnet", shape=(2,), classes=K)
        super().__init__((2,), plain.encoder, plain.mixture, plain.noise, plain.settings)
        self.posterior = posterior

    def log_posterior(self, x: Tensor) -> Tensor:
        return self.posterior(x).log_softmax(1)


def labelled_rows(count: int = 3000) -> Split:
    """The first feature is the label."""
    y = torch.arange(count) % K
    return Split(torch.stack((y.float(), torch.zeros(count)), dim=1), y)


@pytest.mark.parametrize(("shift", "accuracy", "nll"), [(0, 1, 0), (1, 0, 100)])
def test_an_oracle_is_perfect_and_a_wrong_one_perfectly_wrong(
    shift: int, accuracy: float, nll: float
) -> None:
    oracle = Told(lambda x: 100.0 * torch.eye(K)[(x[:, 0].long() + shift) % K])
    found = evaluate(oracle, labelled_rows())
    assert found["accuracy"] == accuracy
    assert found["accuracy_per_class"] == [accuracy] * 3
    assert found["ece"] == pytest.approx(1 - accuracy, abs=1e-9)
    assert found["negative_log_posterior_nats"] == pytest.approx(nll, abs=1e-9)


def test_random_logits_are_right_one_time_in_k(generator: torch.Generator) -> None:
    split = labelled_rows()
    model = Told(lambda x: 3 * torch.randn(len(x), K, generator=generator))
    results = evaluate(model, split)
    assert abs(results["accuracy"] - 1 / K) < 5 * sqrt(1 / K * (1 - 1 / K) / len(split))
    assert results["negative_log_posterior_nats"] > log(K)
    assert results["ece"] > 0.3


def test_without_a_density_there_are_no_bits() -> None:
    results = evaluate(Told(lambda x: torch.zeros(len(x), K)), labelled_rows())
    names = ("bits_per_dim", "log_prob_nats", "paper_rate_per_dim_nats")
    assert [results[name] for name in names] == [None, None, None]
    assert results["negative_log_posterior_nats"] == pytest.approx(log(K))


def test_weights_that_are_not_numbers_are_refused(model: Model, split: Split) -> None:
    with torch.no_grad():
        model.mixture.means[0, 0] = torch.nan
    with pytest.raises(UserError, match="log_posterior that is a number, got NaN for 30 of 30"):
        evaluate(model, split)


def test_the_right_class_is_among_the_likeliest() -> None:
    log_posterior = torch.arange(8.0).repeat(8, 1).log_softmax(1)
    assert metrics.top_accuracy(log_posterior, torch.arange(8), 5) == 5 / 8
    assert metrics.top_accuracy(log_posterior, torch.arange(8), 1) == 1 / 8
    assert metrics.top_accuracy(log_posterior[:, :5], torch.arange(5), 5) is None


def test_the_likelihood_of_each_class(model: Model, split: Split) -> None:
    found = evaluate(model, split, ["likelihood"])
    rows = found["likelihood_per_class"]
    assert [(row["class"], row["samples"]) for row in rows] == [(0, 10), (1, 10), (2, 10)]
    for name in ("log_prob_nats", "bits_per_dim"):
        assert sum(row[name] for row in rows) / 3 == pytest.approx(found[name])
    assert found["density"] == "exact"
    nothing = evaluate(Told(lambda x: torch.zeros(len(x), K)), labelled_rows(), ["likelihood"])
    assert nothing["density"] == "none"
    assert "likelihood_per_class" not in nothing


def test_the_information_of_a_flow_is_its_bits_and_grows_as_noise_shrinks(
    model: Model, generator: torch.Generator
) -> None:
    """With uniform noise of one grey level h(ε) = 0: CI(X; Z) is -E log q(x)."""
    split = images(generator, 3000)
    model.fit_statistics(split.x, split.y)
    model.noise.uniform, model.noise.sigma = 1.0, 0.0
    found = evaluate(model, split, ["information", "likelihood"])
    assert found["noise_sigma"] == 0
    assert found["input_information_nats"] == pytest.approx(-found["log_prob_nats"], abs=0.2)
    model.noise.uniform = 0.5
    narrower = evaluate(model, split, ["information"])["input_information_nats"]
    assert narrower == pytest.approx(found["input_information_nats"] + 16 * log(2), abs=0.5)
    model.noise.uniform = 0.0
    assert evaluate(model, split, ["information"])["input_information_nats"] is None


def test_the_information_of_vae_as_is_also_its_softmaxes(split: Split) -> None:
    settings = {"network": {"kind": "mlp", "hidden": [8]}, "identity": {"hidden": []}}
    model = build("vae-as", shape=(1, 4, 4), classes=K, samples=len(split), **settings)
    found = evaluate(model, split, ["information"], training=split)
    # Untrained, it is uniform: it knows nothing, and all of the rate is divergence.
    assert found["softmax_identity_nats"] == pytest.approx(log(30), abs=1e-5)
    assert found["softmax_mi_nats"] == pytest.approx(0, abs=1e-5)
    assert 0 <= found["mi_nats"] <= log(30)
    total = found["mi_nats"] + found["md_nats"]
    assert found["softmax_md_nats"] == pytest.approx(total, abs=1.0)
    assert found["input_information_nats"] is None


def test_distances_of_classes_are_those_of_their_means(model: Model, split: Split) -> None:
    rows = evaluate(model, split, ["clustering"], training=split)["class_distances"]
    distances = torch.tensor([[row[str(k)] for k in range(K)] for row in rows])
    expected = torch.cdist(model.mixture.means, model.mixture.means).detach()
    torch.testing.assert_close(distances, expected, rtol=1e-4, atol=1e-4)
    means, std = torch.tensor([[0.0, 0.0], [3.0, 4.0]]), torch.tensor([[1.0, 2.0], [1.0, 0.5]])
    assert float(class_distances(means, std)[0, 1]) == pytest.approx(5)


# Baselines.


def gaussian_table(generator: torch.Generator, count: int, classes: int = K) -> Split:
    """Classes of different means and covariances, columns of different units."""
    y = torch.arange(count) % classes
    x = torch.randn(count, 3, generator=generator) * (1.0 + y[:, None])
    x[:, 1] += x[:, 0] * y
    x += 3.0 * torch.eye(3)[y % 3]
    return Split(x * torch.tensor([1.0, 0.01, 50.0]) + 7, y)


def check_qda(
    row: dict[str, Any],
    train: np.ndarray,
    y: Tensor,
    test: np.ndarray,
    test_y: Tensor,
    units: float,
) -> None:
    """Against log w_k q(x|k) with covariances (1 - r) S + r I; `units`: Σ log of the arrays' units.

    scikit-learn changed S from the unbiased to the maximum-likelihood estimate.
    """
    bits = []
    for ddof in (0, 1):
        joint = np.empty((len(test), K))
        for k in range(K):
            rows = train[y.numpy() == k]
            covariance = (1 - QDA_REGULARISATION) * np.cov(rows.T, ddof=ddof)
            covariance += QDA_REGULARISATION * np.eye(rows.shape[1])
            density = multivariate_normal(rows.mean(0), covariance)
            joint[:, k] = density.logpdf(test) + log(len(rows) / len(train))
        bits.append((units - logsumexp(joint, axis=1).mean()) / test.shape[1] / log(2))
    assert row["system"] == "QDA"
    assert min(abs(row["bits_per_dim"] - value) for value in bits) < 1e-9
    correct = joint.argmax(1) == test_y.numpy()
    assert row["accuracy"] == pytest.approx(correct.mean(), abs=2 / len(test))


def test_qda_of_a_table_is_that_of_scipy_in_the_units_of_the_data(
    generator: torch.Generator,
) -> None:
    train, test = gaussian_table(generator, 150), gaussian_table(generator, 90)
    x = train.x.double().numpy()
    mean, std = x.mean(0), x.std(0)
    qda, logistic = baseline_rows(train, test, None)
    arrays = (x - mean) / std, train.y, (test.x.double().numpy() - mean) / std, test.y
    check_qda(qda, *arrays, float(np.log(std).sum()))
    assert logistic["system"] == "logistic regression"
    assert logistic["bits_per_dim"] is None
    assert 0.5 < logistic["accuracy"] <= 1
    assert qda["seconds"] >= 0


def test_qda_of_images_counts_in_grey_levels(generator: torch.Generator) -> None:
    def draw(count: int) -> Split:
        y = torch.arange(count) % K
        noise = 20 * torch.randn(count, 1, 2, 2, generator=generator)
        x = 100 + 40 * y[:, None, None, None] + noise
        return Split(x.clamp(0, 255).to(torch.uint8), y)

    train, test = draw(120), draw(60)

    def noisy(split: Split) -> np.ndarray:
        x = split.x.flatten(1).double()
        noise = torch.rand(x.shape, generator=generator_for(0, "baselines"), dtype=x.dtype)
        return ((x + noise) / 255).numpy()

    qda, logistic, gaussian = baseline_rows(train, test, 256)
    check_qda(qda, noisy(train), train.y, noisy(test), test.y, 4 * log(255))
    fitted, held_out = hold_out(train, 0.1, seed=0)
    parts = [split.x.flatten(1).double().numpy() / 255 for split in (fitted, held_out, test)]
    own = LogisticRegression(max_iter=200).fit(parts[0], fitted.y)
    held, tested = (torch.from_numpy(own.predict_log_proba(x)) for x in parts[1:])
    temperature = TemperatureScaling().fit(held, held_out.y)
    assert logistic["ece"] == pytest.approx(
        expected_calibration_error(temperature.transform(tested), test.y), abs=1e-12
    )
    assert (gaussian["system"], gaussian["accuracy"], gaussian["ece"]) == ("Gaussian", None, None)
    x, points = (255 * noisy(split) for split in (train, test))
    density = multivariate_normal(x.mean(0), np.cov(x.T, ddof=0))
    bits = -density.logpdf(points).mean() / 4 / log(2)
    assert gaussian["bits_per_dim"] == pytest.approx(bits, abs=1e-4)
    few = baseline_rows(train.take(slice(7)), test, 256)[-1]
    x = x[:7]
    density = multivariate_normal(x.mean(0), np.diag(x.var(0)))
    assert few["system"] == "Gaussian of each pixel"
    assert few["bits_per_dim"] == pytest.approx(-density.logpdf(points).mean() / 4 / log(2), 1e-4)


def test_a_baseline_that_beats_the_system_is_named() -> None:
    def row(system: str, accuracy: float | None, bits: float | None) -> dict[str, Any]:
        return {"system": system, "accuracy": accuracy, "bits_per_dim": bits}

    others = [row("QDA", 0.95, 4.0), row("logistic", 0.9, None), row("Gaussian", None, 3.5)]
    lines = beaten_by(row("ib-inn", 0.92, 3.6), others)
    assert [line.partition(",")[0] for line in lines] == [
        "QDA classifies better", "Gaussian is the better density",
    ]  # fmt: skip
    assert "95.0% against 92.0%" in lines[0]
    assert "3.500 bits/dim against 3.600" in lines[1]
    assert beaten_by(row("ib-inn", 0.94, 3.4), others) == []
    assert beaten_by(row("ce", 0.94, None), others) == []
    assert beaten_by(row("ib-inn", 0.5, 3.4), []) == []


def test_qda_of_many_dimensions_gets_components(generator: torch.Generator) -> None:
    y = torch.arange(150) % K
    split = Split(torch.randn(150, 50, generator=generator) + 2.0 * y[:, None], y)
    qda, _ = baseline_rows(split.take(slice(90)), split.take(slice(90, None)), None)
    assert qda["system"] == "QDA of 14 components"
    assert qda["bits_per_dim"] is None
    assert qda["accuracy"] > 0.9


def test_qda_needs_a_few_samples_and_two_classes(generator: torch.Generator) -> None:
    train, test = gaussian_table(generator, 9), gaussian_table(generator, 90)
    assert [row["system"] for row in baseline_rows(train, test, None)] == ["logistic regression"]
    train, test = (gaussian_table(generator, n, classes=2) for n in (200, 100))
    qda, logistic = baseline_rows(train, test, None)
    assert qda["accuracy"] > 0.6
    assert logistic["accuracy"] > 0.6
    assert qda["ece"] < 0.2


def test_baselines_see_every_class_of_a_large_sorted_set(
    monkeypatch: pytest.MonkeyPatch, generator: torch.Generator
) -> None:
    monkeypatch.setattr("flowclf.evaluation.baselines.MOST_SAMPLES", 60)
    y = torch.arange(5).repeat_interleave(40)
    split = Split(torch.randn(200, 3, generator=generator) + y[:, None], y)
    rows = baseline_rows(split, split, None)
    assert [row["samples"] for row in rows] == [60, 60]


def test_recalibration_is_fitted_on_what_was_held_out(
    model: Model, generator: torch.Generator
) -> None:
    test, validation = images(generator, 90), images(generator, 90)
    model.fit_statistics(test.x, test.y)
    rows = evaluate(model, test, ["recalibration"], validation=validation)["recalibration"]
    assert [row["method"] for row in rows] == ["none", "temperature", "vector", "isotonic"]
    assert rows[0]["ece"] == evaluate(model, test, ["calibration"])["ece"]
    assert rows[1]["accuracy"] == rows[0]["accuracy"]
    for nothing in (None, validation.take(slice(0))):
        with pytest.raises(UserError, match="data.validation"):
            evaluate(model, test, ["recalibration"], validation=nothing)


@pytest.mark.parametrize("system", ["vae", "ib-inn"])
def test_more_importance_samples_are_a_tighter_bound(system: str, split: Split) -> None:
    known = {"likelihood": "logistic"} if system == "vae" else {}
    model = build(system, shape=(1, 4, 4), classes=K, **known)
    model.fit_statistics(split.x, split.y)
    options = Options(samples=30, draws=300)
    one, many = evaluate(model, split, ["bound"], options=options)["bound"]
    assert one["log_prob_nats"] < many["log_prob_nats"] < 0
    assert many["bits_per_dim"] == pytest.approx(-many["log_prob_nats"] / 16 / log(2))
    assert (one["draws"], many["draws"]) == (1, 300)
    with pytest.raises(UserError, match="draws"):
        evaluate(model, split, ["bound"], options=Options(samples=2, draws=0))


def test_noise_is_averaged_over_a_grey_level(split: Split) -> None:
    """Of one pixel the mean density over the level is known: by quadrature."""
    model = build("ib-inn", shape=(1,), classes=K)
    x = split.x[:5, 0, :1, 0]
    model.fit_statistics(x, split.y[:5])
    level = (torch.arange(1000) + 0.5) / 1000
    with torch.no_grad():
        points = (x[:, None, 0] + level).reshape(-1, 1)
        wanted = model.log_prob(points).double().exp().reshape(5, 1000).mean(1)
    found = noisy_log_probs(model, x, 4000).exp().mean(0)
    torch.testing.assert_close(found, wanted, rtol=0.05, atol=0)


def test_a_bound_needs_grey_levels_or_an_autoencoder(split: Split) -> None:
    for system in ("ib-inn", "ce"):
        floats = Split(split.x.flatten(1).float(), split.y)
        model = build(system, shape=(16,), classes=K)
        model.fit_statistics(floats.x, floats.y)
        with pytest.raises(UserError, match="'bound' needs an autoencoder, or a flow on grey lev"):
            evaluate(model, floats, ["bound"])


def test_several_runs_have_a_score_of_their_own(model: Model, split: Split) -> None:
    options = Options((Outliers("strange", 255 - split.x),))
    subject = Subject(model, split, options=options)
    (row,) = ensemble_rows([model] * 2, subject)
    rows = evaluate(model, split, ["ood"], training=split, options=options)["ood"]
    (single,) = (row for row in rows if row["score"] == "negative-log-prob")
    assert row["score"] == "waic"
    assert row["auroc"] == pytest.approx(single["auroc"])
    assert ensemble_rows([Told(lambda x: x)], subject) == []


def test_classes_with_few_samples_are_named_and_qda_is_missed() -> None:
    x, y = torch.randn(61, 4), torch.tensor([0] * 30 + [1] * 30 + [2])
    split = Split(x, y)
    assert [row["system"] for row in baseline_rows(split, split, None)] == ["logistic regression"]
    (line,) = few_samples(split, ("a", "b", "c"))
    assert line.startswith("few training samples of c (1): ")
    assert "QDA, which needs 5 of each, has no row" in line
    assert few_samples(split.take(slice(60)), ("a", "b")) == []


def test_a_gap_between_training_and_test_is_told() -> None:
    (line,) = overfits(0.998, 0.72)
    assert line.startswith("99.8% of the training samples are classified, against 72.0% of the")
    assert overfits(0.95, 0.9) == overfits(None, 0.2) == overfits(0.7, 0.9) == []
