"""One seed in fresh processes: the same weights bit for bit, and nobody else's random numbers."""

import json
import os
import subprocess
import sys

import pytest

from flowclf.systems import SYSTEMS

# Prints, for each system, a digest of its weights and of what it measured after a short training.
TRAIN = """
import hashlib, json, random, sys, tempfile
from pathlib import Path
import numpy, torch
import rich.style  # scikit-learn's data import it, and it draws a number as it is imported

def states():
    return torch.get_rng_state().tolist(), str(numpy.random.get_state()), random.getstate()

random.seed(int(sys.argv[1]))
numpy.random.seed(int(sys.argv[1]))
torch.manual_seed(int(sys.argv[1]))
before = states()
import flowclf
from flowclf.many import Sweep, plan_sweep, run_sweep
from flowclf.systems import SYSTEMS
from hybrid import HYBRID
from small_systems import small

SYSTEMS["hybrid"] = HYBRID  # as the tests' conftest.py has it
data = flowclf.load_dataset("digits")
short = {"data": {"train_size": 60, "test_size": 20}, "train": {"epochs": 1, "batch_size": 20}}
digests = {}
for system in SYSTEMS:
    overrides = [short, small(system, image=True)]
    config = flowclf.make_config(system, "digits", data.shape, seed=7, overrides=overrides)
    model = flowclf.train(config, data).model
    digest = hashlib.sha256(repr(flowclf.evaluate(model, data.test)).encode())
    for value in model.state_dict().values():
        digest.update(value.detach().contiguous().numpy().tobytes())
    digests[system] = digest.hexdigest()
with tempfile.TemporaryDirectory() as folder:
    short |= small("ib-inn", image=True)
    sweep = Sweep("ib-inn", "digits", Path(folder) / "out", (1.0,), overrides=short)
    list(run_sweep(plan_sweep(sweep), workers=1))
assert states() == before, "somebody drew from a global generator"
print(json.dumps(digests))
"""


def digests(seed: int) -> dict[str, str]:
    """Train in a process whose global generators and hashes start elsewhere."""
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, str(seed)],
        env={
            "PYTHONHASHSEED": str(seed),
            "OMP_NUM_THREADS": "1",
            "PATH": "",
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def found() -> list[dict[str, str]]:
    return [digests(seed) for seed in (1, 2)]


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_seed_gives_the_same_weights_in_every_process(
    found: list[dict[str, str]], system: str
) -> None:
    one, other = found
    assert one[system] == other[system]


def test_systems_differ(found: list[dict[str, str]]) -> None:
    assert len(set(found[0].values())) == len(SYSTEMS)
