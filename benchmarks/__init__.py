"""Benchmarks that a reader can repeat; no test depends on their results."""
