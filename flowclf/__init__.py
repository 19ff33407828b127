"""Normalizing-flow generative classifiers: one object for p(x), p(x|y) and p(y|x)."""
