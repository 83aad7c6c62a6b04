"""The paper's tables from a sweep's results: published values, significance, and the files they are written to."""
