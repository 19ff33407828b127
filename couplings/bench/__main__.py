"""`python -m couplings.bench`."""

import os
import sys

from couplings.bench.cli import main

# Threads of OpenMP that wait spin by default, which makes them 10 to 100 times slower once another
# program wants the cores. It is read when torch is loaded, so the program starts itself again.
SPIN = "GOMP_SPINCOUNT"

if __name__ == "__main__":
    if sys.platform == "linux" and SPIN not in os.environ:
        os.environ[SPIN] = "1000"
        os.execv(sys.executable, [sys.executable, "-m", "couplings.bench", *sys.argv[1:]])
    sys.exit(main())
