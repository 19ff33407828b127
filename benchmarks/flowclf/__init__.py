"""Measured claims: each bench runs a fixed task and appends its rows to a CSV in the repository."""
