"""A mixture of K unit Gaussians in D dimensions: densities, evidence and posterior of B latents.

The usual way writes (z[:, None] - means) ** 2, of shape (B, K, D); for 512 latents of CIFAR-10's
3072 dimensions and 1000 classes that is 6.3 GB a temporary, of which its backward needs several.
"""

from collections.abc import Iterator
from dataclasses import replace
from math import log, pi
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.couplings.case import (
    PASSES,
    Case,
    Job,
    Options,
    Pass,
    Provider,
    Tensors,
    compiled,
    notice,
)
from benchmarks.couplings.run import peak_of
from benchmarks.measure import forked_rng
from couplings.functional import mixture_log_prob
from couplings.ops import reference

SIZES = ((128, 10, 3072), (128, 1000, 3072), (512, 1000, 3072))
QUICK = ((4, 3, 5),)
DISTANCE = 5.0  # between two means, as IB-INN has them
SMALL = 4  # latents for which memory is measured, to see what more would take


def mixture_cases(options: Options) -> Iterator[Case]:
    """Make a case of each size, with the providers that memory is enough for."""
    for batch, classes, dims in QUICK if options.quick else SIZES:
        inputs = _inputs(batch, classes, dims, options.device)
        ours = Provider("couplings", lambda *inputs: tuple(mixture_log_prob(*inputs)))
        formula = Provider("couplings.ops.reference", _formula)
        peers = [Provider("broadcast", _broadcast), Provider("torch.distributions", _distributions)]
        able = [peer for peer in peers if _fits(peer, inputs, "forward+backward")]
        yield _case(inputs, [ours, formula, *able, *compiled([ours], options.compiles)])
        rest = [peer for peer in peers if peer not in able and _fits(peer, inputs, "forward")]
        if rest:
            yield replace(_case(inputs, [ours, *rest]), passes=("forward",))


def _case(inputs: Tensors, providers: list[Provider]) -> Case:
    classes, dims = inputs[1].shape
    name, passes = f"mixture of {classes} Gaussians in {dims} dimensions", PASSES[:2]
    # Latents of several thousand dimensions have log-likelihoods of thousands of nats, which the
    # others subtract to get posteriors: the tolerance is what float32 leaves them.
    return Case("mixture", name, inputs, providers, passes=passes, tolerance=1e-3, rounds=3)


def _inputs(batch: int, classes: int, dims: int, device: torch.device) -> Tensors:
    """Draw latents around their means, and log-weights, which are not learned."""
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(classes, dims, generator=generator) * DISTANCE / (2 * dims) ** 0.5
    labels = torch.randint(classes, (batch,), generator=generator)
    z = means[labels] + torch.randn(batch, dims, generator=generator)
    log_weights = torch.randn(classes, generator=generator).log_softmax(0).to(device)
    return z.to(device).requires_grad_(), means.to(device).requires_grad_(), log_weights


def _formula(z: Tensor, means: Tensor, log_weights: Tensor) -> Tensors:
    return reference.mixture(z, means, log_weights, False)


def _broadcast(z: Tensor, means: Tensor, log_weights: Tensor) -> Tensors:
    squares = (0.5 * (z[:, None] - means[None]) ** 2).sum(-1)
    return _bayes(-squares - 0.5 * z.shape[1] * log(2 * pi), log_weights)


def _distributions(z: Tensor, means: Tensor, log_weights: Tensor) -> Tensors:
    """Open up MixtureSameFamily.log_prob, so that components are evaluated only once."""
    from torch.distributions import Independent, Normal

    normal = Normal(means, torch.ones_like(means), validate_args=False)
    components = Independent(normal, 1, validate_args=False)
    return _bayes(components.log_prob(z[:, None]), log_weights)


def _bayes(log_prob_given_class: Tensor, log_weights: Tensor) -> Tensors:
    joint = log_prob_given_class + log_weights
    return log_prob_given_class, joint.logsumexp(1), joint.log_softmax(1)


def _fits(provider: Provider, inputs: Tensors, pass_: Pass) -> bool:
    """Tell whether its peak, measured for a few latents, leaves a fifth of memory at this size."""
    z, *others = inputs
    few = (z.detach()[:SMALL].requires_grad_(), *others)
    case = _case(few, [provider])
    with forked_rng(case.device):
        with torch.no_grad():
            ones = tuple(map(torch.ones_like, provider.forward(*few)))
        peak = peak_of(Job(case, provider, pass_, few, ones))
    needed, free = peak * len(z) / len(few[0]), 0.8 * _free_bytes(case.device)
    if needed > free:
        notice(
            f"{provider.name} is left out at {len(z)} latents, {pass_}: it needs "
            f"{needed / 1e9:.0f} GB, of {free / 1e9:.0f} GB that may be used"
        )
    return needed <= free


def _free_bytes(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    facts = Path("/proc/meminfo")
    lines = facts.read_text("utf-8").splitlines() if facts.exists() else []
    kilobytes = [line.split()[1] for line in lines if line.startswith("MemAvailable")]
    return 1024 * float(kilobytes[0]) if kilobytes else float("inf")
