"""BatchNorm and Dropout that treat the shards of several processes as one batch.

Only the class of a layer changes, and only while several processes train (`__class__`): the module
objects that the optimiser, the user and saved models know stay the same.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from couplings.conditioners import Dropout, Dropout2d
from flowclf.support.collectives import all_reduce_mean, empty_for_all_ranks, rank_shard, world_size

__all__ = ["synchronised_layers"]


class _Synced(nn.SyncBatchNorm):
    """BatchNorm over the whole batch: torch's implementation on GPUs, and this one on CPUs.

    All shards have the same number of rows.
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
        numbers = world_size() * rows.shape[1]
        if self.running_mean is not None and self.running_var is not None:
            # As BatchNorm does.
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            share = self.momentum
            share = 1 / int(self.num_batches_tracked) if share is None else share
            self.running_mean.lerp_(mean.detach(), share)
            self.running_var.lerp_(var.detach() * (numbers / (numbers - 1)), share)
        out = centred * (var + self.eps).rsqrt()[:, None]
        if self.affine:
            out = out * self.weight[:, None] + self.bias[:, None]
        return out.view_as(x).transpose(0, 1).to(input.dtype)


class _Masked(nn.modules.dropout._DropoutNd):
    """Dropout with a mask drawn for the whole batch."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or world_size() == 1:
            out: Tensor = super().forward(input)
            return out
        return input * rank_shard(super().forward(empty_for_all_ranks(input).fill_(1)))


class _Dropout(_Masked, nn.Dropout):
    pass


class _Dropout2d(_Masked, nn.Dropout2d):
    pass


class _OwnDropout(_Masked, Dropout):
    pass


class _OwnDropout2d(_Masked, Dropout2d):
    pass


SYNCHRONISED: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: _Synced,
    nn.BatchNorm2d: _Synced,
    nn.BatchNorm3d: _Synced,
    nn.Dropout: _Dropout,
    nn.Dropout2d: _Dropout2d,
    Dropout: _OwnDropout,
    Dropout2d: _OwnDropout2d,
}


@contextmanager
def synchronised_layers(model: nn.Module) -> Iterator[None]:
    """Make BatchNorm and Dropout within the block work on shards as on the whole batch."""
    changed = [(layer, type(layer)) for layer in model.modules() if type(layer) in SYNCHRONISED]
    for layer, kind in changed:
        layer.__class__ = SYNCHRONISED[kind]
    try:
        yield
    finally:
        for layer, kind in changed:
            layer.__class__ = kind
