"""`python -m benchmarks.couplings`."""

import os
import sys

# Read when torch is loaded. Threads of OpenMP that wait spin by default, which makes them 10 to 100
# times slower once another program wants the cores; and the profiler warns of memory that was there
# before it began to count.
ENVIRONMENT = {"GOMP_SPINCOUNT": "1000", "TORCH_CPP_LOG_LEVEL": "ERROR"}

if __name__ == "__main__":
    os.environ.update(ENVIRONMENT | os.environ)
    # Imported only now: it loads torch.
    from benchmarks.couplings.cli import main

    sys.exit(main())
