"""Sweeps: the grid of runs (grid), doing one run (work), where runs are done (workers), the results table (table)."""
