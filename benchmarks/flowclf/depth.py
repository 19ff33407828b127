"""Error of an inverse at depth 30 at a high learning rate: python -m benchmarks.flowclf.depth

60 steps of Adam at 1e-2 on -log p(x)/d, x being 569 tumours by 30 standardised features, in batches
of 128; each of the 30 blocks transforms both halves (AllInOneBlock: one), by networks of 64 hidden
units. Then the inverse error of 256 of the rows, max and median over them, in standard deviations.
Gradients are clipped to a norm of 8, the default of train.clip_norm, or not at all. Rows go to
results/depth.csv.
"""

from collections.abc import Callable
from functools import partial
from math import inf
from typing import Any

import torch
from FrEIA import modules as freia
from FrEIA.framework import SequenceINN
from torch import Tensor, nn

from benchmarks.flowclf.trained_exactness import table
from benchmarks.measure import forked_rng
from benchmarks.results import append_rows, recorded
from couplings import Affine, RationalQuadratic, SoftClamp, Univariate
from couplings.networks import mlp_network

BLOCKS, HIDDEN, STEPS, RATE, BATCH, ROWS = 30, 64, 60, 1e-2, 128, 256
SEEDS = (0, 1, 2)
# The map, and its inverse.
Flow = tuple[nn.Module, Callable[[Tensor], tuple[Tensor, Tensor]]]


def ours(univariate: Univariate, dims: int, seed: int) -> Flow:
    """Make an `mlp_network` with that map."""
    generator = torch.Generator().manual_seed(seed)
    chain = mlp_network((dims,), generator, blocks=BLOCKS, hidden=(HIDDEN,), univariate=univariate)
    return chain, chain.inverse


def theirs(kind: str, dims: int, seed: int) -> Flow:
    """Stack FrEIA's blocks with their own defaults, and a permutation behind each without one."""
    with forked_rng():
        torch.manual_seed(seed)
        inn = SequenceINN(dims)
        for number in range(BLOCKS):
            inn.append(getattr(freia, kind), subnet_constructor=_subnet)
            if kind == "GLOWCouplingBlock":
                inn.append(freia.PermuteRandom, seed=number)
    return inn, partial(inn, rev=True)


FLOWS: dict[str, Callable[[int, int], Flow]] = {
    "FrEIA GLOWCouplingBlock": partial(theirs, "GLOWCouplingBlock"),
    "FrEIA AllInOneBlock": partial(theirs, "AllInOneBlock"),
    "affine, limit 1": partial(ours, Affine(SoftClamp(limit=1.0, gain=1.0))),
    "affine, limit 0.2": partial(ours, Affine(SoftClamp(limit=0.2, gain=1.0))),
    "spline": partial(ours, RationalQuadratic()),
}
# Each as it is, the spline apart, and with gradients clipped to a norm of 8.
CASES = [name + end for name in FLOWS for end in ("", ", clipped") if name + end != "spline"]


def survey(case: str, seed: int) -> dict[str, Any]:
    """Train one case and return its row."""
    name = case.removesuffix(", clipped")
    make, norm = FLOWS[name], inf if case == name else 8.0
    dataset = table()
    x = torch.cat((dataset.train.x, dataset.test.x))
    x = (x - x.mean(0)) / x.std(0)
    flow, inverse = make(x.shape[1], seed)
    loss = _train(flow, x, norm, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        errors = (inverse(flow(x[:ROWS])[0])[0] - x[:ROWS]).abs().amax(1)
    # A sample that is no number is off by infinity.
    errors = errors.nan_to_num(nan=inf)
    worst, middle = float(errors.max()), float(errors.median())
    settings = {"blocks": BLOCKS, "steps": STEPS, "lr": RATE, "clip_norm": norm}
    found = {"inverse_error": worst, "inverse_error_median": middle, "nats_per_dim": loss}
    return {"case": case, "seed": seed, **settings, **found}


def _train(flow: nn.Module, x: Tensor, norm: float, generator: torch.Generator) -> float:
    """Return -log p(x)/d without its constant, at the last step."""
    parameters = list(flow.parameters())
    optimizer = torch.optim.Adam(parameters, RATE)
    loss = x.new_zeros(())
    for _ in range(STEPS):
        z, log_det = flow(x[torch.randint(len(x), (BATCH,), generator=generator)])
        loss = (0.5 * z.square().sum(1) - log_det).mean() / x.shape[1]
        optimizer.zero_grad()
        loss.backward()
        if norm < inf:  # not a norm of infinity by itself, which is NaN
            nn.utils.clip_grad_norm_(parameters, norm)
        optimizer.step()
    return loss.item()


def _subnet(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, outputs))


if __name__ == "__main__":
    for name in CASES:
        rows = [survey(name, seed) for seed in SEEDS]
        append_rows(recorded("depth.csv"), rows)
        worst = max(row["inverse_error"] for row in rows)
        print(f"{name:34} inverse error up to {worst:.1e}", flush=True)
