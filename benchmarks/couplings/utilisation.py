"""How close a training step comes to the machine: its rate of FLOPs, and where its time goes.

    utilisation = FLOPs of forward and backward / median seconds / rate of the fastest probe

A large convolution and a matrix product are the probes, timed in turn with the step in its threads
and precision. Only products have FLOPs, two a multiply-add; rotations are products.
"""

from collections.abc import Callable, Iterator
from functools import partial
from statistics import median

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.couplings.networks import BATCH, BLOCKS, QUICK_SHAPE, SHAPE, loss
from benchmarks.measure import CPU, forked_rng, seconds_of
from benchmarks.results import Row
from couplings import Chain
from couplings.networks import conv_network, paper_network

PRESET_BATCH = 128
Call = Callable[[], object]
# In names of operators and of autograd's nodes; of nested ones the outermost that is known counts.
KINDS = {
    "convolutions": ("conv", "linear", "mm", "matmul"), "normalisation": ("norm",),
    "couplings": ("affine_couple", "spline_couple"), "rotations": ("rotate",),
}  # fmt: skip


def utilisation(quick: bool, seconds: float) -> Iterator[Row]:
    """Yield a row for each network and precision on the CPU, measured for about `seconds`."""
    for dtype in (torch.float32, *[torch.bfloat16] * torch.cpu._is_avx512_bf16_supported()):
        for name, network in _networks(quick):
            batch = BATCH if quick or "paper" in name else PRESET_BATCH
            x = torch.randn(batch, *network.in_shape, generator=torch.Generator().manual_seed(1))
            shape, precision = "x".join(map(str, x.shape)), str(dtype).removeprefix("torch.")
            row: Row = {"network": name, "shape": shape, "dtype": precision}
            calls: list[Call] = [partial(_step, network, x, dtype), *_probes(dtype, quick)]
            with forked_rng():
                row |= _measured(calls, seconds) | shares(calls[0])
            yield row


def line(row: Row) -> str:
    """Lay out a row for people."""
    parts = ", ".join(f"{kind} {row[kind]:.0%}" for kind in (*KINDS, "rest"))
    return "{network} {dtype}: {utilisation:.0%} of {gflops:.0f} GFLOP/s; ".format_map(row) + parts


def flops(call: Call) -> int:
    """Count the FLOPs of the products in a call, and in the backward that it runs."""
    from torch.utils.flop_counter import FlopCounterMode  # loads Triton, where it is

    rotations = torch.ops.couplings.rotate, torch.ops.couplings.rotate_backward
    product = dict.fromkeys(rotations, lambda x, *_, **__: 2 * x.numel() * x[1])
    with FlopCounterMode(None, 0, False, product) as count:
        call()
    return int(count.get_total_flops())


def shares(call: Call) -> dict[str, float]:
    """Return each kind's share of a call's time; Python's own belongs to the rest."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler, record_function("step"):
        for _ in range(3):
            call()
    times = dict.fromkeys((*KINDS, "rest"), 0.0)
    for event in profiler.events():
        found, around = "rest", event
        while around is not None:
            name, around = around.name.lower(), around.cpu_parent
            found = next((k for k in KINDS if any(part in name for part in KINDS[k])), found)
        times[found] += event.self_cpu_time_total
    return {kind: time / sum(times.values()) for kind, time in times.items()}


def _measured(calls: list[Call], seconds: float) -> Row:
    work = [flops(call) for call in calls]
    rounds = min(max(int(seconds / sum(seconds_of(call, CPU) for call in calls)), 3), 100)
    turns = [[seconds_of(call, CPU) for call in calls] for _ in range(rounds)]
    times = [median(each) for each in zip(*turns, strict=True)]
    own, *rates = (n / time for n, time in zip(work, times, strict=True))
    facts = {"gflop": work[0] / 1e9, "median_ms": 1e3 * times[0], "gflops": max(rates) / 1e9}
    return facts | {"utilisation": own / max(rates)}


def _step(network: Chain, x: torch.Tensor, dtype: torch.dtype) -> object:
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        z, log_det = network(x)
    return torch.autograd.grad(loss(z, log_det, x[0].numel()), [*network.parameters()])


def _probes(dtype: torch.dtype, quick: bool) -> list[Call]:
    size = 8 if quick else 32
    matrix = torch.ones(64 * size, 64 * size, dtype=dtype)
    x = torch.ones(size, 4 * size, size, size, dtype=dtype).to(memory_format=torch.channels_last)
    weight = torch.ones(4 * size, 4 * size, 3, 3, dtype=dtype)
    return [partial(torch.mm, matrix, matrix), partial(torch.conv2d, x, weight, padding=1)]


def _networks(quick: bool) -> Iterator[tuple[str, Chain]]:
    make = partial(conv_network, generator=torch.Generator().manual_seed(0))
    if quick:
        return (yield "image", make(QUICK_SHAPE, blocks=(1,)))
    yield "mnist", make((1, 28, 28), blocks=(2, 3), width=(32, 64), activation="silu")
    yield "image", make(SHAPE, width=(32, 48))
    colour = partial(make, blocks=(3, 4, 3), width=(48, 96, 160), dense_blocks=0, whiten=0.5)
    yield "cifar10-small", colour(SHAPE, activation="silu")
    yield "paper-cifar10", paper_network(SHAPE, **make.keywords, variant="cifar", blocks=BLOCKS)
