"""The command line: `flowclf`."""

from flowclf.cli.app import main

__all__ = ["main"]
