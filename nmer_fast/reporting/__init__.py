"""The report of a run or of a sweep: one HTML page and its pictures."""
