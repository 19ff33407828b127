"""The images that stand for classes."""

from __future__ import annotations

import torch
from torch.testing import assert_close

from flowclf.nn.templates import blobs, class_means


def test_class_means_are_averages() -> None:
    x = torch.arange(24, dtype=torch.uint8).view(6, 1, 2, 2)
    y = torch.tensor([0, 1, 0, 1, 1, 1])
    assert_close(class_means(x, y, 2)[1], x[y == 1].float().mean(0))


def test_blobs_lie_apart_within_the_image() -> None:
    images = blobs((3, 28, 20), 10, top=255.0)
    assert images.shape == (10, 3, 28, 20)
    assert images.max() <= 255
    assert images.amax((1, 2, 3)).min() > 200
    flat = torch.nn.functional.normalize(images.flatten(1), dim=1)
    overlap = flat @ flat.T - torch.eye(10)
    assert overlap.max() < 0.2
