"""Decisions for single inputs: a label, a set of labels, a p-value, or "never seen"."""

from flowclf.decide.decider import FILE, Decider, Decisions, Drift

__all__ = ["FILE", "Decider", "Decisions", "Drift"]
