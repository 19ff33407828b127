"""flowclf.sklearn: scikit-learn's own checks, its meta-estimators, and what flowclf promises."""

import pickle
import random
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_digits, load_iris
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import check_is_fitted

import flowclf
from flowclf.models import systems_with
from flowclf.sklearn import GenerativeClassifier, estimator
from flowclf.systems import SYSTEMS
from flowclf.training import Interrupted

IRIS, SPECIES = load_iris(return_X_y=True)
NAMES = np.array(["setosa", "versicolor", "virginica"])[SPECIES]
DIGITS, LABELS = (values[:300] for values in load_digits(return_X_y=True))
WITH_BETA = ", ".join(name for name, system in SYSTEMS.items() if system.beta)
NO_BETA = next(name for name, system in SYSTEMS.items() if not system.beta)
# One small coupling on rows of 64 numbers.
SMALL = {"network.blocks": 1, "network.hidden": 16, "train.lr": 1e-2}


def quick(system: str = "ib-inn", **options: Any) -> GenerativeClassifier:
    return GenerativeClassifier(system, **{"epochs": 3, "random_state": 0, **options})


@pytest.fixture(scope="module")
def iris() -> GenerativeClassifier:
    return quick(epochs=20).fit(IRIS, NAMES)


@pytest.fixture(scope="module")
def images() -> GenerativeClassifier:
    settings = {"network": {"blocks": [1, 1], "width": [8], "dense_hidden": [16]}}
    model = quick(shape=(1, 8, 8), levels=17, epochs=2, settings=settings)
    return model.fit(DIGITS, LABELS)


# Few epochs are enough: one check asks for an accuracy, of 0.83 on three clear clusters.
@parametrize_with_checks(
    [GenerativeClassifier(epochs=5), GenerativeClassifier("gm", epochs=10)],
    expected_failed_checks=lambda _: {
        "check_sample_weight_equivalence_on_dense_data": "rows are drawn: as often, not the same",
    },
)
def test_scikit_learn_takes_it_for_one_of_its_own(estimator: Any, check: Any) -> None:
    check(estimator)


def test_doubtful_rows_are_rejected_and_sets_cover(tmp_path: Path) -> None:
    half = np.arange(len(IRIS)) % 2 == 0
    model = quick(epochs=20).fit(IRIS[half], NAMES[half])
    with pytest.raises(NotFittedError, match="Call calibrate"):
        model.predict_set(IRIS)
    model.calibrate(IRIS[~half], NAMES[~half], IRIS[half], coverage=0.9, false_alarm=0.05)
    sets = model.predict_set(IRIS[~half])
    assert (sets.shape, sets.dtype) == ((75, 3), bool)
    assert sets[np.arange(75), SPECIES[~half]].mean() >= 0.9
    labels = model.predict_or_reject(np.concatenate([IRIS[~half], 50 + IRIS[:2]]))
    assert labels[-2:].tolist() == [None, None]
    kept = np.array([label is not None for label in labels[:-2]])
    assert kept.mean() > 0.6
    assert (labels[:-2][kept] == NAMES[~half][kept]).mean() > 0.9
    model.save(tmp_path / "saved")
    again = GenerativeClassifier.load(tmp_path / "saved")
    assert (again.predict_set(IRIS) == model.predict_set(IRIS)).all()
    with pytest.raises(ValueError, match="expected labels among"):
        model.calibrate(IRIS, SPECIES)
    assert not hasattr(model.fit(IRIS, NAMES), "decider_")


def test_a_pipeline_standardises_first() -> None:
    pipeline = make_pipeline(StandardScaler(), quick(epochs=20)).fit(IRIS, NAMES)
    assert pipeline.score(IRIS, NAMES) > 0.9
    assert pipeline.score_samples(IRIS).shape == (150,)


def test_a_grid_search_finds_a_beta_on_digits() -> None:
    flow = quick(epochs=30, settings=SMALL, preset="mlp")
    search = GridSearchCV(flow, {"beta": np.array([0.0, 8.0])}, cv=2)
    search.fit(DIGITS, LABELS)
    density_alone, both = search.cv_results_["mean_test_score"]
    assert both > 0.87 > density_alone
    assert search.best_params_ == {"beta": 8.0}
    assert search.best_estimator_.model_.settings.objective.beta == 8.0


def test_a_grid_may_have_any_setting_and_numpys_integers() -> None:
    grid = {"settings": [{"train.lr": 1e-2}], "epochs": np.array([1]), "batch_size": [np.int64(50)]}
    search = GridSearchCV(quick(), grid, cv=2, error_score="raise").fit(IRIS, SPECIES)
    train = search.best_estimator_.config_.train
    assert (train.lr, train.epochs, train.batch_size) == (1e-2, 1, 50)


def test_cross_validation() -> None:
    model = quick(epochs=20)
    # As it goes to the processes of n_jobs.
    scores = cross_val_score(pickle.loads(pickle.dumps(model)), IRIS, NAMES, cv=3)
    assert scores.min() > 0.8
    np.testing.assert_array_equal(scores, cross_val_score(model, IRIS, NAMES, cv=3))


@pytest.mark.parametrize("method", ["sigmoid", "isotonic"])
def test_it_can_be_recalibrated(method: str) -> None:
    calibrated = CalibratedClassifierCV(quick(epochs=10), method=method, cv=2).fit(IRIS, NAMES)
    np.testing.assert_allclose(calibrated.predict_proba(IRIS).sum(1), 1)
    assert calibrated.score(IRIS, NAMES) > 0.8


def test_probabilities_predictions_and_labels_agree(iris: GenerativeClassifier) -> None:
    probabilities = iris.predict_proba(IRIS)
    assert iris.classes_.tolist() == ["setosa", "versicolor", "virginica"]
    np.testing.assert_array_equal(iris.predict(IRIS), iris.classes_[probabilities.argmax(1)])
    np.testing.assert_array_equal(np.log(probabilities).round(9), log_proba(iris).round(9))
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-14)


def log_proba(model: GenerativeClassifier) -> Any:
    with torch.no_grad():
        return model.model_.log_posterior(torch.from_numpy(IRIS.astype(np.float32))).numpy()


def test_scores_and_latents_are_the_models(iris: GenerativeClassifier) -> None:
    x = torch.from_numpy(IRIS.astype(np.float32))
    with torch.no_grad():
        np.testing.assert_array_equal(iris.score_samples(IRIS), iris.model_.log_prob(x).numpy())
        np.testing.assert_array_equal(iris.transform(IRIS), iris.model_.encode(x).z.numpy())
    assert iris.transform(IRIS).shape == (150, 4)
    assert iris.get_feature_names_out().tolist()[:1] == ["generativeclassifier0"]


def test_the_density_of_one_feature_integrates_to_one() -> None:
    x = IRIS[:, 2:3] * 100
    model = quick(epochs=20).fit(x, NAMES)
    grid = np.linspace(-3000, 4000, 7001)[:, None]
    assert np.trapezoid(np.exp(model.score_samples(grid)), grid[:, 0]) == pytest.approx(1, abs=1e-4)
    assert model.score(x, NAMES) > 0.8


def test_systems_with_a_bound_alone_score_by_it() -> None:
    exact = systems_with("has_density")
    model = quick(next(s for s in systems_with("has_elbo") if s not in exact)).fit(IRIS, NAMES)
    x = torch.from_numpy(IRIS.astype(np.float32))
    with torch.no_grad():
        np.testing.assert_array_equal(model.score_samples(IRIS), model.model_.elbo(x).numpy())


def test_systems_without_a_model_of_x_have_no_such_methods() -> None:
    able, scored = systems_with("can_sample"), systems_with("has_elbo")
    system = next(s for s in SYSTEMS if s not in able + scored)
    model = quick(system).fit(IRIS, NAMES)
    assert not hasattr(model, "score_samples")
    with pytest.raises(AttributeError, match="sample") as caught:
        model.sample()
    said = f"{system} has no model of x; fit one of: {', '.join(able)}"
    assert said in str(caught.value.__cause__)


def test_samples_come_with_labels_in_order(iris: GenerativeClassifier) -> None:
    x, y = iris.sample(60)
    assert x.shape == (60, 4)
    assert x.dtype == np.float64
    assert y.tolist() == sorted(y)
    assert set(y) == set(NAMES)
    assert (iris.predict(x) == y).mean() > 0.8
    np.testing.assert_array_equal(x, iris.sample(60)[0])
    assert not np.array_equal(x, iris.sample(60, random_state=1)[0])


def test_samples_of_labels_that_are_asked_for(iris: GenerativeClassifier) -> None:
    assert iris.sample(3, "setosa")[1].tolist() == ["setosa"] * 3
    x, y = iris.sample(y=["virginica", "setosa"], temperature=0.0)
    assert y.tolist() == ["virginica", "setosa"]
    means = iris.model_.mixture.means[[2, 0]].detach()
    np.testing.assert_allclose(iris.transform(x), means, atol=1e-4)


@pytest.mark.parametrize("y", [SPECIES - 1, SPECIES.astype(float), NAMES, NAMES.astype(object)])
def test_saved_and_loaded_it_says_the_same(tmp_path: Path, y: Any) -> None:
    fitted = quick(beta=np.inf, settings={"train.lr": np.float64(1e-2)}).fit(IRIS, y)
    fitted.save(tmp_path / "saved")
    loaded = GenerativeClassifier.load(tmp_path / "saved")
    assert loaded.get_params() == fitted.get_params()
    assert loaded.classes_.dtype == fitted.classes_.dtype
    np.testing.assert_array_equal(loaded.predict(IRIS), fitted.predict(IRIS))
    for method in ("predict_log_proba", "score_samples", "transform"):
        np.testing.assert_array_equal(getattr(loaded, method)(IRIS), getattr(fitted, method)(IRIS))
    np.testing.assert_array_equal(loaded.sample(5)[0], fitted.sample(5)[0])
    np.testing.assert_array_equal(loaded.fit(IRIS, y).transform(IRIS), fitted.transform(IRIS))


@pytest.mark.parametrize("options", [{"settings": {"train.precision": "64-true"}}, {}])
def test_the_saved_folder_is_one_that_flowclf_loads(
    tmp_path: Path, images: GenerativeClassifier, options: Any
) -> None:
    fitted = quick(random_state=np.random.RandomState(3), **options).fit(IRIS, SPECIES)
    for model, x, name in ((fitted, IRIS, "iris"), (images, DIGITS, "digits")):
        model.save(tmp_path / name)
        loaded = GenerativeClassifier.load(tmp_path / name, device="cpu")
        np.testing.assert_array_equal(loaded.predict_proba(x), model.predict_proba(x))
        assert flowclf.load(tmp_path / name).shape == model.shape_
        assert loaded.random_state == model.config_.seed
        assert not list((tmp_path / name).rglob("*.p*"))


def test_what_cannot_be_saved_or_loaded_is_said(tmp_path: Path, iris: GenerativeClassifier) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="expected a new or empty folder"):
        iris.save(tmp_path)
    with pytest.raises(ValueError, match=r"without estimator.yaml; the model of a run is read by"):
        GenerativeClassifier.load(tmp_path)
    (tmp_path / "estimator.yaml").write_text("params: {colour: red}")
    with pytest.raises(ValueError, match=r"estimator.yaml is damaged"):
        GenerativeClassifier.load(tmp_path)
    with pytest.raises(NotFittedError):
        quick().save(tmp_path / "new")


def test_the_same_random_state_gives_the_same_bits_and_no_global_one_moves() -> None:
    before = states()
    first, second = (quick("vae").fit(IRIS, SPECIES) for _ in range(2))
    for method in ("predict_proba", "score_samples", "transform"):
        np.testing.assert_array_equal(getattr(first, method)(IRIS), getattr(second, method)(IRIS))
    first.sample(3)
    assert states() == before
    other = quick("vae", random_state=1).fit(IRIS, SPECIES)
    assert not np.array_equal(first.transform(IRIS), other.transform(IRIS))


def states() -> tuple[Any, ...]:
    return random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()  # noqa: NPY002


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system_fits_and_can_be_pickled(system: str) -> None:
    before = torch.get_rng_state()
    fitted = quick(system, epochs=1).fit(IRIS, SPECIES)
    copy = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(fitted.predict_proba(IRIS), copy.predict_proba(IRIS))
    for method in filter(partial(hasattr, fitted), ("score_samples", "transform")):
        np.testing.assert_array_equal(getattr(fitted, method)(IRIS), getattr(copy, method)(IRIS))
    if hasattr(fitted, "sample"):
        assert fitted.sample(4)[0].shape == (4, 4)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_integer_is_the_seed_of_the_command_line() -> None:
    assert quick(random_state=7).fit(IRIS, SPECIES).config_.seed == 7
    drawn = [quick(random_state=np.random.RandomState(7)).fit(IRIS, SPECIES) for _ in range(2)]
    np.testing.assert_array_equal(drawn[0].transform(IRIS), drawn[1].transform(IRIS))


def test_images_as_rows_and_as_images(images: GenerativeClassifier) -> None:
    assert images.shape_ == (1, 8, 8)
    assert images.n_features_in_ == 64
    x = DIGITS.reshape(-1, 8, 8)
    for shaped in (x, x[:, None], x.astype(np.uint8)):
        np.testing.assert_array_equal(images.transform(shaped), images.transform(DIGITS))
    drawn, _ = images.sample(5)
    assert drawn.shape == (5, 64)
    assert np.isin(drawn, np.arange(17)).all()
    assert np.isfinite(images.score_samples(drawn)).all()


def test_an_array_of_images_says_its_shape(images: GenerativeClassifier) -> None:
    settings = images.settings
    model = quick(epochs=2, levels=17, settings=settings).fit(DIGITS.reshape(-1, 1, 8, 8), LABELS)
    np.testing.assert_array_equal(model.transform(DIGITS), images.transform(DIGITS))


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (DIGITS, {"shape": (8, 8)}, r"expected shape \(C, H, W\) of images, got \(8, 8\)"),
        (DIGITS, {"shape": (1, 8, 9)}, "rows of 72 numbers .* got 64"),
        (DIGITS / 16, {"shape": (1, 8, 8)}, r"whole grey levels 0..255, got 0.3125"),
        (DIGITS, {"shape": (1, 8, 8), "levels": 16}, r"whole grey levels 0..15, got 16"),
        (DIGITS, {"levels": 17}, r"levels=17: expected shape=\(C, H, W\)"),
        (DIGITS, {"shape": (1, 8, 8), "levels": 1000}, "levels from 2 to 256, got 1000"),
        (DIGITS.reshape(-1, 8, 8, 1), {}, "at most 4 channels, got 8; move them"),
        (DIGITS.reshape(-1, 8, 8), {"shape": (1, 4, 16)}, "of shape .1, 4, 16., got .8, 8."),
    ],
)
def test_images_that_are_none_are_refused(x: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quick(**options).fit(x, LABELS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"system": NO_BETA, "beta": 1.0}, f"{NO_BETA} has no information-bott.*: {WITH_BETA}$"),
        ({"system": "glow"}, "'glow' is not a system"),
        ({"beta": -1.0}, r"objective.beta: .*greater than or equal to 0, got -1.0"),
        ({"settings": {"train.speed": 1}}, "unknown setting 'train.speed'"),
        ({"settings": "train.lr=1"}, "expected settings as a dictionary, got 'train.lr=1'"),
        ({"epochs": 0}, "train.epochs: .*greater than 0, got 0"),
        ({"preset": "mnits"}, "has no preset 'mnits'"),
        ({"random_state": "x"}, "cannot be used to seed"),
        ({"device": "tpu"}, "expected device auto, cpu, cuda or mps"),
    ],
)
def test_wrong_parameters_are_refused_by_fit(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quick(**options).fit(IRIS, SPECIES)


def test_labels_that_yaml_has_no_values_for_are_not_saved(tmp_path: Path) -> None:
    years = np.array(["2020", "2021", "2022"], "M8[Y]")[SPECIES]
    with pytest.raises(ValueError, match=r"strings or numbers as labels .* joblib.dump instead"):
        quick(epochs=1).fit(IRIS, years).save(tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("method", ["predict", "score_samples", "transform", "sample"])
def test_unfitted_it_says_so(method: str) -> None:
    model = quick()
    with pytest.raises(NotFittedError):
        getattr(model, method)(*([] if method == "sample" else [IRIS]))
    with pytest.raises(NotFittedError):
        check_is_fitted(model)


def test_ctrl_c_ends_a_search_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise Interrupted("stopped after step 1 of 2")

    monkeypatch.setattr(estimator, "train", stopped)
    with pytest.raises(KeyboardInterrupt, match="stopped after step 1"):
        GridSearchCV(quick(), {"beta": [1.0]}, cv=2).fit(IRIS, SPECIES)
