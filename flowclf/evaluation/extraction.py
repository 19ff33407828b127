"""Assignment of digits to free labels: decoded one-hots read by a classifier of images.

Of a system that has labels for some classes only, the others find a place in some order of its
own. Gemp, Parente, Mahadevan, "Inverting VAEs for improved generative accuracy", 2017, Sec. 3.
"""

import warnings
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from flowclf.classifier import evaluating
from flowclf.nn.relaxed_label import TwoPartEncoder
from flowclf.support.errors import UserError
from flowclf.systems.autoencoder import LatentVariableModel

__all__ = [
    "ImageClassifier",
    "assign_by_competition",
    "assign_by_matching",
    "assigned_scores",
    "average_latent",
    "canonical_images",
    "class_probabilities",
    "extraction",
    "fit_image_classifier",
]

BATCH_SIZE = 2048
CLIP = 1e-6


class ImageClassifier(Protocol):
    """Interface of scikit-learn's classifiers."""

    def predict_proba(self, x: np.ndarray) -> np.ndarray:
        """Return class probabilities, (N, F) to (N, K)."""


def fit_image_classifier(x: Tensor, y: Tensor, top: float, steps: int = 100) -> ImageClassifier:
    """Fit a multinomial logistic regression to images (N, *shape) of grey levels 0 … top.

    scikit-learn's, with its own C = 1. It need not have converged after so many steps.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        classifier: ImageClassifier = LogisticRegression(max_iter=steps).fit(
            _rows(x, top), y.numpy()
        )
    return classifier


def class_probabilities(classifier: ImageClassifier, x: Tensor, top: float) -> Tensor:
    """Compute p(class|image) of images (N, *shape), (N, K), float64."""
    return torch.from_numpy(classifier.predict_proba(_rows(x, top))).double()


@torch.no_grad()
def average_latent(model: LatentVariableModel, x: Tensor, y: Tensor) -> Tensor:
    """Compute z̄, the mean over labelled images of the centre of q(z|x,y), (D,)."""
    encoder, mixture = model.encoder, model.mixture
    assert isinstance(encoder, TwoPartEncoder), "asked of encoder_kind relaxed-label alone"
    eye = torch.eye(model.classes, dtype=mixture.coordinates.dtype, device=mixture.device)
    with evaluating(model):
        centres = [
            encoder.given(xs.to(eye), eye[ys.to(eye.device)]).centre
            for xs, ys in zip(x.split(BATCH_SIZE), y.split(BATCH_SIZE), strict=True)
        ]
    return torch.cat(centres).mean(0)


@torch.no_grad()
def canonical_images(model: LatentVariableModel, z: Tensor) -> Tensor:
    """Decode the K one-hot labels at one z (D,) to black or white images, (K, *shape)."""
    eye = torch.eye(model.classes, dtype=z.dtype, device=z.device)
    with evaluating(model):
        images = model.decode(torch.cat((eye, z.expand(model.classes, -1)), 1))
    top = model.likelihood.top
    return top * (images > 0.5 * top).to(images.dtype)


def assign_by_competition(p: Tensor) -> Tensor:
    """Assign by the paper's rule: p (M, M) of row i being digit j to digits of rows (M,).

    Each row wants its most probable digit that is left. Where several want the same, the most
    probable gets it, and the others go on with what is left. Always a permutation.
    """
    left, digits = p.clone(), torch.full((len(p),), -1)
    while bool((digits < 0).any()):
        wanted = left.argmax(1)
        for digit in wanted[digits < 0].unique():
            rows = ((digits < 0) & (wanted == digit)).nonzero()[:, 0]
            digits[rows[p[rows, digit].argmax()]] = digit
            left[:, digit] = -1.0
    return digits


def assign_by_matching(p: Tensor) -> Tensor:
    """Assign by the permutation of the largest sum of probabilities: (M, M) to (M,)."""
    from scipy.optimize import linear_sum_assignment

    _, digits = linear_sum_assignment(p.numpy(), maximize=True)
    return torch.as_tensor(digits)


def assigned_scores(log_posterior: Tensor, y: Tensor, digits: Tensor) -> dict[str, float]:
    """Score labels that stand for other digits: (N, K), (N,), (K,).

    Args:
        log_posterior: log q(k|x) of the system's own labels.
        y: the digits.
        digits: which digit each of the system's labels is; a permutation.

    Returns:
        `cross_entropy_nats` -mean log max(q, 1e-6), which to 1e-4 is the paper's KL of one-hots
        and such clipped q, and `accuracy`.

    Raises:
        UserError: no permutation.
    """
    if sorted(digits.tolist()) != list(range(log_posterior.shape[1])):
        raise UserError(f"expected a permutation of the labels, got {digits.tolist()}")
    permuted = torch.empty_like(log_posterior)
    permuted[:, digits] = log_posterior
    own = permuted.gather(1, y[:, None]).exp().clamp_min(CLIP)
    return {
        "cross_entropy_nats": float(-own.log().mean()),
        "accuracy": float((permuted.argmax(1) == y).double().mean()),
    }


def extraction(p: Tensor, log_posterior: Tensor, y: Tensor, first: int) -> dict[str, float | int]:
    """Score images of the digits from `first` on, whose labels the system never saw.

    Args:
        p: p(digit|decoded one-hot), (K, K).
        log_posterior: log q(k|x) of the images, (N, K).
        y: their digits, (N,).
        first: number of classes with labels.

    Returns:
        `cross_entropy_nats` and `accuracy` by the paper's assignment, with `_matched` by the best
        one; `distinct`, how many digits the decoded images are taken for.
    """
    scores: dict[str, float | int] = {"distinct": len(p.argmax(1).unique())}
    free, known = p[first:, first:], torch.arange(first)
    for suffix, assign in (("", assign_by_competition), ("_matched", assign_by_matching)):
        digits = torch.cat((known, first + assign(free)))
        found = assigned_scores(log_posterior, y, digits)
        scores |= {f"{name}{suffix}": value for name, value in found.items()}
    return scores


def _rows(x: Tensor, top: float) -> np.ndarray:
    return (x.flatten(1).cpu().float() / top).numpy()
