"""`GenerativeClassifier`: the methods that every system has."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import log
from numbers import Integral
from pathlib import Path
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn

from couplings import Whitening, fit_whitening
from couplings.core import Shape
from couplings.functional import MixtureDensities
from flowclf.latent import MixtureSettings
from flowclf.latent.full import FullMixture
from flowclf.latent.gaussian import Around, GaussianMixture
from flowclf.nn.encoders import Encoder, EncoderKind, Encoding, Noise, NoiseSettings
from flowclf.nn.preprocessing import PreprocessSettings, fit_preprocess
from flowclf.objectives import Batch, consistency_loss, pseudo_label_loss
from flowclf.settings import Fraction, ModelInfo, Section, Weight
from flowclf.sharing import push, write_folder
from flowclf.support import validate
from flowclf.support.atomic_files import checked_path
from flowclf.support.collectives import all_reduce_count
from flowclf.support.devices import check_room
from flowclf.support.errors import NoExactDensity, UserError

__all__ = [
    "GenerativeClassifier",
    "ModelSettings",
    "class_latents",
    "evaluating",
    "latents",
]

BATCH_SIZE = 512
FITTED_NUMBERS = 2**21
POSTERIOR_DRAWS = 12


class PseudoLabelSettings(Section):
    """Weights of what samples without a label learn from the guesses at another view of them."""

    cross_entropy: Weight = 0.0  # of guesses that are sure, relative to that of given labels
    threshold: Fraction = 0.95  # a guess is sure from this probability on
    consistency: Weight = 0.0  # of -log q(x|guess), sure or not, relative to the likelihood's
    # Decay per step of the average of the weights that guesses; 0: those of the step guess.
    average: Fraction = 0.99

    @property
    def asked(self) -> bool:
        """True if samples without a label are to be guessed."""
        return bool(self.cross_entropy or self.consistency)


class ModelSettings(Section):
    """Settings of every system: first stage, noise, latent mixture, and pseudo-labels."""

    preprocess: PreprocessSettings = PreprocessSettings()
    noise: NoiseSettings = NoiseSettings()
    mixture: MixtureSettings = MixtureSettings()
    pseudo_labels: PseudoLabelSettings = PseudoLabelSettings()


class GenerativeClassifier(nn.Module):
    """Encoder into a latent mixture with one component for each class.

    x is in data units: grey levels of images (B, C, H, W), features of tables (B, F). An integer x
    stands for its grey level, the interval [x, x + 1), and is taken at its middle. Densities are in
    nats per sample, in data units. Arguments are validated first (`flowclf.support.validate`): a
    UserError names what is wrong.

    Args:
        shape: shape of one sample.
        encoder: from data to latents.
        mixture: the latent mixture.
        noise: added by `perturb`.
        settings: settings of the system.

    Attributes:
        heads: modules on the latents, trained at a learning rate of their own.
        info: where the model comes from, which `save` writes; None for a model made by hand.
        learn_weights: True if the posterior's gradients reach the class weights.
        accepts_unlabelled: True if samples without a label (-1) contribute to the loss.
        needs_equal_shares: True if all ranks need the same number of labelled samples.
        progress: share of the training that is done, for schedules within a loss.
        systems_with: gives the systems that have a capability; set by `flowclf.models`.
        kept_noise: the `common_noise`, kept while the model is exported, as no exported program
            can hold a generator; else None.
    """

    learn_weights: bool = True
    accepts_unlabelled: bool = False
    needs_equal_shares: bool = False
    progress: float = 1.0
    info: ModelInfo | None = None
    systems_with: Callable[[str], Sequence[str]] = staticmethod(lambda capability: ())
    kept_noise: Tensor | None
    _trainer: int | None = None  # the thread that trains it
    _warned: bool = False  # of images in other units than grey levels

    def __init__(
        self,
        shape: Shape,
        encoder: Encoder,
        mixture: GaussianMixture,
        noise: Noise,
        settings: ModelSettings,
    ) -> None:
        super().__init__()
        self.shape: Shape = tuple(shape)
        self.encoder, self.mixture, self.noise = encoder, mixture, noise
        if noise.learned is not None and not self.has_density:
            raise UserError(
                f"expected a flow for noise.learned, got {type(self).__name__}, which has no "
                "density for it to bound; leave it out"
            )
        if noise.denoise and not self.has_density:
            raise UserError(
                f"expected noise.denoise=0 of a system without log q(x), got {noise.denoise:g}"
            )
        self.settings = settings
        self.heads = nn.ModuleDict()
        self.register_buffer("kept_noise", None, persistent=False)

    @property
    def classes(self) -> int:
        """Number of classes K."""
        return self.mixture.classes

    @property
    def dims(self) -> int:
        """Dimensions of one sample."""
        return int(torch.Size(self.shape).numel())

    @property
    def encoder_kind(self) -> EncoderKind:
        """Form of q(z|x): "invertible", "gaussian", "delta" or "relaxed-label"."""
        return self.encoder.kind

    @property
    def has_density(self) -> bool:
        """True if `log_prob` is known and `decode` is the encoder's inverse."""
        return self.encoder_kind == "invertible"

    @property
    def has_elbo(self) -> bool:
        """True if `elbo` is known."""
        return self.has_density

    @property
    def can_sample(self) -> bool:
        """True if `sample` can draw x of a class."""
        return self.has_density

    @property
    def can_decode(self) -> bool:
        """True if `decode` gives the x of any latent."""
        return self.encoder_kind == "invertible"

    @property
    def posterior_is_mixture(self) -> bool:
        """True if `log_posterior` is that of the latent mixture, not of a head."""
        return True

    def extra_rates(self, x: Tensor, log_prob: Tensor | None = None) -> dict[str, Tensor]:
        """Compute further published rates of x by their names, each (B,); none by default.

        `log_prob` may be handed in where it is known, to save encoding x again.
        """
        return {}

    def encode(self, x: Tensor, generator: torch.Generator | None = None) -> Encoding:
        """Encode x: z (B, D) and what is known exactly (`log_det` (B,), or `mean`, `log_var`).

        In training mode a Gaussian encoder draws z with `generator`; in eval mode z is its mean.

        Raises:
            UserError: x of another type, shape or device, or not finite, as in all calls; x so
                large that z is not finite; one sample for a BatchNorm in training mode.
        """
        validate.generator(generator)
        return self._encode_named("x", x, generator)

    def log_prob(self, x: Tensor, y: Tensor | int | None = None) -> Tensor:
        """Compute the exact log q(x), or log q(x|y) for labels y (B,) or one: (B,), nats.

            log q(x) = log Σ_k w_k N(z; μ_k, Σ_k) + log|det dz/dx|

        This is the density at the point x: for integer data add noise first (`perturb`).

        Raises:
            NoExactDensity: the encoder is not invertible.
            UserError: x as for `encode`, labels out of range or not one per sample, or NaN.
        """
        if not self.has_density:
            raise NoExactDensity(
                f"{type(self).__name__} has no exact log_prob, as its encoder has no inverse; "
                "elbo(x) is a lower bound where a system has one"
            )
        x = self._points(x)
        y = None if y is None else self._labels(self._each(y, len(x)), len(x))
        encoding = self._encode(x)
        assert encoding.log_det is not None
        if y is None:
            log_prob = self.mixture.log_prob(encoding.z)
        else:
            log_prob = self.mixture.log_prob_given_class(encoding.z).gather(1, y[:, None])[:, 0]
        return self._checked("log_prob", log_prob + encoding.log_det, x)

    def elbo(self, x: Tensor) -> Tensor:
        """Compute a lower bound of log q(x), (B,), nats; the density itself where that is exact."""
        return self.log_prob(x)

    def log_posterior(self, x: Tensor) -> Tensor:
        """Compute log q(k|x), (B, K).

        Of a Gaussian encoder it is averaged over 12 draws of z, the same in every call:

            log q(k|x) = log mean_s q(k|z_s),  z_s ~ q(z|x)

        With noise.draws also over so many copies of x with the noise of the training, each moved
        by `denoise` where noise.denoise says so.
        """
        copies: Iterable[Tensor] = self.noise.copies(self._points(x))
        if self.noise.denoise:
            copies = (self.denoise(each, self.noise.denoise) for each in copies)
        encodings = (self._encode(each, self._fixed_generator()) for each in copies)
        z = torch.cat([self._fixed_draws(each) for each in encodings])
        given_z = self.densities(z.flatten(0, 1)).log_posterior.unflatten(0, z.shape[:2])
        return self._checked("log_posterior", given_z.logsumexp(0) - log(len(z)), x)

    def denoise(self, x: Tensor, share: float = 1.0) -> Tensor:
        """Move noisy points x a share of the way to the mean of what they were: of the shape of x.

            E[x₀|x] = x + σ² ∇ log q(x),  x = x₀ + σ ε,  ε ~ N(0, I)

        with the σ of noise.sigma in data units, which q was trained with (Miyasawa 1961; Robbins
        1956, who names Tweedie). Differentiable by an x that requires a gradient.

        Raises:
            NoExactDensity, UserError: x as for `log_prob`.
        """
        onward = x.requires_grad and torch.is_grad_enabled()
        with torch.inference_mode(False), torch.enable_grad():
            at = x if onward else x.detach().clone().requires_grad_()
            (score,) = torch.autograd.grad(self.log_prob(at).sum(), at, create_graph=onward)
        return x + share * (self.noise.sigma * self.noise.unit).square() * score

    def forward(self, x: Tensor) -> Tensor:
        """Return `log_posterior(x)`, (B, K): `model(x)` has the form of other networks' logits."""
        return self.log_posterior(x)

    @torch.no_grad()
    def predict_proba(self, x: Tensor) -> Tensor:
        """Return q(k|x), (B, K), without a graph."""
        return self.log_posterior(x).exp()

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """Return the most probable class, (B,), without a graph."""
        return self.log_posterior(x).argmax(1)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Shape of `common_noise`: (draws, 1, D)."""
        return POSTERIOR_DRAWS, 1, self.mixture.dims

    def common_noise(self) -> Tensor:
        """Return the standard normal numbers of all averages over z, the same in every call."""
        if self.kept_noise is not None:
            return self.kept_noise
        return self._like.new_empty(self.noise_shape).normal_(generator=self._fixed_generator())

    def decode(self, z: Tensor) -> Tensor:
        """Decode latents z (B, D) to x (B, *shape), in data units.

        Raises:
            UserError: the system cannot decode; z of another shape, type or device, not finite, or
                so large that x is not.
        """
        self._check_thread()
        if not self.can_decode:
            raise self._lacks("decode", "has neither an inverse nor a decoder", "can_decode")
        validate.latents("z", z, self.mixture.dims, self._like)
        z = z.to(self._like.dtype)
        validate.finite("z", z, self.training)
        x = self._decode(z)
        return validate.numbers("decoded x", x, "z", z, self.training, infinite=False)

    def _decode(self, z: Tensor) -> Tensor:
        return self.encoder.decode(z)

    @torch.no_grad()
    def sample(
        self,
        y: Tensor | int,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        around: Around = "means",
    ) -> Tensor:
        """Draw one x for each label of y (B,): decoded draws from N(μ_y, temperature² Σ_y).

        y may be a number of draws, whose labels come from the mixture's weights. At temperature 1
        these are draws from q(x|y). Around "data" they are centred at the average
        latent of the class's training samples, as in the authors' pictures: sharper images where a
        large β̃ holds the latents off the means.

        Raises:
            UserError: the system has no model of x to draw from; labels out of range, or a
                temperature that is negative or not finite.
        """
        if not self.can_sample:
            raise self._lacks("generate", "has no model of x", "can_sample")
        validate.generator(generator)
        if isinstance(y, Integral) and not isinstance(y, bool):
            validate.at_least("y", y, 1)
            check_room(int(y), self.mixture.dims, "samples")
            weights = self.mixture.log_weights.exp()
            y = torch.multinomial(weights, int(y), replacement=True, generator=generator)
        labels = self._labels(y)  # type: ignore[arg-type]
        validate.temperature(temperature)
        validate.one_of("around", around, ("means", "data"))
        return self.decode(self.draw_latents(labels, float(temperature), generator, around))

    def draw_latents(
        self, y: Tensor, temperature: float, generator: torch.Generator | None, around: Around
    ) -> Tensor:
        """Draw latents of the classes y (B,): (B, D)."""
        return self.mixture.sample(y, temperature, generator, around)

    @torch.no_grad()
    def interpolate(self, x0: Tensor, x1: Tensor, steps: int) -> Tensor:
        """Decode points of the straight line between two latents: (steps, B, *shape).

        Raises:
            UserError: fewer than two steps, or batches of different shapes.
        """
        z0, z1 = self._encode_named("x0", x0).z, self._encode_named("x1", x1).z
        if not isinstance(steps, Integral) or steps < 2 or x0.shape != x1.shape:
            raise UserError(
                f"expected two batches of one shape and at least 2 steps, got shapes "
                f"{tuple(x0.shape)} and {tuple(x1.shape)} and {steps} steps"
            )
        check_room(steps * len(z0), self.mixture.dims, "samples on the way")
        weights = torch.linspace(0, 1, steps, dtype=z0.dtype, device=z0.device)
        return torch.stack([self.decode(z0.lerp(z1, weight)) for weight in weights])

    def perturb(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Add the system's noise to x: uniform dequantization and Gaussian, in data units.

        `generator` lives on x's device; without one torch's default generator is used.
        """
        validate.generator(generator)
        noisy: Tensor = self.noise(self._samples("x", x), generator)
        return noisy

    def dequantize(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return x as `log_prob` or `elbo` must see it to bound the bits of grey levels."""
        validate.generator(generator)
        return self.noise.dequantize(self._samples("x", x), generator)

    def bounds_bits(self, x: Tensor) -> bool:
        """Return whether there are densities or bounds of x (N, *shape), and normalised ones."""
        return self.has_density

    def loss(
        self,
        x: Tensor,
        y: Tensor,
        generator: torch.Generator | None = None,
        index: Tensor | None = None,
        guess: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Compute the terms of the objective and their weighted `total`, to be minimised; 0-dim.

        Integer x is dequantized first (`perturb`); floating x is taken as it is. The label -1
        stands for none. The `accuracy` on the labelled samples is reported beside the terms.
        `index` are the samples' numbers in the training set, which some systems learn from,
        `guess` (U, K) what `guess` says of another view of each of the U samples without a label.

        Raises:
            UserError: samples without a label where the system has no use for them; x as for
                `encode`, labels or numbers that are not one per sample, or no sample at all. Values
                are checked on a CPU only, so that a GPU need not wait; there the loss that is not
                finite shows them.
        """
        validate.generator(generator)
        x, y = self._learned_from(x, y, self.training)
        log_noise = None
        if not x.is_floating_point():
            x, log_noise = self.noise.draw(x, generator)
        validate.finite("x", x, self.training)
        encoding = self._encode(x, generator)
        if log_noise is not None:  # of a flow: its bound is log q(x + u) - log q(u|x)
            assert encoding.log_det is not None
            encoding = replace(encoding, log_det=encoding.log_det - log_noise)
        densities = self.densities(encoding.z)
        correct = (densities.log_posterior.argmax(1) == y).float().sum()
        terms = self.objective(encoding, densities, Batch(x, y, index, generator))
        if guess is not None:
            terms = self._with_guesses(terms, encoding, densities, y < 0, guess)
        return {**terms, "accuracy": correct / all_reduce_count((y >= 0).sum())}

    @torch.no_grad()
    def guess(self, x: Tensor) -> Tensor:
        """Compute log q(k|x) in eval mode, without a gradient, for `loss`: (B, K)."""
        with evaluating(self):
            return self.log_posterior(x)

    def _with_guesses(
        self,
        terms: dict[str, Tensor],
        encoding: Encoding,
        densities: MixtureDensities,
        rows: Tensor,
        guess: Tensor,
    ) -> dict[str, Tensor]:
        """Add to the total what the rows (B,) without a label learn from guesses (U, K)."""
        settings, (rate, decision) = self.settings.pseudo_labels, self.term_weights
        added = {}
        if settings.cross_entropy:
            log_posterior = self.decision(encoding, densities)[rows]
            loss = pseudo_label_loss(guess, log_posterior, settings.threshold)
            added["pseudo_labels"] = settings.cross_entropy * decision * loss
        if settings.consistency:
            assert encoding.log_det is not None
            given_class = densities.log_prob_given_class + encoding.log_det[:, None]
            loss = consistency_loss(guess, given_class[rows]) / self.dims
            added["consistency"] = settings.consistency * rate * loss
        return {**terms, **added, "total": sum(added.values(), terms["total"])}

    def decision(self, encoding: Encoding, densities: MixtureDensities) -> Tensor:
        """Return the log q(k|z), (B, K), that the cross-entropy is of."""
        return densities.log_posterior

    @property
    def term_weights(self) -> tuple[float, float]:
        """Weights of -log q(x)/d and of the cross-entropy in the objective, of one label each."""
        return 1.0, 1.0

    def densities(self, z: Tensor) -> MixtureDensities:
        """Compute log q(z|k), log q(z) and log q(k|z) of latents z (B, D), nats.

        In eval mode the posterior may be that of equally likely classes (mixture.predict).
        """
        densities = self.mixture.densities(z, learn_weights=self.learn_weights)
        if self.training or self.settings.mixture.predict == "weights":
            return densities
        even = densities.log_prob_given_class.log_softmax(1)
        return densities._replace(log_posterior=even)

    @abstractmethod
    def objective(
        self, encoding: Encoding, densities: MixtureDensities, batch: Batch
    ) -> dict[str, Tensor]:
        """Compute the named terms and `total` from encoding and densities; 0-dim, nats."""

    @torch.no_grad()
    def fit_statistics(self, x: Tensor, y: Tensor) -> None:
        """Set what is computed, not learned, from the training data.

        These are pre-processing, the unit of the noise, and class weights and means if asked for.

        Raises:
            UserError: samples without a label where the system has no use for them, or x and y as
                for `loss`.
        """
        x, y = self._learned_from(x, y)
        validate.finite("x", x)
        self._fit_statistics(x, y)

    def _fit_statistics(self, x: Tensor, y: Tensor) -> None:
        settings, own = self.settings, self.settings.preprocess
        stage = self.encoder.preprocess
        fit_preprocess(stage, x, marginal=own.marginal, floor=own.floor, per=own.per)
        if x.is_floating_point():
            std = x.std(0, correction=0)
            # A constant feature is taken for one of unit variance, as pre-processing does.
            self.noise.set_unit(torch.where(std > 0, std, 1.0))
        self._fit_network(x, y)
        if settings.mixture.weights == "empirical":
            self.mixture.set_weights(y[y >= 0].bincount(minlength=self.classes))
        if settings.mixture.start != "data":
            return
        if isinstance(self.mixture, FullMixture):
            generator = torch.Generator(x.device).manual_seed(0)
            self.mixture.fit(latents(self, self.noise(x[y >= 0], generator)), y[y >= 0])
        else:
            self.mixture.set_means(class_latents(self, x, y))

    @torch.no_grad()
    def _fit_network(self, x: Tensor, y: Tensor) -> None:
        """Fit what the network computes from data, its `Whitening`, to noisy training samples.

        Where the means start from the data the samples of each class are moved to the mean of all,
        so that covariances are those within the classes.
        """
        if not any(isinstance(module, Whitening) for module in self.encoder.network.modules()):
            return
        count = min(len(x), max(FITTED_NUMBERS // self.dims, 1))
        rows = torch.linspace(0, len(x) - 1, count).long()
        generator = torch.Generator(x.device).manual_seed(0)
        with evaluating(self):
            x, y = self.noise(x[rows], generator), y[rows]
            if self.settings.mixture.start == "data":
                x, middle = x.clone(), x.mean(0)
                for label in y[y >= 0].unique():
                    own = y == label
                    x[own] += middle - x[own].mean(0)
            try:
                fit_whitening(self.encoder, x, generator)
            except ValueError as error:
                raise UserError(f"{error}: features are too large; divide them") from None

    @torch.no_grad()
    def fit_latents(self, x: Tensor, y: Tensor) -> None:
        """Set what is computed from the latents of the trained network: their class averages.

        Raises:
            UserError: a class without a sample, where all must have one, or x and y as for `loss`.
        """
        self._fit_latents(*self._learned_from(x, y, unlabelled=True))

    def _fit_latents(self, x: Tensor, y: Tensor) -> None:
        self.mixture.set_data_means(class_latents(self, x, y))

    def save(self, path: str | Path) -> None:
        """Write a folder: model.safetensors, config.json and README.md, a model card; no pickle.

        `flowclf.load(path)` gives the same model back, bit for bit. Of a backbone of the user's own
        the weights alone are saved: it must be handed to `load` again.

        Raises:
            UserError: a folder that holds something, or a model whose system and settings are not
                known.
        """
        write_folder(Path(checked_path("path", path)), self)

    def push_to_hub(self, repo_id: str, *, private: bool = False) -> str:
        """Upload what `save` writes to "owner/name" on the Hugging Face Hub; return the address.

        Needs `pip install 'flowclf[hub]'` and, once, `hf auth login`. A repository that does not
        exist is created, visible to its owner alone if `private`.

        Raises:
            UserError: no huggingface_hub, no permission, no network, or a model as in `save`.
        """
        return push(repo_id, self, private=private)

    # For the systems: arguments are validated as they enter, results as they leave.

    @property
    def _like(self) -> Tensor:
        """Tensor on the device and in the dtype of the model."""
        return self.noise.unit

    def __getstate__(self) -> dict[str, Any]:
        """Return what copies and pickles are made of: nobody trains them yet."""
        return {**self.__dict__, "_trainer": None}

    def _check_thread(self) -> None:
        """Refuse calls beside a training, which would see Dropout and BatchNorm at work."""
        if self._trainer is not None and self._trainer != get_ident():
            raise UserError(
                "expected a model that no other thread trains, got one in training; wait for its "
                "end, or ask a copy.deepcopy(model).eval()"
            )

    def _samples(self, name: str, x: Tensor) -> Tensor:
        """Validate x (B, *shape): grey levels stay integers, all else gets the model's dtype."""
        self._check_thread()
        validate.samples(name, x, self.shape, self._like)
        keep = self._of_levels and not x.is_floating_point()
        return x if keep else x.to(self._like.dtype)

    @property
    def _of_levels(self) -> bool:
        """True if x is in grey levels."""
        return len(self.shape) == 3 or (self.info is not None and self.info.levels is not None)

    def _points(self, x: Tensor, name: str = "x") -> Tensor:
        """Validate x (B, *shape), and return it as finite points of the model's dtype."""
        x = self._samples(name, x)
        if self._of_levels and x.is_floating_point() and not (self.training or self._warned):
            levels = (self.info and self.info.levels) or 256
            width = self.noise.uniform
            self._warned = validate.grey_units(name, x, levels, width, self.training)
        x = self.noise.to_points(x)
        validate.finite(name, x, self.training)
        return x

    def _labels(
        self, y: Tensor, length: int | None = None, *, none: bool = False, training: bool = False
    ) -> Tensor:
        """Validate labels (B,), with `none` also -1, and return them as int64."""
        return validate.indices(
            "y", y, "labels", self.classes, self._like, length=length, none=none, training=training
        )

    def _each(self, y: Any, count: int) -> Any:
        """Return a single label as one for each of `count` samples; a tensor as it is."""
        single = isinstance(y, Integral) and not isinstance(y, bool)
        return torch.full((count,), y, device=self.mixture.device) if single else y

    def _checked(self, name: str, values: Tensor, x: Tensor) -> Tensor:
        """Return values (B, ...) computed from x, none of which may be NaN."""
        return validate.numbers(name, values, "x", x, self.training)

    def _encode(self, x: Tensor, generator: torch.Generator | None = None) -> Encoding:
        """Encode points x."""
        try:
            encoding: Encoding = self.encoder(x, generator)
        except ValueError as error:
            raise validate.batch_norm_of_one(error, x) from None
        return encoding

    def _encode_named(
        self, name: str, x: Tensor, generator: torch.Generator | None = None
    ) -> Encoding:
        x = self._points(x, name)
        encoding = self._encode(x, generator)
        if not self.training:  # which stops where the loss is not finite
            validate.numbers("z", encoding.z, name, x, infinite=False)
        return encoding

    def _fixed_generator(self) -> torch.Generator:
        return torch.Generator(self.mixture.device).manual_seed(0)

    def _fixed_draws(self, encoding: Encoding) -> Tensor:
        """Draw from q(z|x), the same in every call: (12, B, D); z itself, once, if a point."""
        if encoding.mean is None:
            return encoding.z[None]
        return encoding.at(self.common_noise())

    def _learned_from(
        self, x: Tensor, y: Tensor, training: bool = False, *, unlabelled: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Validate x (B, *shape), B > 0, and labels (B,), -1 only if allowed or accepted."""
        x = self._samples("x", x)
        validate.rows("x", x)
        y = self._labels(y, len(x), none=True, training=training)
        if not (unlabelled or self.accepts_unlabelled) and validate.readable(y, training):
            missing = int((y < 0).sum())
            if missing:
                raise self._lacks(
                    "learn without labels",
                    f"needs all, but {missing} of {len(y)} training samples have none (-1)",
                    "accepts_unlabelled",
                )
        return x, y

    def _lacks(self, what: str, reason: str, capability: str) -> UserError:
        """Return the error of a call that another system could answer."""
        able = ", ".join(self.systems_with(capability)) or "see `flowclf systems`"
        return UserError(
            f"expected a system that can {what}, got {type(self).__name__}, which {reason}; "
            f"train one of: {able}"
        )


@torch.no_grad()
def latents(model: GenerativeClassifier, x: Tensor) -> Tensor:
    """Compute the noise-free latents of x (N, *shape), (N, D), in eval mode, by batches."""
    device = model.mixture.device
    with evaluating(model):
        return torch.cat([model.encode(part.to(device)).z for part in x.split(BATCH_SIZE)])


@torch.no_grad()
def class_latents(model: GenerativeClassifier, x: Tensor, y: Tensor) -> Tensor:
    """Average the noise-free latents of each class in eval mode, by batches: `class_averages`.

    Samples without a label (-1) are left out.

    Raises:
        UserError: a class without a sample.
    """
    batches = zip(x.split(BATCH_SIZE), y.split(BATCH_SIZE), strict=True)
    with evaluating(model):
        return model.mixture.class_averages(
            (model.encode(xs).z[ys >= 0], ys[ys >= 0]) for xs, ys in batches
        )


@contextmanager
def being_trained(model: GenerativeClassifier) -> Iterator[None]:
    """Let nobody but this thread ask the model within the block."""
    model._trainer = get_ident()
    try:
        yield
    finally:
        model._trainer = None


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch to eval mode, and back to the mode before at the end."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
