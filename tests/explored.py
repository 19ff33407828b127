"""An `Explorer` of an untrained model that knows its class averages, for tests of the page."""

from pathlib import Path
from typing import Any

import torch

import flowclf
from flowclf.data import Dataset, Split
from flowclf.explore.explorer import Explorer
from flowclf.training.task import Task

SHAPE, K = (1, 8, 8), 3


def images(count: int, seed: int) -> Split:
    """Draw images whose brightness tells their class."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % K
    x = torch.randint(0, 6, (count, *SHAPE), generator=generator) + 5 * y[:, None, None, None]
    return Split(x.byte(), y)


def rows(count: int, seed: int) -> Split:
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % K
    return Split(torch.randn(count, 4, generator=generator) + y[:, None], y)


def explorer(system: str = "ib-inn", table: bool = False, **settings: Any) -> Explorer:
    """Make one of an untrained model, which knows its class averages."""
    draw = rows if table else images
    train, test = draw(240, 0), draw(60, 1)
    shape, levels = tuple(train.x.shape[1:]), None if table else 17
    data = Dataset("made", train, test, ("a", "<b>", "c"), levels)
    config = flowclf.make_config(system, "made", shape, overrides=settings)
    model = flowclf.build(
        system, shape=shape, classes=K, levels=levels, samples=len(train), **settings
    )
    model.fit_statistics(train.x, train.y)
    model.fit_latents(train.x, train.y)
    if not bool(model.mixture.coordinates.any()) or system == "ib-inn":
        model.mixture.set_means(model.mixture.data_means)
    return Explorer(Task(config, model, data, train, train.take(slice(0, 120)), test), Path("run"))
