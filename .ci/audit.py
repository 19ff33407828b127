"""Audit what is installed, without a network: versions, files, and releases known to be bad.

    python .ci/audit.py

Each distribution has the version that constraints.txt pins, each of its files the sha256 that its
RECORD states, and none is a release that was withdrawn. Exits 1 with a line for each that is not.
"""

import hashlib
import re
import sys
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from importlib.metadata import Distribution, PackagePath, distributions
from pathlib import Path

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
# Malicious uploads, since removed.
WITHDRAWN = {("lightning", "2.6.2"), ("lightning", "2.6.3")}
# Of the virtual environment, and ourselves.
UNPINNED = {"pip", "setuptools", "flowclf"}


def findings(distribution: Distribution, pins: dict[str, str]) -> Iterator[str]:
    """Yield what is wrong with a distribution."""
    name, version = normal(distribution.metadata["Name"]), distribution.version
    if name not in UNPINNED and pins.get(name) != version.split("+")[0]:
        yield f"{name} {version}: expected {pins.get(name, 'a pin in constraints.txt')}"
    if (name, version) in WITHDRAWN:
        yield f"{name} {version}: withdrawn as malicious"
    for file in distribution.files or ():
        if file.hash is not None and file.hash.mode == "sha256" and file.suffix != ".pyc":
            yield from altered(name, file, file.hash.value)


def altered(name: str, file: PackagePath, expected: str) -> Iterator[str]:
    """Yield a line if a file is not there, or not what was installed."""
    path = Path(str(file.locate()))
    if not path.is_file():
        yield f"{name}: {file} is missing"
        return
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").digest()
    if urlsafe_b64encode(digest).decode().rstrip("=") != expected:
        yield f"{name}: {file} is not what was installed"


def normal(name: str) -> str:
    """Return a name in the form in which names are compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> int:
    """Print what is wrong, and return the exit status."""
    lines = CONSTRAINTS.read_text("utf-8").splitlines()
    pins = {normal(name): version for name, _, version in (line.partition("==") for line in lines)}
    installed = list(distributions())
    wrong = sorted(line for one in installed for line in findings(one, pins))
    print(*wrong, f"{len(installed)} distributions, {len(wrong)} findings", sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
