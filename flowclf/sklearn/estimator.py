"""`GenerativeClassifier`, which scikit-learn takes for one of its own."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.base import ClassNamePrefixFeaturesOutMixin as Named
from sklearn.utils import check_random_state
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from couplings.core import Shape
from flowclf import classifier
from flowclf.config import RunConfig, make_config, read_settings
from flowclf.data import Dataset, Split
from flowclf.decide import FILE, Decider, Decisions
from flowclf.models import load, load_weights, save_weights, systems_with
from flowclf.runs import Run, facts_of
from flowclf.settings import DataFacts
from flowclf.sklearn import convert
from flowclf.sklearn.convert import as_rows, plain, to_tensor
from flowclf.support import validate
from flowclf.support.atomic_files import check_new, write_yaml
from flowclf.support.devices import pick_device
from flowclf.support.errors import UserError
from flowclf.support.seeding import private_rng
from flowclf.training import Interrupted
from flowclf.training.loop import train

__all__ = ["GenerativeClassifier"]

BATCH_SIZE = 512
DATASET = "array"  # what a saved config.yaml calls the data
ESTIMATOR_FILE = "estimator.yaml"

Array = npt.NDArray[Any]
Method = TypeVar("Method", bound=Callable[..., Any])
Model = classifier.GenerativeClassifier


def _able(capability: str) -> Callable[[Method], Method]:
    """Decorate a method that fitted models have only with this capability."""

    def check(estimator: GenerativeClassifier) -> bool:
        model = getattr(estimator, "model_", None)
        # Before `fit` the method is there, and its call says that there is no model yet.
        if model is None or getattr(model, capability):
            return True
        able = ", ".join(systems_with(capability))
        raise AttributeError(f"{estimator.config_.system} has no model of x; fit one of: {able}")

    decorator: Callable[[Method], Method] = available_if(check)
    return decorator


class GenerativeClassifier(Named, ClassifierMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Classifier, density and transformer in one, by any of flowclf's systems.

    X is a table (N, F) of numbers, taken as float32; the model standardises it. With `shape`, or as
    an array N×H×W or N×C×H×W, X holds images of whole grey levels 0 to levels - 1. Labels are of
    any one sortable kind; -1 is one like the others. Results are float64 arrays with a row for each
    of X, two-dimensional for images, too.

    Classes of a table weigh what they are frequent, those of images the same, unless
    `settings={"mixture.weights": …}` says otherwise. Of a table the fitted model computes in
    float64 on a CPU, so that what it says of a row does not depend on the rows beside it; else in
    the precision of the training.

    Args:
        system: a name of `flowclf systems`.
        beta: β̃, the weight of the cross-entropy; None: the preset's.
        epochs, batch_size: of the training; None: the preset's.
        preset: None: "table" or "mlp" for tables, "image" for images.
        settings: all others, nested or dotted: {"network": {"blocks": 2}, "train.lr": 1e-3}.
        shape: (C, H, W): rows of C·H·W numbers are images.
        levels: grey levels of images, 2 to 256; None: 256.
        random_state: an integer is the seed itself, as in `flowclf train --seed`; otherwise the
            seed is drawn from the RandomState, or for None from numpy's global one. No other global
            generator is drawn from or seeded.
        device: auto, cpu or cuda; or mps, which is untested.

    Attributes:
        model_: the trained `flowclf.GenerativeClassifier`.
        config_: every setting of the training, with the seed.
        classes_: the labels (K,), sorted.
        shape_, levels_: shape of a sample; grey levels, None for a table.
        decider_: after `calibrate`, the `flowclf.Decider`.
        n_features_in_, feature_names_in_: as of any estimator.
    """

    def __init__(
        self,
        system: str = "ib-inn",
        *,
        beta: float | None = None,
        epochs: int | None = None,
        batch_size: int | None = None,
        preset: str | None = None,
        settings: Mapping[str, Any] | None = None,
        shape: Shape | None = None,
        levels: int | None = None,
        random_state: int | np.random.RandomState | None = None,
        device: str = "auto",
    ) -> None:
        self.system = system
        self.beta = beta
        self.epochs = epochs
        self.batch_size = batch_size
        self.preset = preset
        self.settings = settings
        self.shape = shape
        self.levels = levels
        self.random_state = random_state
        self.device = device

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train on X (N, F) with labels y (N,).

        Args:
            X, y: rows and labels.
            sample_weight: how often each row is drawn, relative to others (N,); None: equally
                often. Rows of weight 0 are left out, and pre-processing knows no other weight.

        Raises:
            ValueError: what scikit-learn refuses (NaN, unequal lengths, continuous labels), fewer
                than two classes, images that are not of grey levels, or settings that the system
                does not have, `beta` among them.
            TrainingDiverged: a loss that is not finite.
            KeyboardInterrupt: Ctrl-C, between two steps.
        """
        images = convert.image_shape(X, self.shape)
        levels = convert.grey_levels(images, self.levels)
        rows, y = validate_data(self, as_rows(X, images), y, dtype=np.float32)
        check_classification_targets(y)
        rows, y, weight = convert.weighted_rows(rows, y, sample_weight)
        classes, labels = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise UserError(
                f"expected samples of at least 2 classes, got 1 class ({classes.tolist()[0]!r}); "
                "add samples of another class"
            )
        x = to_tensor(rows, images or rows.shape[1:], levels)
        training = Split(x, torch.from_numpy(labels.astype(np.int64)), weight)
        # The loop ends with an evaluation, of which nothing is kept: one sample is enough.
        test, names = training.take(slice(1)), tuple(map(str, classes.tolist()))
        config, data = self._make_config(x), Dataset(DATASET, training, test, names, levels)
        try:
            trained = train(config, data, device=self.device)
        except Interrupted as stop:
            # A search would take any other exception for a bad setting, and go on.
            raise KeyboardInterrupt(str(stop)) from None
        self.classes_ = classes
        return self._adopt(trained.model, config, facts_of(data, len(trained.training)))

    def predict(self, X: Any) -> Array:
        """Predict the most probable label of each row, (N,)."""
        probabilities = self.predict_proba(X)
        labels: Array = self.classes_[probabilities.argmax(1)]
        return labels

    def predict_proba(self, X: Any) -> Array:
        """Compute q(y|x), (N, K), in the order of `classes_`."""
        probabilities: Array = np.exp(self.predict_log_proba(X))
        return probabilities

    def predict_log_proba(self, X: Any) -> Array:
        """Compute log q(y|x), (N, K), in the order of `classes_`; nats."""
        # Normalised again: float32 sums are 1e-7 off, of which scikit-learn's metrics would warn.
        return self._each(X, lambda model, x: model.log_posterior(x).double().log_softmax(1))

    def calibrate(self, X: Any, y: Any, X_train: Any = None, **settings: Any) -> Self:
        """Calibrate `predict_set` and `predict_or_reject` on rows that `fit` has not seen.

        Args:
            X, y: calibration rows (n, F) and their labels.
            X_train: rows that `fit` has seen, for the outlier score; None: half of X takes their
                place.
            settings: of `flowclf.Decider`: coverage=0.95, false_alarm=0.01, sets, per_class, score.

        Raises:
            ValueError: labels unknown to `fit`, too few rows for the levels, or unknown settings.
        """
        rows, labels = self._tensor(X), torch.from_numpy(self._numbers(np.asarray(y)))
        train = None if X_train is None else self._tensor(X_train)
        with _computing(self.model_):
            self.decider_ = Decider(self.model_, **settings).fit(rows, labels, train)
        return self

    def predict_set(self, X: Any) -> Array:
        """Return the classes that conform at the coverage asked for, (N, K), bool.

        Raises:
            NotFittedError: `calibrate` has not been called.
        """
        sets: Array = self._decide(X).sets.numpy()
        return sets

    def predict_or_reject(self, X: Any) -> Array:
        """Return labels (N,), object, with None where the input is ambiguous or never seen.

        Raises:
            NotFittedError: `calibrate` has not been called.
        """
        found = self._decide(X)
        labels: Array = self.classes_[found.label.numpy()].astype(object)
        labels[found.decision != "accept"] = None
        return labels

    @_able("has_elbo")
    def score_samples(self, X: Any) -> Array:
        """Compute log q(x), (N,), nats, in units of X; grey levels at the middle of their interval.

        Of systems that have but a bound of it (vae and its kin) this is their `elbo`. Systems with
        neither do not have the method once they are fitted.
        """
        return self._each(
            X, lambda model, x: model.log_prob(x) if model.has_density else model.elbo(x)
        )

    def transform(self, X: Any) -> Array:
        """Compute latents z, (N, D), without noise; the mean of a Gaussian encoder."""
        return self._each(X, lambda model, x: model.encode(x).z)

    @_able("can_sample")
    def sample(
        self,
        n_samples: int = 1,
        y: Any = None,
        *,
        temperature: float = 1.0,
        random_state: int | np.random.RandomState | None = None,
    ) -> tuple[Array, Array]:
        """Draw new rows X (n, F) and their labels (n,); images as rows of grey levels.

        Args:
            n_samples: how many. Their labels are drawn by the model's class weights and come in
                order, as from scikit-learn's mixtures.
            y: one label for all of them; or labels (n,), which get a row each.
            temperature: factor on the latents' standard deviations; 1: draws from q(x|y).
            random_state: None: the estimator's own; an integer gives the same rows each time.

        Raises:
            ValueError: no sample, a label unknown to `fit`, or a negative temperature.
        """
        check_is_fitted(self)
        random = check_random_state(self.random_state if random_state is None else random_state)
        labels = self._labels(n_samples, y, random)
        device = self.model_.mixture.device
        generator = torch.Generator(device).manual_seed(int(random.randint(convert.SEEDS)))
        parts = torch.from_numpy(labels).to(device).split(BATCH_SIZE)
        with _computing(self.model_):
            x = torch.cat([self.model_.sample(part, temperature, generator) for part in parts])
        if self.levels_ is not None:
            x = x.floor().clamp(0, self.levels_ - 1)
        return x.flatten(1).double().cpu().numpy(), self.classes_[labels]

    def save(self, path: str | Path) -> None:
        """Write a folder: config.yaml, model.safetensors and, at last, estimator.yaml; no pickle.

        `flowclf.load(path)` gives the model alone. A RandomState is saved as the seed it gave.

        Raises:
            ValueError: a folder that holds something, or labels that YAML has no values for.
        """
        check_is_fitted(self)
        run, names = Run(Path(path)), getattr(self, "feature_names_in_", None)
        check_new(run.folder)
        state = {
            "params": plain(self.get_params(deep=False)) | {"random_state": self._fixed_state()},
            "classes": convert.plain_labels(self.classes_),
            "dtype": str(self.classes_.dtype),
            "n_features_in": self.n_features_in_,
            "feature_names_in": None if names is None else names.tolist(),
        }
        run.write_config(self.config_, self._facts)
        save_weights(self.model_, run.weights_file, run.read_identity())
        if hasattr(self, "decider_"):
            self.decider_.save(run.folder)
        write_yaml(run.folder / ESTIMATOR_FILE, state)

    @classmethod
    def load(cls, path: str | Path, device: str | None = None) -> Self:
        """Load the fitted estimator that `save` wrote; its predictions are the same, bit for bit.

        Args:
            path: the folder.
            device: another one than it was made with.

        Raises:
            ValueError: not such a folder, or a damaged one.
        """
        run, file = Run(Path(path)), Path(path) / ESTIMATOR_FILE
        if not file.is_file():
            raise UserError(
                f"expected a folder that GenerativeClassifier.save wrote, got {path} without "
                f"{file.name}; the model of a run is read by flowclf.load"
            )
        estimator, state = cls(), read_settings(file)
        try:
            estimator.set_params(**state["params"])
            estimator.classes_ = np.array(state["classes"], np.dtype(state["dtype"]))
            estimator.n_features_in_ = state["n_features_in"]
            if state["feature_names_in"] is not None:
                estimator.feature_names_in_ = np.array(state["feature_names_in"], object)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise UserError(f"{file} is damaged: {error} is missing or wrong") from None
        estimator.device = device or estimator.device
        model = load(path, pick_device(estimator.device))
        estimator._adopt(model, *run.read_config())
        found = (estimator.classes_.shape, estimator.n_features_in_)
        if found != ((model.classes,), prod(estimator.shape_)):
            raise UserError(
                f"{file} is damaged: expected {model.classes} classes of {prod(estimator.shape_)} "
                f"features, got {found}"
            )
        load_weights(model, run.weights_file)  # once more, for those that are float64
        if (run.folder / FILE).is_file():
            estimator.decider_ = Decider.load(run.folder, model)
        return estimator

    def _make_config(self, x: Tensor) -> RunConfig:
        loop = {"epochs": plain(self.epochs), "batch_size": plain(self.batch_size)}
        given = {name: value for name, value in loop.items() if value is not None}
        overrides = [convert.sections(plain(self.settings)), {"train": given}]
        own = {"preset": self.preset, "beta": plain(self.beta), "overrides": overrides}
        own |= {"seed": convert.draw_seed(self.random_state), "samples": len(x)}
        return make_config(self.system, DATASET, tuple(x.shape[1:]), **own)

    def _fixed_state(self) -> int | None:
        """Return `random_state` in a form that YAML can hold."""
        if isinstance(self.random_state, np.random.RandomState):
            return self.config_.seed
        return None if self.random_state is None else int(self.random_state)

    def _adopt(self, model: Model, config: RunConfig, facts: DataFacts) -> Self:
        """Take over a trained model and its classes; a calibration of another model is dropped."""
        if hasattr(self, "decider_"):
            del self.decider_
        table_on_cpu = facts.levels is None and model.mixture.device.type == "cpu"
        self.model_: Model = model.double() if table_on_cpu else model
        self.config_, self._facts = config, facts
        self.shape_, self.levels_ = facts.shape, facts.levels
        self._n_features_out = model.mixture.dims
        return self

    def _each(self, X: Any, function: Callable[[Model, Tensor], Tensor]) -> Array:
        """Apply `function` to the model and x, by batches."""
        batches, device = self._tensor(X).split(BATCH_SIZE), self.model_.mixture.device
        with _computing(self.model_):
            parts = [function(self.model_, x.to(device)).cpu() for x in batches]
        values: Array = torch.cat(parts).double().numpy()
        return values

    def _tensor(self, X: Any) -> Tensor:
        """Return rows X as the model takes them, on the CPU."""
        check_is_fitted(self)
        rows = validate_data(self, as_rows(X, self.shape_), dtype=np.float32, reset=False)
        return to_tensor(rows, self.shape_, self.levels_)

    def _decide(self, X: Any) -> Decisions:
        check_is_fitted(self, "decider_", msg="Call calibrate(X, y) on rows of its own first.")
        with _computing(self.model_):
            return self.decider_(self._tensor(X))

    def _labels(self, n_samples: int, y: Any, random: np.random.RandomState) -> Array:
        """Return class numbers (n,), int64."""
        validate.at_least("n_samples", n_samples, 1)
        if y is None:
            weights = self.model_.mixture.log_weights.detach().double().cpu().softmax(0)
            counts = random.multinomial(n_samples, weights.numpy())
            return np.repeat(np.arange(len(counts)), counts)
        return self._numbers(np.full(n_samples, y) if np.ndim(y) == 0 else np.asarray(y))

    def _numbers(self, labels: Array) -> Array:
        """Return the class numbers (n,), int64, of labels."""
        check_is_fitted(self)
        if labels.ndim != 1:
            raise UserError(f"expected y, one label or labels (n,), got shape {labels.shape}")
        numbers = {label: number for number, label in enumerate(self.classes_.tolist())}
        asked = labels.tolist()
        for label in asked:
            if not isinstance(label, Hashable) or label not in numbers:
                raise UserError(f"expected labels among {list(numbers)}, got {label!r}")
        return np.array([numbers[label] for label in asked], np.int64)


@contextmanager
def _computing(model: Model) -> Iterator[None]:
    """Switch to eval mode without gradients or draws from torch's global generator."""
    with torch.no_grad(), classifier.evaluating(model), private_rng(0, model.mixture.device):
        yield
