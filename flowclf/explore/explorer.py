"""`Explorer`: what the page can ask about one trained model, each a function from JSON to JSON."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from math import isfinite, log
from pathlib import Path
from threading import Lock
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, validate_call
from torch import Tensor

from flowclf.classifier import GenerativeClassifier, latents
from flowclf.data import Split
from flowclf.decide import Decider
from flowclf.evaluation.context import MOST_TRAINING
from flowclf.evaluation.counterfactuals import class_change_path, decision_contributions
from flowclf.evaluation.statistics import Statistics, statistics
from flowclf.explore.paths import polyline, slerp, to_usual
from flowclf.explore.wire import Finite, Place, Wire, rounded
from flowclf.figures.latent import plane_of_means, principal_plane, projected_ellipse
from flowclf.figures.style import class_colors
from flowclf.support.errors import UserError
from flowclf.support.seeding import generator_for
from flowclf.support.validate import unchecked_values
from flowclf.systems.ib_inn import ConditionedIBInn
from flowclf.training.task import Task

__all__ = ["CALLS", "Explorer"]

JSON = dict[str, Any]
MOST_NUMBERS, MOST_SAMPLES = 3_000_000, 1500  # on the map, which the page has whole
MOST_NEIGHBOURS, MOST_CALIBRATION = 5000, 2000
MOST_DRAWN = 240  # samples at once
MOST_SLIDERS = 40
ATTRIBUTION_STEPS = 24
FALSE_ALARM = 0.01
WISHES = 7  # images on the way to a likelier one

Plane = Literal["means", "principal", "dimensions"]
Path_ = Literal["straight", "spherical", "means"]
Steps = Annotated[int, Field(ge=2, le=65)]


class Explorer:
    """One trained model with its test samples.

    The page calls what `CALLS` lists. A system that cannot decode shows, for a point of its latent
    space, the test sample whose latent is nearest.

    Args:
        task: the finished run.
        folder: of the run.
        test: the samples of the map; None: as many of the test set as a page has at hand.
    """

    def __init__(self, task: Task, folder: Path, test: Split | None = None) -> None:
        self.task, self.folder = task, folder
        self.model: GenerativeClassifier = task.model.eval()
        self.wire = Wire(task.dataset.shape, task.dataset.levels)
        most = min(MOST_SAMPLES, MOST_NUMBERS // self.model.dims)
        self.test = task.test.spread(most) if test is None else test
        self._look()
        self.plane = self._plane("means", (0, 1))
        self.decider: Decider | None = None
        self.note = "calibrating …"
        self._known: JSON = {}
        self._lock = Lock()

    @torch.no_grad()
    def prepare(self) -> None:
        """Calibrate, unless the run is, and encode training samples; in a thread of its own."""
        # Statistics hook into the network, so that two threads need two.
        model = copy.deepcopy(self.model)
        near = self.task.training.spread(MOST_NEIGHBOURS)
        known: JSON = {"near": near, "z": latents(model, near.x)}
        try:
            try:
                decider, note = Decider.load(self.folder, model), ""
            except UserError:
                decider, note = self.calibrated(model=model)
            known["p_value"] = decider(self.test.x).p_value
            self.decider, self.note = decider, note
        except UserError as error:
            self.note = str(error)
        self._known = known

    def calibrated(
        self, score: str = "auto", model: GenerativeClassifier | None = None
    ) -> tuple[Decider, str]:
        """Return a decider of the page's own, and what is to be said of its calibration.

        Raises:
            UserError: as `Decider.fit`.
        """
        task, held_out = self.task, bool(self.task.validation)
        split = task.validation.labelled() if held_out else task.test
        split = split.spread(MOST_CALIBRATION)
        note = "" if held_out else "calibrated on test samples, as there is no validation split"
        # Few samples tell rare events from usual ones only at a larger level.
        level = max(FALSE_ALARM, 1.001 / (len(split) + 1))
        if level > FALSE_ALARM:
            note += f"; never seen: p ≤ {level:.2g}, of {len(split)} samples"
        decider = Decider(self.model if model is None else model, false_alarm=level, score=score)
        return decider.fit(split.x, split.y, task.training.spread(MOST_TRAINING).x), note

    def call(self, name: str, arguments: Mapping[str, Any]) -> JSON:
        """Answer a question of the page; one at a time.

        Raises:
            UserError: an unknown question, or one to which the system has no answer.
            ValidationError: arguments of other names, types or sizes.
        """
        if name not in CALLS:
            raise UserError(f"expected one of {', '.join(CALLS)}, got {name[:40]!r}")
        with self._lock, torch.no_grad(), unchecked_values():
            return CALLS[name](self, **arguments)

    def facts(self) -> JSON:
        """Return what the page must know before it can ask for more."""
        task, model = self.task, self.model
        names = task.dataset.class_names
        trained = model.trade_off if isinstance(model, ConditionedIBInn) else None
        beta = getattr(model, "beta", None)
        return {
            "run": self.folder.name, "system": task.config.system, "data": task.dataset.name,
            "beta": beta if beta is None or isfinite(beta) else "∞",
            "betas": trained and [trained.lowest, trained.highest],
            "shape": list(self.wire.shape), "classes": names, "colors": class_colors(len(names)),
            "samples": len(self.test), "dimensions": model.mixture.dims,
            "density": model.has_elbo,
            "decodes": model.can_decode, "generates": model.can_sample,
            "features": self._features() if self.wire.levels is None else None,
            "extent": None if self.wire.levels is None else _extent(self.test.x),
        }  # fmt: skip

    def state(self) -> JSON:
        """Return what may have changed since: the calibration, and the p-values of the map."""
        p_value = self._known.get("p_value")
        return {
            "ready": bool(self._known), "note": self.note,
            "p_value": None if p_value is None else rounded(p_value),
        }  # fmt: skip

    @validate_call
    def points(self, plane: Plane = "means", dimensions: tuple[int, int] = (0, 1)) -> JSON:
        """Return the test samples in a plane of latent space, and what the model says of them.

        An ellipse (half width, half height, angle) is two standard deviations of a class.
        """
        self.plane = centre, basis = self._plane(plane, dimensions)
        mixture = self.model.mixture
        at, means = ((mixture.embed(v) - centre) @ basis.T for v in (self.z, mixture.centres()))
        return {
            "at": rounded(at), "means": rounded(means),
            "ellipses": [rounded(projected_ellipse(basis, std)) for std in mixture.std()],
            "label": self.test.y.tolist(), **self._seen,
        }  # fmt: skip

    def pictures(self) -> JSON:
        """Return the test samples themselves."""
        return {"x": self.wire.pack(self.test.x)}

    @validate_call
    def decode(self, at: tuple[Finite, Finite], sample: int | None = None) -> JSON:
        """Decode a point of the plane last asked for; what leaves the plane is that of a sample.

        z = c + Bᵀ u + (I - BᵀB)(z_sample - c)
        """
        centre, basis = self.plane
        z = centre + torch.tensor(at).to(basis) @ basis
        if sample is not None:
            ahead = self.z[self._sample(sample)] - centre
            z = z + ahead - ahead @ basis.T @ basis
        return self._told(*self._decoded(z[None].to(self.z)))

    @validate_call
    def walk(self, start: Place, end: Place, path: Path_ = "straight", steps: Steps = 33) -> JSON:
        """Decode the straight line, the arc, or the line by the average latents of both classes."""
        return self._told(*self._walk(start, end, path, steps))

    @validate_call
    def film(self, start: Place, end: Place, path: Path_ = "straight", steps: Steps = 33) -> JSON:
        """Return the images of a walk as an animated GIF.

        Raises:
            UserError: rows of a table.
        """
        if self.wire.levels is None:
            raise UserError("expected a model of images: rows of a table make no film")
        return {"gif": self.wire.film(self._walk(start, end, path, steps)[0])}

    @validate_call
    def counterfactual(self, place: Place, target: int, steps: Steps = 17) -> JSON:
        """Decode the way to another class, where its training latents are on average."""
        images, log_posterior = class_change_path(
            self.model, self._x(place), self._class(target), steps, None
        )
        return self._told(images[:, 0], log_posterior[:, 0])

    @validate_call
    def contributions(self, place: Place, target: int) -> JSON:
        """Attribute the decision for the predicted class and against another to the numbers of x.

        In nats, in the form of x; they add up to the log-odds of the two classes.
        """
        x, y = self._x(place), self._class(target)
        predicted = self.model.log_posterior(x).argmax(1)
        if bool((predicted == y).all()):
            raise UserError("expected another class than the one that is predicted; choose one")
        found = decision_contributions(self.model, x, predicted, y, ATTRIBUTION_STEPS)[0]
        return {"nats": rounded(found.flatten()), "predicted": int(predicted)}

    @validate_call
    def judge(self, place: Place, neighbours: Annotated[int, Field(ge=0, le=24)] = 8) -> JSON:
        """Decide about one x, and find the training samples whose latents are nearest."""
        x = self._x(place)
        told = self._told(x) | {"neighbours": None}
        if neighbours and self._known:
            near = self._known["near"]
            apart = torch.cdist(self.model.encode(x).z, self._known["z"])[0]
            rows = apart.topk(min(neighbours, len(near)), largest=False).indices.cpu()
            found = {"x": self.wire.pack(near.x[rows]), "label": near.y[rows].tolist()}
            told["neighbours"] = found | {"distance": rounded(apart.cpu()[rows])}
        return told

    @validate_call
    def wish(self, place: Place) -> JSON:
        """Decode the way from one x to what the model would rather have seen.

        Its latent moves towards the mean of the likeliest class, until it is as near to it as the
        latents of half of the test samples are to theirs.

        Raises:
            UserError: a mixture without distances.
        """
        z, mixture = self._latent(place), self.model.mixture
        if self.radius is None:
            raise UserError(f"{self.task.config.system} has no distances to its class means")
        k = int(self.model.densities(z).log_posterior.argmax())
        mean, std = mixture.centres()[k], mixture.std()[k]
        return self._told(*self._decoded(to_usual(z, mean, std, self.radius, WISHES)))

    @validate_call
    def samples(
        self,
        per_class: Annotated[int, Field(ge=1, le=16)] = 8,
        temperature: Annotated[float, Field(ge=0, le=3)] = 0.8,
        seed: Annotated[int, Field(ge=0, lt=2**32)] = 0,
        around: Literal["means", "data"] = "means",
        beta: Annotated[float | None, Field(gt=0, allow_inf_nan=False)] = None,
        class_: Annotated[int | None, Field(alias="class")] = None,
    ) -> JSON:
        """Draw samples by class; a seed gives the same noise, so that only the dial moves them."""
        if beta is not None:
            self._move_to(beta)
        classes = torch.arange(self.model.classes) if class_ is None else self._class(class_).cpu()
        y = classes.repeat_interleave(min(per_class, max(1, MOST_DRAWN // len(classes))))
        device = self.model.mixture.device
        generator = generator_for(seed, "explore", device=device)
        x = self.model.sample(y.to(device), temperature, generator, around)
        found = statistics(self.model, x, ("log_posterior", "nll_per_dim"))
        return {"x": self.wire.pack(x), "label": y.tolist(), **_seen(found)}

    def _move_to(self, beta: float) -> None:
        if not isinstance(self.model, ConditionedIBInn):
            raise UserError("expected a model of many β̃; train with network.condition=beta")
        if beta != self.model.beta:
            self.model.move_to(beta)
            self._look()

    @torch.no_grad()
    def _look(self) -> None:
        """Encode the test samples."""
        mixture = self.model.mixture
        found = statistics(self.model, self.test.x, ("latents", "log_posterior", "nll_per_dim"))
        self.z = found["latents"].to(mixture.coordinates)
        self._seen = _seen(found)
        away = (self.z[:, None] - mixture.centres()) / mixture.std()
        self.radius = float(away.norm(dim=2).amin(1).median()) if mixture.has_distances else None

    def _plane(self, plane: Plane, dimensions: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return centre (D,) and orthonormal basis (2, D)."""
        mixture = self.model.mixture
        z = mixture.embed(self.z)
        if plane == "means":
            return plane_of_means(mixture.embed(mixture.centres()))
        if plane == "principal":
            centre, basis, _ = principal_plane(z)
            return centre.to(z), basis.to(z)
        if len(set(dimensions)) < 2 or not all(0 <= k < z.shape[1] for k in dimensions):
            raise UserError(f"expected two of the dimensions 0 to {z.shape[1] - 1}")
        return z.mean(0), torch.eye(z.shape[1]).to(z)[list(dimensions)]

    def _walk(self, start: Place, end: Place, path: Path_, steps: int) -> tuple[Tensor, Tensor]:
        """Return the decoded x of a walk (steps, *shape), and log q(k|z)."""
        z = torch.cat((self._latent(start), self._latent(end)))
        if path == "spherical":
            return self._decoded(slerp(z[:1], z[1:], steps))
        if path == "means":
            y = self.model.densities(z).log_posterior.argmax(1)
            means = self.model.mixture.class_means(y, "data").to(z)
            z = torch.cat((z[:1], means, z[1:]))
        return self._decoded(polyline(z, steps))

    def _decoded(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Decode z (N, D), or find the test samples nearest to it; with log q(k|z)."""
        log_posterior = self.model.densities(z).log_posterior
        if self.model.can_decode:
            return self.model.decode(z), log_posterior
        return self.test.x[torch.cdist(z, self.z).argmin(1).cpu()], log_posterior

    def _told(self, x: Tensor, log_posterior: Tensor | None = None) -> JSON:
        """Return samples with all that is known of each; without a posterior that of x."""
        found = statistics(self.model, x, ("log_posterior", "nll_per_dim"))
        if log_posterior is None:
            log_posterior = found["log_posterior"]
        told: JSON = {
            "x": self.wire.pack(x), "posterior": rounded(log_posterior.exp(), 6),
            "bits_per_dim": _bits(found), "decision": None, "p_value": None, "sets": None,
        }  # fmt: skip
        if self.decider is not None:
            decided = self.decider(x.cpu())
            told["decision"] = decided.decision.tolist()
            told["p_value"] = rounded(decided.p_value)
            told["sets"] = [row.nonzero()[:, 0].tolist() for row in decided.sets]
        return told

    def _latent(self, place: Place) -> Tensor:
        """Return z of a place, (1, D)."""
        if place.class_ is not None:
            return self.model.mixture.class_means(self._class(place.class_), "data").to(self.z)
        if place.sample is not None:
            return self.z[self._sample(place.sample)][None]
        return self.model.encode(self._x(place)).z

    def _x(self, place: Place) -> Tensor:
        """Return x of a place, (1, *shape)."""
        if place.class_ is not None:
            x = self._decoded(self._latent(place))[0]
        elif place.sample is not None:
            x = self.test.x[self._sample(place.sample)][None]
        else:
            assert place.x is not None
            x = self.wire.unpack(place.x)
        return x.to(self.model.mixture.device)

    def _class(self, k: int) -> Tensor:
        if not 0 <= k < self.model.classes:
            raise UserError(f"expected a class from 0 to {self.model.classes - 1}, got {k}")
        return torch.tensor([k], device=self.model.mixture.device)

    def _sample(self, k: int) -> int:
        if not 0 <= k < len(self.test):
            raise UserError(f"expected a sample from 0 to {len(self.test) - 1}, got {k}")
        return k

    def _features(self) -> list[JSON]:
        """Return the columns that vary most: name, 1st, 50th and 99th percentile, deviation."""
        x = self.task.training.spread(MOST_NEIGHBOURS).x.double()
        names = self.task.dataset.feature_names or [f"feature {k}" for k in range(x.shape[1])]
        std = x.std(0)
        columns = std.topk(min(MOST_SLIDERS, len(std))).indices.sort().values.tolist()
        low, middle, high = x.quantile(torch.tensor([0.01, 0.5, 0.99]).to(x), dim=0)
        return [
            {"name": names[k], "column": k, "low": float(low[k]), "middle": float(middle[k]),
             "high": float(high[k]), "std": float(std[k])}
            for k in columns
        ]  # fmt: skip


CALLS: Mapping[str, Callable[..., JSON]] = {
    call.__name__: call
    for call in (
        Explorer.facts, Explorer.state, Explorer.points, Explorer.pictures, Explorer.decode,
        Explorer.walk, Explorer.film, Explorer.counterfactual, Explorer.contributions,
        Explorer.judge, Explorer.wish, Explorer.samples,
    )
}  # fmt: skip
"""Questions of the page by name."""


def _seen(found: Statistics) -> JSON:
    """Return class, probability and bits/dim (or None) of samples."""
    probability, predicted = found["log_posterior"].exp().max(1)
    return {"predicted": predicted.tolist(), "probability": rounded(probability),
            "bits_per_dim": _bits(found)}  # fmt: skip


def _bits(found: Statistics) -> list[float | None] | None:
    """Return -log₂ q(x)/d, or of the elbo; None of a system without both."""
    nll = found.get("nll_per_dim")
    return None if nll is None else rounded(nll / log(2))


def _extent(x: Tensor) -> float:
    """Return the larger side of what is drawn, as a share of the image: the median of samples."""
    drawn = x.float().mean(1) > x.max() / 3
    sides = []
    for across in (1, 2):
        line = drawn.any(across).float()
        ahead, behind = line.argmax(1), line.flip(1).argmax(1)
        sides.append((line.shape[1] - ahead - behind) / line.shape[1])
    return float(torch.stack(sides).max(0).values.median())
