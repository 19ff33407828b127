"""One self-contained HTML page about runs, from their folders alone."""

from flowclf.report.collect import Collection, Entry, collect
from flowclf.report.render import render, write_report

__all__ = ["Collection", "Entry", "collect", "render", "write_report"]
