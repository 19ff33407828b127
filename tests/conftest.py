"""Settings of each process of the tests."""

import gc
import os

# Two threads on two busy cores are many times slower than one, also in processes that tests start.
os.environ["OMP_NUM_THREADS"] = "1"

import torch  # noqa: E402

# A warning that torch gives once a process would fail whichever test came first.
torch.set_warn_always(True)
# While modules are imported there is nothing to collect.
gc.disable()


def pytest_collection_finish() -> None:
    """Keep full collections, of which torch's tracing brings many, from what is never garbage."""
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
    gc.enable()
