"""Cost of a training step from MNIST to ImageNet sizes: python -m benchmarks.flowclf.scaling

The model is an IB-INN without dense couplings, which are too large at 150,528 dimensions: couplings
are convolutional down to 7 × 7 or 8 × 8 positions, a cosine transform follows, and the constant
terms of its channels have class means of their own where `mixture.rank` is set. Rows go to
results/scaling.csv.
"""

import tempfile
import time
import timeit
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import distributed, nn
from torch.multiprocessing.spawn import spawn

from benchmarks.measure import peak_bytes
from benchmarks.results import append_rows, recorded
from couplings import Chain
from couplings.core import Shape
from couplings.memory import MODES, Memory
from flowclf.classifier import GenerativeClassifier
from flowclf.models import build
from flowclf.support.seeding import generator_for


@dataclass(frozen=True)
class Case:
    """A size: couplings and width of each level, and settings of the mixture."""

    shape: Shape
    classes: int
    batch: int
    blocks: Sequence[int]
    width: Sequence[int]
    mixture: Mapping[str, int] = field(default_factory=dict)


IMAGENET = Case((3, 224, 224), 1000, 4, (1, 3, 4, 6, 3), (32, 64, 128, 256, 512))
CASES = {
    "28²": Case((1, 28, 28), 10, 128, (4, 4), (32, 64)),
    "32²": Case((3, 32, 32), 100, 64, (4, 4), (32, 64)),
    "64²": Case((3, 64, 64), 200, 16, (2, 4, 4), (32, 64, 128)),
    "224², rank 128": replace(IMAGENET, mixture={"rank": 128, "full_dims": 3072}),
    "224², full means": IMAGENET,
}
REPEATS = 3
NUMBERS = 2**24
PROCESSES = 2


def scaling_model(case: Case) -> GenerativeClassifier:
    """Build the untrained IB-INN of a case, in training mode."""
    return build(
        "ib-inn",
        shape=case.shape,
        classes=case.classes,
        preprocess={"marginal": 0.0, "per": "range"},
        network={"blocks": case.blocks, "width": case.width, "dense_blocks": 0, "dct": True},
        mixture=case.mixture,
    ).train()


def measure_case(name: str) -> dict[str, Any]:
    """Return parameters; CPU milliseconds of loss and backward, and MiB, both for each image.

    Memory is the difference between the peaks of a batch and of half of it.
    """
    case = CASES[name]
    model, half = scaling_model(case), case.batch // 2
    row: dict[str, Any] = {}
    for part, module in (("network", model.encoder), ("mixture", model.mixture)):
        row[part] = sum(p.numel() for p in module.parameters() if p.requires_grad)
    row["state_mib"] = sum(v.nbytes for v in model.state_dict().values()) / 2**20
    for memory in MODES[:2]:
        step = partial(_step, model, case, memory)
        peaks = []
        for batch in (half, case.batch):
            model.zero_grad()
            peaks.append(peak_bytes(partial(step, batch)))
        row[f"{memory}_mib_per_image"] = (peaks[1] - peaks[0]) / half / 2**20
        seconds = _seconds(partial(step, case.batch), time.process_time)
        row[f"{memory}_ms_per_image"] = 1000 * seconds / case.batch
    return {"case": name, **row, "batch": case.batch, "threads": torch.get_num_threads()}


def optimizer_seconds(numbers: int = NUMBERS) -> float:
    """Return the CPU seconds of AdamW for each parameter."""
    parameter = nn.Parameter(torch.zeros(numbers))
    parameter.grad = torch.ones(numbers)
    optimizer = torch.optim.AdamW([parameter], fused=True)
    optimizer.step()
    return _seconds(optimizer.step, time.process_time) / numbers


def all_reduce_seconds(numbers: int = NUMBERS) -> float:
    """Return the seconds of gloo for each parameter, between two processes of this machine."""
    with tempfile.TemporaryDirectory() as folder:
        meeting, result = Path(folder) / "meeting", Path(folder) / "seconds"
        spawn(_all_reduce, (meeting, result, numbers), PROCESSES)
        return float(result.read_text("ascii")) / numbers


def _all_reduce(rank: int, meeting: Path, result: Path, numbers: int) -> None:
    distributed.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=PROCESSES
    )
    gradient = torch.zeros(numbers)
    distributed.all_reduce(gradient)
    seconds = _seconds(lambda: distributed.all_reduce(gradient))
    if rank == 0:
        result.write_text(str(seconds), "ascii")
    distributed.destroy_process_group()


def _step(model: GenerativeClassifier, case: Case, memory: Memory, batch: int) -> None:
    """Compute the loss of so many images and its gradients, which are gone before."""
    assert isinstance(model.encoder.network, Chain)
    model.encoder.network.set_memory(memory)
    model.zero_grad()
    generator = generator_for(0, "scaling")
    x = torch.randint(256, (batch, *case.shape), generator=generator, dtype=torch.uint8)
    y = torch.randint(case.classes, (batch,), generator=generator)
    model.loss(x, y, generator)["total"].backward()


def _seconds(job: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    return median(timeit.repeat(job, timer=clock, number=1, repeat=REPEATS))


if __name__ == "__main__":
    print(f"AdamW: {1e9 * optimizer_seconds():.2f} ns a parameter")
    print(f"all-reduce, gloo, 2 processes: {1e9 * all_reduce_seconds():.2f} ns a parameter")
    for name in CASES:
        row = measure_case(name)
        append_rows(recorded("scaling.csv"), [row])
        print(row)
