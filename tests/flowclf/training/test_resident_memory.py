"""Training step after step takes no more memory.

    PYTHONPATH=tests python tests/flowclf/training/test_resident_memory.py 2000 [SYSTEM ...]

prints MiB per 1,000 steps, over 2,000 of them after 200 to warm up, of each system.
"""

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from forks import rerun
from small_systems import is_flow
from torch import Tensor

from flowclf.config import make_config
from flowclf.data import load_dataset
from flowclf.systems import SYSTEMS
from flowclf.training import train

STATM = Path("/proc/self/statm")
WARM = 200


def slope(system: str, steps: int) -> float:
    """Return the least-squares slope of the resident memory, MiB per 1,000 steps."""
    found: list[float] = []
    page = os.sysconf("SC_PAGE_SIZE") / 2**20

    def report(step: int, total: int, epoch: int, terms: dict[str, Tensor]) -> None:
        found.append(int(STATM.read_text().split()[1]) * page)

    network: dict[str, Any] = {"kind": "mlp", "hidden": [32]}
    if is_flow(system):
        network |= {"blocks": 2, "dropout": 0.1, "batch_norm": True}
    small = {
        "network": network,
        "data": {"train_size": 200, "test_size": 50},
        # Ten steps an epoch, each of which is shuffled anew.
        "train": {"batch_size": 20, "epochs": (WARM + steps) // 10},
    }
    data = load_dataset("digits")
    train(make_config(system, "digits", data.shape, overrides=[small]), data, report=report)
    memory = torch.tensor(found[WARM:], dtype=torch.float64)
    place = torch.arange(steps, dtype=torch.float64)
    place, memory = place - place.mean(), memory - memory.mean()
    return 1000 * float((place @ memory) / (place @ place))


@pytest.mark.slow
@pytest.mark.skipif(not STATM.exists(), reason="reads /proc")
def test_memory_does_not_grow_with_the_steps() -> None:
    ended = rerun(__file__, "300", "ib-inn")
    slopes = [float(line.split()[1]) for line in ended.stdout.splitlines()]
    assert len(slopes) == 1, ended.stderr
    assert slopes[0] < 1, ended.stdout


def main(steps: int, *systems: str) -> None:
    torch.set_num_threads(1)
    for system in systems or SYSTEMS:
        found = slope(system, steps)
        print(f"{system:10} {found:6.2f} MiB per 1,000 steps", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
