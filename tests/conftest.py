"""Settings of each process of the tests."""

import gc

import torch

# A warning that torch gives once a process would fail whichever test came first.
torch.set_warn_always(True)
# While modules are imported there is nothing to collect.
gc.disable()


def pytest_collection_finish() -> None:
    """Keep full collections, of which torch's tracing brings many, from what is never garbage."""
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
    gc.enable()
