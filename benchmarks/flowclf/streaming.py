"""A set larger than memory, streamed: python -m benchmarks.flowclf.streaming FOLDER --gib 22"""

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from flowclf.data import write_shards

SHAPE, CLASSES, ROWS = (3, 64, 64), 10, 2**12
SYSTEM = ("gm", "network.kind=mlp", "network.hidden=16", "latent=8")
LOOP = ("train.epochs=1", "train.batch_size=256")


def write_noise(folder: Path, gib: float) -> None:
    """Write images of 12 KiB in shards of 48 MiB, so many GiB in all: noise about a level."""
    shard_bytes = ROWS * int(np.prod(SHAPE))
    count = max(1, round(gib * 2**30 / shard_bytes))
    write_shards(folder, _noise(count, ROWS), _noise(1, 1000), levels=256)


def stream(folder: Path) -> dict[str, float]:
    """Train for an epoch in a process of its own; return its seconds and its peak memory in MiB.

    The peak is that of all resident pages, as the system counts them.
    """
    system, *settings = SYSTEM
    words = [word for each in (*settings, *LOOP) for word in ("--set", each)]
    out = folder / "run"
    command = ["train", system, "--data", str(folder), "--out", str(out), "--no-baselines", *words]
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "flowclf", *command], check=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return {"seconds": time.perf_counter() - start, "peak_mib": peak / 1024}


def _noise(count: int, rows: int) -> Iterator[tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]]:
    generator = np.random.default_rng(0)
    base = generator.integers(0, 128, (rows, *SHAPE), dtype=np.uint8)
    y = np.arange(rows) % CLASSES
    for number in range(count):
        # Another picture in each shard, in no time.
        yield np.roll(base, number, 0) + (12 * y).astype(np.uint8)[:, None, None, None], y


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gib", type=float, default=22.0)
    arguments = parser.parse_args()
    write_noise(arguments.folder, arguments.gib)
    for name, value in stream(arguments.folder).items():
        print(f"{name} {value:.0f}")
