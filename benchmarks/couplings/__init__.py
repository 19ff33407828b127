"""Measured side by side: this package and FrEIA, nflows, normflows and zuko, on equal mathematics.

    python -m benchmarks.couplings [couplings|networks|mixture|all|gpu] [--device cpu|cuda] [--json]

Every provider of a case gets the same numbers, laid out in memory as it likes them, and must give
the same outputs, log-determinants and gradients before it is timed. Nothing else of this package
imports the bench, and only here may the peers be imported, each where it is needed.
"""
