"""Decoded walks in latent space: between test images, class means, and classes through a sample."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from matplotlib.axes import Axes
from torch import Tensor

from flowclf.classifier import GenerativeClassifier, evaluating, latents
from flowclf.data import Split
from flowclf.figures.images import block_figure, draw_images, frame_image
from flowclf.figures.style import BLUE, GREY, RED, Figure, new_figure, probability_axis
from flowclf.latent.gaussian import Around
from flowclf.support.errors import UserError
from flowclf.support.seeding import generator_for

__all__ = [
    "AmbiguousWalk",
    "ambiguous_walk",
    "ambiguous_walk_figure",
    "interpolation_strips",
    "mean_walk_figure",
    "mean_walks",
    "model_interpolation_figure",
    "model_interpolations",
    "most_ambiguous",
    "pair_labels",
]

FRAME = "#e69f00"
# Points of the curve for each image above it.
FINE = 12
# Height of an image in inches, and of the curves beneath in such heights.
INCHES, CURVES = 0.62, 1.1


@dataclass(frozen=True, eq=False)
class AmbiguousWalk:
    """Walk from one class to another through a sample that could be either."""

    images: Tensor  # (S, *shape), with the sample's own in the middle
    posterior: Tensor  # q(k|z) at P points of the walk, (P, K); every (P-1)/(S-1)-th has an image
    pair: tuple[int, int]  # the two classes


def interpolation_strips(
    model: GenerativeClassifier, test: Split, pairs: int, steps: int, seed: int
) -> Tensor:
    """Interpolate between random test samples of different classes, (pairs, steps, *shape).

    Raises:
        UserError: fewer test samples than two a pair.
    """
    first, second = _draw_pairs(test, pairs, seed)
    device = model.mixture.device
    x0, x1 = (test.x[rows].to(device) for rows in (first, second))
    return model.interpolate(x0, x1, steps).transpose(0, 1)


def pair_labels(test: Split, pairs: int, seed: int, class_names: Sequence[str]) -> list[str]:
    """Name the classes of the pairs that `interpolation_strips` draws, as "4 → 9".

    Raises:
        UserError: fewer test samples than two a pair.
    """
    ends = (test.y[rows].tolist() for rows in _draw_pairs(test, pairs, seed))
    names = [*class_names, "?"]  # -1 of a row without a label
    return [f"{names[a]} → {names[b]}" for a, b in zip(*ends, strict=True)]


def _draw_pairs(test: Split, pairs: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw two tensors of row numbers, each row once, of different classes where possible."""
    y = test.y
    if len(y) < 2 * pairs:
        raise UserError(f"expected at most {len(y) // 2} pairs of test samples, got {pairs}")
    order = torch.randperm(len(y), generator=generator_for(seed, "interpolate"))
    first, free = order[:pairs], order[pairs:].tolist()
    second = []
    for row in first.tolist():
        other = next((r for r in free if y[r] != y[row]), free[0])
        free.remove(other)
        second.append(other)
    return first, torch.tensor(second)


def model_interpolations(
    models: Mapping[str, GenerativeClassifier], test: Split, pairs: int, steps: int, seed: int
) -> dict[str, Tensor]:
    """Interpolate by each model between the same test images, (pairs, steps, *shape) each.

    Raises:
        UserError: too few test samples or steps, or a system without a decoder.
    """
    strips = {}
    for name, model in models.items():
        with evaluating(model):
            strips[name] = interpolation_strips(model, test, pairs, steps, seed).cpu()
    return strips


def model_interpolation_figure(
    strips: Mapping[str, Tensor], levels: int, labels: Sequence[str] = ()
) -> Figure:
    """Draw strips (pairs, steps, C, H, W) by the models' names: a block a pair, a row a model.

    How β̃ changes the images between two images. `labels` of `pair_labels` are the blocks' titles.
    IB-INN (Ardizzone et al. 2020), Figure 6.

    Raises:
        UserError: no model, or strips of different shapes.
    """
    shapes = {tuple(strip.shape) for strip in strips.values()}
    if len(shapes) != 1:
        raise UserError(
            f"expected strips of one shape for one model or more, got {sorted(shapes)}; "
            "take them from one call of model_interpolations"
        )
    blocks = torch.stack(list(strips.values()), 1)
    titles = (f"{k + 1}: {labels[k]}" if labels else f"pair {k + 1}" for k in range(len(blocks)))
    titled = dict(zip(titles, blocks, strict=True))
    return block_figure(titled, list(strips), levels, columns=2)


@torch.no_grad()
def mean_walks(
    model: GenerativeClassifier,
    pairs: Sequence[tuple[int, int]],
    steps: int = 9,
    around: Around = "data",
) -> Tensor:
    """Decode points of the straight lines between two class means, (P, steps, *shape).

        z = (1 - t) m_a + t m_b,  t = 0 … 1

    of P pairs of classes (a, b); m are the means of the mixture, or the averages of the training
    latents.

    Raises:
        UserError: a class out of range, fewer than two steps, or a system without a decoder.
    """
    _check_pairs(pairs, model.classes)
    if steps < 2:
        raise UserError(f"expected at least 2 steps, got {steps}")
    y = torch.tensor(pairs, device=model.mixture.device)
    first, second = (model.mixture.class_centres(each, around) for each in y.unbind(1))
    weights = torch.linspace(0, 1, steps, dtype=first.dtype, device=first.device)
    with evaluating(model):
        walks = [model.decode(first.lerp(second, weight)) for weight in weights]
    return torch.stack(walks, 1).cpu()


def mean_walk_figure(
    walks: Tensor, pairs: Sequence[tuple[int, int]], class_names: Sequence[str], levels: int
) -> Figure:
    """Draw walks (P, steps, C, H, W) of `mean_walks`: a row a pair of classes.

    Raises:
        UserError: another number of pairs than of walks, or a class without a name.
    """
    _check_pairs(pairs, len(class_names))
    labels = [f"{class_names[a]} → {class_names[b]}" for a, b in pairs]
    return block_figure({"from class mean to class mean": walks}, labels, levels)


def most_ambiguous(log_posterior: Tensor, pair: tuple[int, int]) -> int:
    """Return the row of (N, K) whose less probable class of the two is most probable."""
    return int(log_posterior[:, list(pair)].min(1).values.argmax())


@torch.no_grad()
def ambiguous_walk(
    model: GenerativeClassifier,
    x: Tensor,
    pair: tuple[int, int] | None = None,
    steps: int = 9,
    route: Literal["parallel", "means"] = "parallel",
    gallery: Tensor | None = None,
) -> AmbiguousWalk:
    """Walk from class a to class b through x, by averages m of the classes' training latents.

        parallel:  z' = z + α (m_b - m_a),  |α| up to where both m are passed
        means:     from m_a to z, and from there to m_b

    Parallel to the line of the averages all else of z stays: x in its own style as a and as b. In
    few dimensions that may leave the classes; there take the means.

    Args:
        model: in any mode.
        x: one sample (*shape), which stands in the middle.
        pair: classes a, b; None: the two most probable, the smaller first.
        steps: odd, at least 3.
        route: parallel or means.
        gallery: images (N, *shape); of a system without a decoder the one with the nearest latent
            stands for each point.

    Raises:
        UserError: an even number of steps, a class out of range, two whose averages coincide, or a
            system without a decoder and no gallery.
    """
    if steps < 3 or steps % 2 == 0:
        raise UserError(f"expected an odd number of steps, at least 3, got {steps}; try 9")
    with evaluating(model):
        z = model.encode(x[None].to(model.mixture.device)).z
        if pair is None:
            a, b = sorted(model.densities(z).log_posterior[0].topk(2).indices.tolist())
            pair = a, b
        _check_pairs([pair], model.classes)
        means = model.mixture.class_means(torch.tensor(pair, device=z.device), "data")
        if bool((means[0] == means[1]).all()):
            raise UserError(
                f"expected two classes whose latents lie apart, got {pair[0]} and {pair[1]}; name "
                "two different ones, and train the model first"
            )
        points = (steps - 1) * FINE + 1
        path = _path(route, z[0], means, points)
        shown = path[::FINE]
        if gallery is None:
            images = model.decode(shown)
        else:
            nearest = torch.cdist(shown, latents(model, gallery)).argmin(1)
            images = gallery[nearest.to(gallery.device)]
            images[steps // 2] = x
        posterior = model.densities(path).log_posterior.exp()
    return AmbiguousWalk(images.cpu(), posterior.cpu(), pair)


def ambiguous_walk_figure(
    walks: Sequence[AmbiguousWalk], class_names: Sequence[str], levels: int
) -> Figure:
    """Draw a strip of images a walk, the sample itself framed, and beneath it the posteriors.

    Blue is the class at the left end, red that at the right, grey the sum of all others.
    Variational Classification (Dhuliawala et al. 2023), Figure 7.

    Raises:
        UserError: no walks.
    """
    if not walks:
        raise UserError("expected one walk or more, got none; take them from ambiguous_walk")
    count, (_, height, width) = len(walks[0].images), walks[0].images.shape[1:]
    strip = INCHES * count * width / height
    figure = new_figure(1.9 + strip, 0.35 + len(walks) * INCHES * (1.35 + CURVES))
    grid = figure.subplots(len(walks), 1, squeeze=False)[:, 0]
    for axes, walk in zip(grid, walks, strict=True):
        draw_images(axes, walk.images[None], levels)
        frame_image(axes, walk.images[None], 0, count // 2, edgecolor=FRAME, linewidth=2)
        curves = axes.inset_axes((0, -0.1 - CURVES, 1, CURVES))
        _draw_posterior(curves, walk, class_names)
    figure.supxlabel("from class to class through the framed sample", fontsize=8)
    return figure


def _path(route: str, z: Tensor, means: Tensor, points: int) -> Tensor:
    """Return (P, D) on the route by z (D,) and two means (2, D), see `ambiguous_walk`."""
    if route == "parallel":  # past both
        direction = means[1] - means[0]
        reach = ((means - z) @ direction / direction.square().sum()).abs().max()
        return z + torch.linspace(-1, 1, points).to(z)[:, None] * reach * direction
    weights = torch.linspace(0, 1, points // 2 + 1).to(z)[:, None]
    return torch.cat((means[0].lerp(z, weights), z.lerp(means[1], weights[1:])))


def _draw_posterior(axes: Axes, walk: AmbiguousWalk, class_names: Sequence[str]) -> None:
    places = torch.linspace(0.5, len(walk.images) - 0.5, len(walk.posterior)).tolist()
    first, second = walk.posterior[:, list(walk.pair)].unbind(1)
    names = [class_names[k] for k in walk.pair] + ["others"]
    looks = (BLUE, "-"), (RED, "--"), (GREY, ":")
    curves = first, second, 1 - first - second
    for values, name, (color, line) in zip(curves, names, looks, strict=True):
        look: dict[str, Any] = {"color": color, "linestyle": line, "linewidth": 1.3}
        axes.plot(places, values.tolist(), label=name, **look)
    axes.axvline(len(walk.images) / 2, color=FRAME, linewidth=1)
    axes.set_xlim(0, len(walk.images))
    probability_axis(axes, fontsize=7)
    axes.set_ylabel("posterior", fontsize=8)
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _check_pairs(pairs: Sequence[tuple[int, int]], classes: int) -> None:
    wrong = [pair for pair in pairs if not all(0 <= k < classes for k in pair)]
    if wrong or not pairs:
        raise UserError(
            f"expected pairs of classes from 0 to {classes - 1}, got {wrong or 'none'}; "
            "name two classes each"
        )
