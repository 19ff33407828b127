"""`python -m couplings`: versions and the CPU kernels in use; with `build`: compile the kernels."""

import sys

import torch

from couplings.ops import build_native, native

USAGE = "usage: python -m couplings [build]"


def main(arguments: list[str]) -> int:
    """Print what runs, or compile; return the exit status."""
    if arguments not in ([], ["build"]):
        print(USAGE, file=sys.stderr)
        return 2
    if arguments:
        try:
            libraries = build_native.build()
        except (FileNotFoundError, RuntimeError, OSError) as error:
            print(error, file=sys.stderr)
            return 2
        print(f"compiled {', '.join(path.name for path in libraries)}; used from the next start on")
        return 0
    print(f"couplings on torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(native.description())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
