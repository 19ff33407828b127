"""One pass or one for each dimension: drawing samples by couplings and by autoregressive flows.

    python -m benchmarks.couplings.sampling [--dims 784] [--samples 64] [--threads 1]

Untrained flows of four maps, whose networks have one hidden layer of 256 (a two-sided coupling has
two networks). The inverse of a coupling costs what the coupling does; an autoregressive map is
inverted dimension by dimension. Providers take turns; ratios are of medians, to `couplings`.
"""

import argparse
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from benchmarks.measure import CPU, forked_rng, seconds_of
from benchmarks.results import Row, append_rows
from couplings.networks import mlp_network

MAPS, HIDDEN, ROUNDS = 4, 256, 3
Pair = tuple[Callable[[Tensor], object], Callable[[Tensor], object]]
"""Density of x (B, D), and samples from noise (B, D)."""


def ours(dims: int) -> Pair:
    """Build a chain of couplings."""
    chain = mlp_network((dims,), torch.Generator().manual_seed(0), blocks=MAPS, hidden=[HIDDEN])
    return chain.eval(), chain.inverse


def zuko_flow(dims: int) -> Pair:
    """Build zuko's masked autoregressive flow."""
    import zuko

    flow = zuko.flows.MAF(dims, transforms=MAPS, hidden_features=(HIDDEN,))
    transform = flow().transform
    return transform.call_and_ladj, transform.inv


def nflows_flow(dims: int) -> Pair:
    """Build a masked autoregressive flow of nflows."""
    from nflows import transforms

    each = [
        transforms.MaskedAffineAutoregressiveTransform(
            dims, HIDDEN, num_blocks=1, use_residual_blocks=False
        )
        for _ in range(MAPS)
    ]
    flow = transforms.CompositeTransform(each).eval()
    return flow, flow.inverse


FLOWS = {"couplings": ours, "zuko MAF": zuko_flow, "nflows MAF": nflows_flow}


@torch.no_grad()
def main() -> None:
    """Time all flows, print and record the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dims", type=int, default=784)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    x = torch.randn(given.samples, given.dims, generator=torch.Generator().manual_seed(0))
    with forked_rng():
        flows = {name: make(given.dims) for name, make in FLOWS.items()}
    times = {name: (list[float](), list[float]()) for name in flows}
    for _, (name, calls) in product(range(ROUNDS), flows.items()):
        for found, call in zip(times[name], calls, strict=True):
            found.append(seconds_of(partial(call, x), CPU))
    usual = [median(each) for each in times["couplings"]]
    rows: list[Row] = []
    for name, pair in times.items():
        forward, sampling = (median(each) for each in pair)
        row: Row = {"flow": name, **vars(given)}
        row |= {"density_seconds": forward, "sampling_seconds": sampling}
        row |= {"density_ratio": forward / usual[0], "sampling_ratio": sampling / usual[1]}
        rows.append(row)
        print(
            f"{name:12} density {1e3 * forward:8.1f} ms ({row['density_ratio']:.2f} x), "
            f"{given.samples} samples {1e3 * sampling:8.1f} ms ({row['sampling_ratio']:.2f} x)"
        )
    append_rows(Path(__file__).with_name("sampling.csv"), rows)


if __name__ == "__main__":
    main()
