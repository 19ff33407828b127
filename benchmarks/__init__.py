"""Measurements against peers and papers. They run from a checkout; the wheel has none."""
