"""The packages that we are measured against; one that is not installed is left out, with a word."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from benchmarks.couplings.case import Provider

__all__ = ["PEERS", "from_peers", "installed", "notice", "tell_of_missing", "version_of"]

PEERS = ("FrEIA", "nflows", "normflows", "zuko")


def notice(text: str) -> None:
    """A line on standard error."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


def installed(peer: str) -> bool:
    """Whether it can be imported."""
    return find_spec(peer) is not None


def tell_of_missing() -> None:
    """A line for every peer whose rows will be missing."""
    for peer in PEERS:
        if not installed(peer):
            notice(f"{peer} is not installed, its rows are left out (pip install 'flowclf[bench]')")


def version_of(package: str) -> str:
    """As installed, or nothing."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def from_peers(makers: Mapping[str, Callable[[], Provider]]) -> list[Provider]:
    """The providers of the peers that are there."""
    return [make() for peer, make in makers.items() if installed(peer)]
