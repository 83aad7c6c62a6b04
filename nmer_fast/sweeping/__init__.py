"""Grids of runs: what they are (grid), how one is done (work), where (workers), and what comes out (table)."""
