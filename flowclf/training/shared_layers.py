"""Layers that look at a whole batch, or draw for it, where it is shared by several processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from flowclf.support.collectives import all_reduce_mean, empty_for_all_ranks, rank_shard, world_size

__all__ = ["layers_for_all"]


class _Synced(nn.SyncBatchNorm):
    """Normalises by mean and variance of the whole batch: torch's, which is for GPUs, and on CPUs.

    Processes have as many rows each.
    """

    process_group = None

    def forward(self, input: Tensor) -> Tensor:
        alone = not self.training or world_size() == 1
        if alone or input.is_cuda:
            kind = nn.modules.batchnorm._BatchNorm if alone else nn.SyncBatchNorm
            out: Tensor = kind.forward(self, input)
            return out
        x = input.to(torch.promote_types(input.dtype, torch.float32)).transpose(0, 1)
        rows = x.flatten(1)
        mean = all_reduce_mean(rows.mean(1))
        centred = rows - mean[:, None]
        var = all_reduce_mean(centred.square().mean(1))
        self._count(mean.detach(), var.detach(), world_size() * rows.shape[1])
        out = centred * (var + self.eps).rsqrt()[:, None]
        if self.affine:
            out = out * self.weight[:, None] + self.bias[:, None]
        return out.view_as(x).transpose(0, 1).to(input.dtype)

    def _count(self, mean: Tensor, var: Tensor, numbers: int) -> None:
        """Towards the running statistics, as BatchNorm does."""
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = self.momentum
        if share is None:
            share = 1 / int(self.num_batches_tracked)
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(var * (numbers / (numbers - 1)), share)


class _Masked(nn.modules.dropout._DropoutNd):
    """Its mask is one of the whole batch."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or world_size() == 1:
            out: Tensor = super().forward(input)
            return out
        return input * rank_shard(super().forward(empty_for_all_ranks(input).fill_(1)))


class _Dropout(_Masked, nn.Dropout):
    pass


class _Dropout2d(_Masked, nn.Dropout2d):
    pass


FOR_ALL: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: _Synced,
    nn.BatchNorm2d: _Synced,
    nn.BatchNorm3d: _Synced,
    nn.Dropout: _Dropout,
    nn.Dropout2d: _Dropout2d,
}


@contextmanager
def layers_for_all(model: nn.Module, world: int) -> Iterator[None]:
    """Within it BatchNorm and Dropout do on shares of a batch what they do on a whole one.

    Of one process alone they are left as they are. They stay the same objects, which optimiser and
    others hold; only their class changes.
    """
    layers = model.modules() if world > 1 else ()
    changed = [(layer, type(layer)) for layer in layers if type(layer) in FOR_ALL]
    for layer, kind in changed:
        layer.__class__ = FOR_ALL[kind]
    try:
        yield
    finally:
        for layer, kind in changed:
            layer.__class__ = kind
