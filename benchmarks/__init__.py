"""What was measured against peers and papers. Runs from a checkout; not part of the wheel."""
